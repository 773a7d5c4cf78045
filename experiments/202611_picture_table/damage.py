"""Measures what noise and JPEG in the input leave in flat areas of the output.

    python experiments/202611_picture_table/damage.py --benchmarks BENCHMARKS \
        --photos PHOTOS --rivals RIVALS --work WORK NAME=FOLDER[@STEPS[@FIDELITY]] ...

The photographs of val reduced bicubically, as in the table, with Gaussian noise of so
many 8-bit levels, or after a JPEG of that quality. Prints for each method the root mean
square difference from the truth's luma, in levels, over the flattest quarter of the
truth's 32x32 blocks, the mean over the photographs.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from methods import BASELINES, find_rivals, parse_model
from PIL import Image
from sets import make_sets

from linearsr_jax.core.image_io import read_image
from linearsr_jax.evaluation.folders import find_folders, match_images
from linearsr_jax.metrics.grid import BLOCK, LUMA, split_squares

RIVAL = "realesr-general-x4v3"
DAMAGES = {
    "none": None,
    **{f"noise {level}": ("noise", level) for level in (6, 12, 20)},
    **{f"JPEG {quality}": ("jpeg", quality) for quality in (75, 50, 30)},
}


def damage(image_lr: np.ndarray, kind: tuple[str, int] | None) -> np.ndarray:
    """Adds noise, the same for every method, or saves as a JPEG and reads it."""
    if kind is None:
        return image_lr
    name, amount = kind
    if name == "noise":
        noise = amount * np.random.default_rng(0).standard_normal(image_lr.shape)
        return np.clip(np.rint(image_lr + noise), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image_lr).save(file, "JPEG", quality=amount)
    return np.asarray(Image.open(file))


def error_in_flat_areas(image: np.ndarray, image_hr: np.ndarray) -> float:
    """Root mean square difference in the flattest quarter of the truth's blocks."""
    truth = split_squares(image_hr @ LUMA, BLOCK)
    flattest = np.argsort(truth.std(axis=(1, 2)), kind="stable")[: len(truth) // 4]
    off = split_squares(image @ LUMA, BLOCK)[flattest] - truth[flattest]
    return float(np.sqrt(np.mean(off**2)))


def main() -> None:
    """Prints a row of Markdown for each method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--benchmarks", type=Path, required=True)
    parser.add_argument("--rivals", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER[@STEPS[@FIDELITY]]")
    args = parser.parse_args()
    sets = make_sets(args.benchmarks, args.photos, args.work)
    hr, lr = find_folders(sets["val, bicubic"])
    pairs = [
        (read_image(files[hr]).rgb, read_image(files[lr]).rgb)
        for files in match_images([hr, lr])
    ]
    others = {m.name: m for m in (*BASELINES, *find_rivals(args.rivals, threads=2))}
    names = ("bicubic", "bicubic + unsharp", RIVAL)
    print("| method |", " | ".join(DAMAGES), "|")
    print("| --- |", " | ".join(["--:"] * len(DAMAGES)), "|")
    for method in (*(others[n] for n in names), *map(parse_model, args.models)):
        upscale = method.load()
        means = [
            np.mean(
                [
                    error_in_flat_areas(upscale(damage(image_lr, kind)), image_hr)
                    for image_hr, image_lr in pairs
                ]
            )
            for kind in DAMAGES.values()
        ]
        print(f"| {method.name} |", " | ".join(f"{x:.1f}" for x in means), "|")


if __name__ == "__main__":
    main()
