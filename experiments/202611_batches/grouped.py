"""Does it pay to upscale small images of one size together?

taskset -c 0 python experiments/202611_batches/grouped.py FOLDER

Cuts 200 crops of 64 x 64, 96 x 96 and 128 x 128 from a folder of photographs and
upscales them with nano, by turns one at a time, as `linearsr upscale` does, and eight
of one size in one program (vmap). Prints the seconds of CPU of each way, with reading
and writing, and how many bytes of the outputs differ. One core of a busy machine is
enough, because seconds of CPU are counted and not those that pass.
"""

import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from linearsr_jax import Upscaler, read_image, write_image
from linearsr_jax.core.image_io import find_images
from linearsr_jax.core.image_range import to_levels
from linearsr_jax.core.images import Image
from linearsr_jax.inference.sampling import draw_noise, make_upscale

COUNT, GROUP, SIDES = 200, 8, (64, 96, 128)


def main(folder: str) -> None:
    """Prints one line for each size, and one for all."""
    upscaler = Upscaler.from_pretrained("nano")
    model = upscaler.model
    network = model.preset.make_model(scan_unroll=model.preset.depth)
    upscale_group = jax.jit(
        jax.vmap(
            make_upscale(network, model.preset, steps=1), in_axes=(None, None, 0, None)
        )
    )
    experts = jax.device_put(model.experts_at(model.default_fidelity))
    codec = jax.device_put(model.codec)

    def one_at_a_time(paths):
        return [write(path, upscaler(read_image(path).pixels)) for path in paths]

    def in_one_program(paths):
        pixels = np.stack([read_image(path).pixels for path in paths])
        height, width = pixels.shape[1:3]
        noise = draw_noise(model.preset, codec, height, width, steps=1, seed=0)
        images, _ = upscale_group(experts, codec, pixels, noise)
        return [
            write(path, to_levels(image, np.dtype(np.uint8)))
            for path, image in zip(paths, np.asarray(images), strict=True)
        ]

    def write(path, pixels):
        write_image(path.with_name("out.png"), Image(pixels), overwrite=True)
        return pixels

    ways = one_at_a_time, in_one_program
    totals = np.zeros(2)
    with tempfile.TemporaryDirectory() as work:
        for side in SIDES:
            paths = cut_crops(find_images(folder, recursive=True), side, Path(work))
            for way in ways:
                way(paths[:GROUP])  # compiles
            seconds, differ = np.zeros(2), 0
            for start in range(0, len(paths), GROUP):
                outputs = []
                for number, way in enumerate(ways):
                    before = time.process_time()
                    outputs.append(way(paths[start : start + GROUP]))
                    seconds[number] += time.process_time() - before
                differ += np.sum(np.stack(outputs[0]) != np.stack(outputs[1]))
            totals += seconds
            report(f"{len(paths)} of {side} x {side}, {differ} bytes differ", seconds)
    report("all", totals)


def report(what: str, seconds: np.ndarray) -> None:
    """Prints both ways, and the ratio of their times."""
    one, group = seconds
    print(f"{what}: {one:.2f} s, {group:.2f} s, ratio {group / one:.2f}", flush=True)


def cut_crops(photographs: list[Path], side: int, work: Path) -> list[Path]:
    """Writes crops, as many as whole groups make about a third of all."""
    rng = np.random.default_rng(side)
    paths = []
    for number in range(COUNT // len(SIDES) // GROUP * GROUP + GROUP):
        pixels = read_image(photographs[number % len(photographs)]).rgb
        top, left = (rng.integers(0, whole - side + 1) for whole in pixels.shape[:2])
        path = work / f"{side}_{number:03}.png"
        crop = pixels[top : top + side, left : left + side]
        write_image(path, Image(np.ascontiguousarray(crop)))
        paths.append(path)
    return paths


if __name__ == "__main__":
    main(sys.argv[1])
