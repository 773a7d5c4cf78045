"""Are there seams in a sky that does not fit in memory?

python experiments/202611_sky/sky.py OUT.png

Upscales a smooth gradient, where nothing hides a seam, with nano: in one pass, in bands
of 8 rows as `--max-memory` does, and in tiles of 16 x 16 pixels that do not know of
each other, as tools do that tile. Prints how much larger the step across a border is
than other steps of the image, and how far bands and tiles are from the one pass. The
picture has bands and tiles side by side, above as they are and below 40 times their
distance from the gradient.
"""

import sys
from collections.abc import Callable

import jax
import numpy as np
import PIL.Image

from linearsr_jax.core.array_types import Float
from linearsr_jax.core.scale import SCALE
from linearsr_jax.inference.banded import BandedDenoiser
from linearsr_jax.inference.sampling import (
    cut_segments,
    draw_noise,
    make_upscale,
    upscale,
)
from linearsr_jax.pretrained.model_folder import PretrainedModel, load_pretrained

SIDE, ROWS, TILE = 48, 8, 16
_CONTRAST = 40
Upscale = Callable[[Float[np.ndarray, "h w 3"]], Float[np.ndarray, "4*h 4*w 3"]]
_TOP, _BOTTOM = np.array([70, 120, 200]), np.array([190, 215, 240])


def main(path: str) -> None:
    """Prints the figures and writes the picture."""
    model = load_pretrained("nano")
    image_lr, exact = sky(SIDE), sky(SCALE * SIDE)
    upscale_whole = make_pass(model)
    whole = upscale_whole(image_lr)
    rows = []
    for name, image, period in (
        ("bands", in_bands(model, image_lr, ROWS), ROWS),
        ("tiles", in_tiles(upscale_whole, image_lr, TILE), TILE),
    ):
        print(
            f"{name}: step across a border {border_step(image, period):.2f} times the "
            f"others (in one pass {border_step(whole, period):.2f}), "
            f"{127.5 * np.abs(image - whole).max():.2g} levels from one pass at most"
        )
        difference = _CONTRAST * (image - (exact / 127.5 - 1))
        rows.append(np.concatenate([image, difference]))
    levels = np.clip(np.concatenate(rows, axis=1) * 127.5 + 127.5, 0, 255)
    picture = PIL.Image.fromarray(np.rint(levels).astype(np.uint8))
    picture.resize((2 * picture.width, 2 * picture.height), 0).save(path)


def sky(side: int) -> Float[np.ndarray, "side side 3"]:
    """Makes a gradient in levels of 0..255, the same for every size."""
    place = (np.arange(side) + 0.5) / side
    down = 0.9 * place[:, None, None] + 0.1 * place[None, :, None]
    return (_TOP + down * (_BOTTOM - _TOP)).astype(np.float32)


def make_pass(model: PretrainedModel) -> Upscale:
    """Makes a function that upscales a whole image."""
    run = jax.jit(make_upscale(model.preset.make_model(), model.preset, steps=1))

    def upscale_whole(image_lr):
        image, _ = run(_experts(model), model.codec, image_lr, _noise(model, image_lr))
        return np.asarray(image)

    return upscale_whole


def in_bands(
    model: PretrainedModel, image_lr: Float[np.ndarray, "h w 3"], rows: int
) -> Float[np.ndarray, "4*h 4*w 3"]:
    """Upscales an image in bands, as one that does not fit."""
    denoiser = BandedDenoiser(model.preset.make_model(), model.preset, rows)
    segments = cut_segments(model.preset, steps=1)
    noise = _noise(model, image_lr)
    image, _ = upscale(
        denoiser, segments, _experts(model), model.codec, image_lr, noise
    )
    return np.asarray(image)


def in_tiles(
    upscale_whole: Upscale, image_lr: Float[np.ndarray, "h w 3"], side: int
) -> Float[np.ndarray, "4*h 4*w 3"]:
    """Upscales squares of an image one by one."""
    height, width, _ = image_lr.shape
    rows = [
        np.concatenate(
            [
                upscale_whole(image_lr[y : y + side, x : x + side])
                for x in range(0, width, side)
            ],
            axis=1,
        )
        for y in range(0, height, side)
    ]
    return np.concatenate(rows)


def border_step(image: Float[np.ndarray, "4*h 4*w 3"], period: int) -> float:
    """Compares the steps from row to row, and from column to column, across borders.

    Args:
      image: the output.
      period: LR pixels from border to border.

    Returns:
      The largest mean step across a border over the median of the others between two
      LR pixels, of rows or of columns, whichever is more.
    """
    ratios = []
    for turned in (image, image.swapaxes(0, 1)):
        step = np.abs(np.diff(turned.astype(np.float64), axis=0)).mean((1, 2))
        between = step[SCALE - 1 :: SCALE]
        is_border = np.arange(1, len(between) + 1) % period == 0
        ratios.append(between[is_border].max() / np.median(between[~is_border]))
    return max(ratios)


def _experts(model):
    return model.experts_at(model.default_fidelity)


def _noise(model, image_lr):
    return draw_noise(model.preset, model.codec, *image_lr.shape[:2], steps=1, seed=0)


if __name__ == "__main__":
    main(sys.argv[1])
