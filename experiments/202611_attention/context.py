"""Measures what the surroundings of a patch do: how large they are, and whose.

All on the same PATCH x PATCH HR pixels, so that nothing but the surroundings differs.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from linearsr_jax.core.array_types import Array, Float, PyTree, UInt8
from linearsr_jax.core.image_range import to_unit_range
from linearsr_jax.core.scale import SCALE
from linearsr_jax.diffusion.flow import PREDICTIONS
from linearsr_jax.evaluation.baselines import bicubic
from linearsr_jax.metrics.psnr_ssim import psnr_y
from linearsr_jax.pretrained.model_folder import PretrainedModel

# LR pixels, and so tokens, a side.
WHOLE = 128
# As many photographs are upscaled as a whole: softmax takes its time.
WHOLES = 4
PATCH = 12
WINDOWS = (24, 48)
CENTRES = (40, 88)
# Of the patch's own surroundings; what is farther is another photograph's.
MARGINS = (4, 8, 13, 16)
BESIDE = 48

Predict = Callable[[UInt8[Array, "B h w 3"]], Float[np.ndarray, "B H W 3"]]


def make_predict(model: PretrainedModel) -> Predict:
    """The one-step answer in grey levels, neither clipped nor rounded."""
    network = model.preset.make_model()
    prediction = PREDICTIONS[model.preset.prediction]

    def predict(params: PyTree, image_lr: UInt8[Array, "B h w 3"]):
        lr = to_unit_range(image_lr)
        x = jnp.zeros((*lr.shape[:3], model.codec.channels))
        output = network.apply({"params": params}, x, jnp.ones(len(lr)), lr)
        image = model.codec.decode(prediction.x0_hat(x, output, 1.0), lr)
        return (image + 1) * 127.5

    compiled = jax.jit(predict)
    params = jax.device_put(model.params)
    return lambda image_lr: np.asarray(compiled(params, image_lr))


def measure_windows(
    predict: Predict,
    pairs: list[tuple[UInt8[np.ndarray, "512 512 3"], UInt8[np.ndarray, "128 128 3"]]],
) -> dict[str, list[float]]:
    """PSNR-Y of patches in dB, by the side of the LR window around them.

    Returns:
      For "bicubic" and each side in tokens, a value per photograph: the mean over
      the patches around CENTRES x CENTRES. For WHOLE of the first WHOLES only.
    """
    scores: dict[str, list[float]] = {}
    for number, (image_hr, image_lr) in enumerate(pairs):
        corners = [(row, column) for row in CENTRES for column in CENTRES]
        truths = [_patch(image_hr, row, column) for row, column in corners]

        def mean_psnr(patches, truths=truths):
            scored = zip(patches, truths, strict=True)
            return float(np.mean([psnr_y(*pair) for pair in scored]))

        whole = {"bicubic": bicubic(image_lr)}
        if number < WHOLES:
            whole[str(WHOLE)] = _to_uint8(predict(image_lr[None])[0])
        for name, image in whole.items():
            patches = [_patch(image, row, column) for row, column in corners]
            scores.setdefault(name, []).append(mean_psnr(patches))
        for side in WINDOWS:
            windows = [_window(image_lr, *corner, side) for corner in corners]
            images = _to_uint8(predict(np.stack(windows)))
            patches = [_patch(image, side // 2, side // 2) for image in images]
            scores.setdefault(str(side), []).append(mean_psnr(patches))
    return scores


def measure_foreign(
    predict: Predict,
    pairs: list[tuple[UInt8[np.ndarray, "512 512 3"], UInt8[np.ndarray, "128 128 3"]]],
) -> dict[str, list[dict[str, float]]]:
    """What another photograph in the surroundings changes at the centre.

    The LR image is BESIDE pixels wide. Up to a margin around the patch it is the
    photograph's, beyond it the next photograph's, at the same place.

    Returns:
      For each margin in tokens and each photograph: change, the root mean square
      change of the patch in grey levels; residual, that of what the network adds to
      bicubic there; psnr_lost, how many dB of PSNR-Y the change costs.
    """
    middle = WHOLE // 2
    results: dict[str, list[dict[str, float]]] = {str(m): [] for m in MARGINS}
    for number, (image_hr, image_lr) in enumerate(pairs):
        own = _window(image_lr, middle, middle, BESIDE)
        other = _window(pairs[(number + 1) % len(pairs)][1], middle, middle, BESIDE)
        mixed = []
        for margin in MARGINS:
            kept = slice((BESIDE - PATCH) // 2 - margin, (BESIDE + PATCH) // 2 + margin)
            image = other.copy()
            image[kept, kept] = own[kept, kept]
            mixed.append(image)
        images = predict(np.stack([own, *mixed]))
        patches = [_patch(image, BESIDE // 2, BESIDE // 2) for image in images]
        truth = _patch(image_hr, middle, middle)
        plain = _patch(bicubic(own), BESIDE // 2, BESIDE // 2)
        residual = _rms(patches[0] - plain)
        before = psnr_y(_to_uint8(patches[0]), truth)
        for margin, patch in zip(MARGINS, patches[1:], strict=True):
            results[str(margin)].append(
                {
                    "change": _rms(patch - patches[0]),
                    "residual": residual,
                    "psnr_lost": before - psnr_y(_to_uint8(patch), truth),
                }
            )
    return results


def _window(image_lr, row, column, side):
    top, left = row - side // 2, column - side // 2
    return image_lr[top : top + side, left : left + side]


def _patch(image_hr, row, column):
    """The patch's HR pixels around an LR position."""
    side = SCALE * PATCH
    top, left = (SCALE * x - side // 2 for x in (row, column))
    return image_hr[top : top + side, left : left + side]


def _to_uint8(image):
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def _rms(x):
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
