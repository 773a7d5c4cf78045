"""Upscales real images that have no truth: NIQE for each method, and sheets to look at.

    python experiments/202611_picture_table/unseen.py --images FOLDER --rivals RIVALS \
        --out OUT METHOD ...

METHOD is a row of the table that is not ours, as "bicubic" or "realesr-general-x4v3",
or a model as NAME=FOLDER[@STEPS[@FIDELITY]]. Prints the mean of NIQE and its error for
each, and writes OUT/niqe.csv, a row for each image, and a strip of the methods' outputs
for each image.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from methods import BASELINES, find_rivals, parse_model

from linearsr_jax.core.image_io import find_images, read_image, write_image
from linearsr_jax.core.images import Image
from linearsr_jax.metrics import get_metrics


def main() -> None:
    """Prints a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--rivals", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("methods", nargs="+", metavar="METHOD")
    args = parser.parse_args()
    others = [*BASELINES, *find_rivals(args.rivals, threads=2)]
    by_name = {method.name: method for method in others}
    methods = [by_name.get(text) or parse_model(text) for text in args.methods]
    (niqe,) = get_metrics(("niqe",))
    score = niqe.load()
    images = {p.stem: read_image(p).rgb for p in find_images(args.images)}
    outputs: dict[str, list[np.ndarray]] = {name: [] for name in images}
    columns = []
    for method in methods:
        upscale = method.load()
        values = []
        for name, image_lr in images.items():
            outputs[name].append(upscale(image_lr))
            values.append(score(outputs[name][-1]))
        columns.append(values)
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        print(f"{method.name}: NIQE {np.mean(values):.2f} ± {error:.2f}", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "niqe.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", *(method.name for method in methods)])
        table.writerows(zip(images, *columns, strict=True))
    for name, strip in outputs.items():
        sheet = Image(np.concatenate(strip, axis=1))
        write_image(args.out / f"{name}.png", sheet, overwrite=True)


if __name__ == "__main__":
    main()
