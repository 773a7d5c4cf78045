"""Reads a model folder's config.json, whose every field is checked here.

The file may come from anywhere, so nothing in it is believed: not its size, nor the
types of its fields, nor that they fit together.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from linearsr_jax.codecs.loading import CODECS
from linearsr_jax.core.checked_fields import (
    FieldError,
    Ranges,
    check_fields,
    check_value,
)
from linearsr_jax.core.files import read_bounded
from linearsr_jax.core.limits import MAX_STEPS
from linearsr_jax.core.scale import SCALE
from linearsr_jax.diffusion.experts import check_boundaries
from linearsr_jax.diffusion.flow import PREDICTIONS
from linearsr_jax.diffusion.samplers import SOLVERS
from linearsr_jax.models.presets import TAG_COUNT, Preset

CONFIG_FILE = "config.json"
FORMAT = 1
# Fields of presets that older folders name differently.
_RENAMED_FIELDS = {"sigma_max": "unshifted_start"}
# The bundled models' configs have 20 kB, most of it the names of photographs.
_MAX_BYTES = 64_000_000
_MAX_EXPERTS = 64
# Far beyond any model there is, and small enough that no size overflows.
_PRESET_RANGES: Ranges = {
    "width": (1, 65536),
    "depth": (1, 1024),
    "heads": (1, 4096),
    "cross_heads": (1, 4096),
    "mlp_ratio": (0.01, 64),
    "condition_features": (1, 65536),
    "codec_factor": (SCALE, 8 * SCALE),
    "latent_channels": (1, 65536),
    "stem_widths": (1, 65536),
    "shift": (0.01, 100),
    "sampling_shift": (0.01, 100),
    "unshifted_start": (0.01, 1),
    "default_steps": (1, MAX_STEPS),
    "tag_count": (0, TAG_COUNT),
    "position_extent": (0.01, 65536),
    "attention_floor": (0, 1),
    "stem_blocks": (0, 256),
}
NO_TAGGER = "none"
# Taggers that come with the package; a folder cannot name one outside it.
_TAGGERS = (NO_TAGGER, "light")
_CHOICES = {"codec": CODECS, "prediction": PREDICTIONS, "solver": SOLVERS}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The contents of config.json.

    Attributes:
      preset: sizes, and the meaning of the output.
      codec: description for `codecs.make_codec`, which checks its settings.
      boundaries: noise levels between the experts.
      training: record of the training; its "tags" are those that were seen.
      default_fidelity: where the slider stands; None for a model without one.
      tagger: tagger that `linearsr upscale` runs unless told otherwise, "none" or
        "light"; no field of most folders.
    """

    preset: Preset
    codec: dict[str, Any]
    boundaries: tuple[float, ...]
    training: dict[str, Any]
    default_fidelity: float | None
    tagger: str


def read_config(folder: Path) -> ModelConfig:
    """Reads the config of a model folder.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is no regular file, too large, no JSON, of another format, or a
        field is missing, unknown, of another type, out of range or does not fit the
        others.
    """
    try:
        config = json.loads(read_bounded(folder / CONFIG_FILE, _MAX_BYTES))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(config, dict):
        raise ValueError("must be an object")
    if config.get("format") != FORMAT:
        raise ValueError(
            f"format {config.get('format')!r:.80}; this version reads {FORMAT}"
        )
    preset = _preset(config.get("preset"))
    fidelity = check_value(
        "default_fidelity", config.get("default_fidelity"), float | None, (0, 1)
    )
    # Older folders lack the boundaries and have one expert.
    levels = check_value(
        "boundaries", config.get("boundaries", []), tuple[float, ...], (0, 1)
    )
    if len(levels) >= _MAX_EXPERTS:
        raise FieldError(f"boundaries separate more than {_MAX_EXPERTS} experts")
    codec = check_value("codec", config.get("codec"), dict)
    if codec.get("name") != preset.codec:
        raise FieldError(
            f"codec is {codec.get('name')!r:.80}, and the preset's is {preset.codec}"
        )
    training = check_value("training", config.get("training"), dict)
    check_value("tags", training.get("tags", []), tuple[str, ...])
    tagger = check_value("tagger", config.get("tagger", NO_TAGGER), str)
    if tagger not in _TAGGERS:
        raise FieldError(f"tagger must be one of {', '.join(_TAGGERS)}: {tagger:.80}")
    boundaries = check_boundaries(levels)
    return ModelConfig(preset, codec, boundaries, training, fidelity, tagger)


def _preset(fields: Any) -> Preset:
    if isinstance(fields, dict):
        fields = {_RENAMED_FIELDS.get(name, name): fields[name] for name in fields}
    preset = Preset(**check_fields(Preset, fields, _PRESET_RANGES))
    for name, choices in _CHOICES.items():
        if (value := getattr(preset, name)) not in choices:
            raise FieldError(f"{name} must be one of {', '.join(choices)}: {value:.80}")
    for heads in ("heads", "cross_heads"):
        if preset.width % getattr(preset, heads):
            raise FieldError(
                f"{heads} must divide width {preset.width}: {getattr(preset, heads)}"
            )
    factor = preset.codec_factor // SCALE
    if factor * SCALE != preset.codec_factor or factor & (factor - 1):
        raise FieldError(
            f"codec_factor must be {SCALE} times a power of two: {preset.codec_factor}"
        )
    return preset
