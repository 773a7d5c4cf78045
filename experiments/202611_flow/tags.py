"""Measures what tags change: right ones, another photograph's, none.

python experiments/202611_flow/tags.py SET TAGS.jsonl [MODEL]

SET has HR and LR of crops of photographs, TAGS.jsonl is a cache of `linearsr tag` of
the photographs. Prints the mean difference to no tags, and its standard error, in
PSNR-Y and LPIPS; photographs without tags are left out.
"""

import json
import sys
from pathlib import Path

import numpy as np

from linearsr_jax import Upscaler
from linearsr_jax.core.image_io import read_image
from linearsr_jax.metrics import get_metrics


def main(data: str, cache: str, model: str = "nano-flow") -> None:
    """Prints a line for each number of steps and kind of tags."""
    lines = map(json.loads, Path(cache).read_text().splitlines())
    tags = {Path(x["file"]).stem: [tag for tag, _ in x["tags"]] for x in lines}
    names = [name for name in sorted(tags) if tags[name]]
    others = dict(zip(names, names[1:] + names[:1], strict=True))
    upscaler = Upscaler.from_pretrained(model)
    scores = [metric.load() for metric in get_metrics(("psnr", "lpips"))]
    for steps in (1, 4):
        found = {"none": [], "right": [], "another's": []}
        for name in names:
            image_lr, image_hr = (
                read_image(Path(data) / side / f"{name}.png").rgb
                for side in ("LR", "HR")
            )
            given = ([], tags[name], tags[others[name]])
            for kind, told in zip(found, given, strict=True):
                sr = upscaler(image_lr, steps=steps, tags=told)
                found[kind].append([score(sr, image_hr) for score in scores])
        for kind in ("right", "another's"):
            change = np.subtract(found[kind], found["none"])
            error = np.std(change, axis=0, ddof=1) / np.sqrt(len(names))
            cells = zip(("PSNR", "LPIPS"), change.mean(0), error, strict=True)
            text = ", ".join(f"{n} {x:+.4f} ± {e:.4f}" for n, x, e in cells)
            print(f"{steps} steps, {kind} tags, {len(names)} images: {text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
