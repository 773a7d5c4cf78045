"""Joins the ends of the slider into a model folder, with card and credits.

python experiments/202611_picture/release.py MEAN PERCEPTUAL PHOTOS.jsonl OUT \
    --default-fidelity 0.75
"""

import argparse
import json
from pathlib import Path

from linearsr_jax.pretrained.model_folder import load_pretrained, save_pretrained

HERE = Path(__file__).parent


def release(
    mean: Path, perceptual: Path, photos: Path, output: Path, default_fidelity: float
) -> None:
    """Writes a model folder with both sets of weights.

    Args:
      mean, perceptual: model folders, fidelity 0 and 1.
      photos: photos.jsonl of the photographs, with their licences.
      output: model folder to write.
      default_fidelity: where the slider stands if nobody moves it.

    Raises:
      ValueError: the two models are of different sizes.
    """
    low, high = load_pretrained(mean), load_pretrained(perceptual)
    if (low.preset, low.boundaries) != (high.preset, high.boundaries):
        raise ValueError(f"{mean} and {perceptual} hold models of different sizes")
    licences = {}
    for line in photos.read_text().splitlines():
        photo = json.loads(line)
        if photo["file"].startswith("train/"):
            licences[Path(photo["file"]).name] = photo["licence"]
    credits = [f"- {name}: {licences[name]}" for name in sorted(licences)]
    heading = f"## The {len(credits)} photographs"
    card = "\n".join([(HERE / "card.md").read_text(), heading, *credits, ""])
    save_pretrained(
        output,
        high.experts,
        high.preset,
        high.codec,
        boundaries=high.boundaries,
        training=high.training | {"files": sorted(licences), "mean": low.training},
        card=card,
        mean_experts=low.experts,
        default_fidelity=default_fidelity,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("mean", "perceptual", "photos", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--default-fidelity", type=float, default=1.0)
    arguments = parser.parse_args()
    release(**vars(arguments))
