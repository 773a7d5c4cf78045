"""Moves the sharp end of nano's slider towards a model that was trained on from it.

python experiments/202611_picture/go_on.py NANO MODEL PHOTOS.jsonl OUT --place 0.5

Fidelity 0 stays; fidelity 1 lies on the line from NANO's to MODEL. README.md says why
it is not MODEL itself.
"""

import argparse
from pathlib import Path

from release import point, write

from linearsr_jax.pretrained.model_folder import load_pretrained


def main() -> None:
    """Writes the model folder OUT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nano", help="bundled model or model folder, with a slider")
    parser.add_argument("model", help="model folder, trained from NANO's fidelity 1")
    parser.add_argument("photos", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--place", type=float, required=True)
    args = parser.parse_args()
    before, end = load_pretrained(args.nano), load_pretrained(args.model)
    write(
        args.output,
        low=before.mean_experts[0],
        high=point(before.experts[0], end.experts[0], args.place),
        end=end,
        photos=args.photos,
        slider={"before": before.training["slider"], "place": args.place},
        default_fidelity=before.default_fidelity,
    )


if __name__ == "__main__":
    main()
