"""Writes the model card of a released model from the record of its run."""

from typing import Any


def model_card(training: dict[str, Any]) -> str:
    """Writes a model card in Markdown.

    Args:
      training: record of the run, as in the config of a model folder: config, step,
        files and, in runs that have them, esgf, rewinds and origin.
    """
    config = training["config"]
    lines = [
        f"# LinearSR {config['preset']}",
        "",
        "x4 super-resolution of photographs, trained with linearsr_jax: "
        f"{training['step']} steps of {config['batch_size']} crops of "
        f"{config['data']['crop_size']} HR pixels, degraded by "
        f"{_mixture(config['data'])}.",
        "",
        "It makes detail up where the input has none. Do not use it where that "
        "matters: evidence, medicine, reading small print.",
        "",
        *_stages(training),
        f"Trained on {len(training['files'])} photographs:",
        "",
        *(f"- {name}" for name in training["files"]),
        "",
    ]
    return "\n".join(lines)


def _mixture(data) -> str:
    weights = data.get("degradations")
    if weights is None:
        # As runs were described before there were mixtures; nano's has no name.
        share = data["bicubic_probability"]
        weights = {"bicubic": share, data.get("degradation", "light"): 1 - share}
    total = sum(weights.values())
    shares = [f"{w / total:.0%} {name}" for name, w in weights.items() if w]
    return ", ".join(shares)


def _stages(training) -> list[str]:
    """Lists the stages, earliest first; empty for a single stage from scratch."""
    last = training | {"only": training["config"]["optimizer"].get("only")}
    stages = [_describe(last, training["config"].get("expert_boundaries", ()))]
    origin = training.get("origin")
    while origin:
        stages.insert(0, _describe(origin, origin["expert_boundaries"]))
        origin = origin["origin"]
    if len(stages) == 1:
        return []
    numbered = [f"{n}. {stage}" for n, stage in enumerate(stages, 1)]
    return ["Stages, each from the weights of the one before:", "", *numbered, ""]


def _describe(stage, boundaries) -> str:
    experts = "one expert"
    if boundaries:
        *most, last = (f"{b:g}" for b in boundaries)
        at = f"{', '.join(most)} and {last}" if most else last
        experts = f"{len(boundaries) + 1} experts, split at {at}"
    esgf, rewinds = stage.get("esgf") or {}, stage.get("rewinds") or []
    at = "unknown steps" if stage["step"] is None else f"step {stage['step']}"
    parts = [experts, at]
    if "knee_step" in esgf:
        chosen = "by hand" if esgf["by"] == "hand" else "by esgf"
        parts.append(f"the knee, chosen {chosen}, of {esgf['trained_to']}")
    elif "found" in esgf:
        knee = esgf["found"]["knee_step"]
        parts.append("no knee found" if knee is None else f"after a knee at {knee}")
    if rewinds:
        parts.append(f"{len(rewinds)} rewinds")
    if only := stage.get("only"):
        parts.append(f"of which only {', '.join(only)} were trained")
    return ", ".join(parts)
