"""Measures a grid in flat areas: energy at periods of 2 to 4 pixels, and its phase.

python experiments/202611_picture/grid.py MODEL LR_FOLDER [FIDELITY]

A network trained with a perceptual loss may lay a fine pattern over soft areas, in step
with its own pixels. Prints the root mean square, in levels, of what the flattest tenth
of the patches has at those periods, for the model and for bicubic, and of the part of
it that repeats with every LR pixel.
"""

import sys
from pathlib import Path

import numpy as np

from linearsr_jax.core.image_io import find_images, read_image
from linearsr_jax.evaluation.baselines import bicubic
from linearsr_jax.inference.upscaler import Upscaler

SIDE, SCALE = 64, 4


def fine_energy(patch: np.ndarray) -> float:
    """Root mean square of a square patch at periods of 2 to 4 pixels."""
    window = np.hanning(len(patch))
    window = np.outer(window, window)
    spectrum = np.fft.fft2((patch - patch.mean()) * window)
    frequency = np.abs(np.fft.fftfreq(len(patch)))
    is_fine = np.maximum(frequency[:, None], frequency) >= 0.25
    power = np.sum(np.abs(spectrum[is_fine]) ** 2) / len(patch) ** 2
    return float(np.sqrt(power / np.sum(window**2)))


def grid_energy(patch: np.ndarray) -> float:
    """Root mean square of the pattern that repeats with every LR pixel."""
    height, width = (side // SCALE for side in patch.shape)
    cells = patch.reshape(height, SCALE, width, SCALE)
    # Without each LR pixel's own level and slope: those are the picture's.
    cells = cells - cells.mean((1, 3), keepdims=True)
    pattern = cells.mean((0, 2))
    slope = np.arange(SCALE) - (SCALE - 1) / 2
    for axis in (slope[:, None], slope[None]):
        axis = np.broadcast_to(axis, pattern.shape)
        pattern = pattern - axis * np.sum(pattern * axis) / np.sum(axis**2)
    return float(np.sqrt(np.mean(pattern**2)))


def flat_patches(image: np.ndarray) -> list[tuple[int, int]]:
    """Corners of the tenth of all patches of an LR image whose variance is smallest."""
    side = SIDE // SCALE
    corners = [
        (top, left)
        for top in range(0, image.shape[0] - side + 1, side)
        for left in range(0, image.shape[1] - side + 1, side)
    ]
    luma = image.astype(float).mean(-1)
    corners.sort(key=lambda c: np.var(luma[c[0] : c[0] + side, c[1] : c[1] + side]))
    return corners[: max(1, len(corners) // 10)]


def measure(upscale, lr: np.ndarray) -> np.ndarray:
    """Means over flat patches: (fine, grid) of a model's output, then of bicubic's."""
    outputs = [method(lr).astype(float).mean(-1) for method in (upscale, bicubic)]
    rows = []
    for top, left in flat_patches(lr):
        rows.append([])
        for output in outputs:
            rows[-1] += [
                energy(output[SCALE * top :, SCALE * left :][:SIDE, :SIDE])
                for energy in (fine_energy, grid_energy)
            ]
    return np.mean(rows, axis=0)


def main(model: str, folder: str, fidelity: str | None = None) -> None:
    """Prints the means over a folder."""
    upscaler = Upscaler.from_pretrained(model)
    place = None if fidelity is None else float(fidelity)
    values = [
        measure(lambda lr: upscaler(lr, fidelity=place), read_image(path).rgb)
        for path in find_images(Path(folder))
    ]
    fine, grid, fine_bicubic, grid_bicubic = np.mean(values, axis=0)
    print(f"periods 2 to 4: {fine:.2f} levels, bicubic {fine_bicubic:.2f}")
    print(f"repeating: {grid:.3f} levels, bicubic {grid_bicubic:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
