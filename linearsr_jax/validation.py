"""Scores a model on fixed crops during training.

Images, degradations and the one-step answer (which owes nothing to noise at
sigma = 1) are fixed, so two evaluations differ only by the parameters.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from linearsr_jax.array_types import PyTree
from linearsr_jax.codecs import Codec
from linearsr_jax.data import degradations, sources
from linearsr_jax.diffusion.flow import PREDICTIONS
from linearsr_jax.metrics.psnr_ssim import psnr_y
from linearsr_jax.models.linear_dit import LinearDiT
from linearsr_jax.models.presets import Preset
from linearsr_jax.train_step import to_unit_range


class Validator:
    """One-step PSNR-Y on the centre crop of every photograph of a folder."""

    def __init__(
        self,
        folder: str,
        crop_size: int,
        model: LinearDiT,
        codec: Codec,
        preset: Preset,
    ):
        """Reads the crops and degrades them, once as bicubic and once as LIGHT.

        Raises:
          OSError, ValueError: as `sources.scan_folder`.
        """
        manifest = sources.scan_folder(folder, min_size=crop_size)
        source = sources.FolderSource(folder, manifest, cache_bytes=0)
        self._hr = np.stack([_centre(source[i], crop_size) for i in range(len(source))])
        light = [
            degradations.degrade(
                image, degradations.LIGHT, 4, np.random.default_rng([0, i])
            )
            for i, image in enumerate(self._hr)
        ]
        self._lr = {
            "bicubic": np.stack([degradations.bicubic(image) for image in self._hr]),
            "light": np.stack(light),
        }
        self._upscale = jax.jit(_one_step(model, codec, preset))

    def __call__(self, params: PyTree) -> dict[str, float]:
        """Mean PSNR in dB for each degradation, and the gain over bicubic upscaling."""
        scores = {}
        for name, images_lr in self._lr.items():
            gains, values = [], []
            for image_hr, image_lr in zip(self._hr, images_lr, strict=True):
                ours, base = (np.asarray(x) for x in self._upscale(params, image_lr))
                values.append(psnr_y(ours, image_hr))
                gains.append(values[-1] - psnr_y(base, image_hr))
            scores[f"val_psnr_{name}"] = float(np.mean(values))
            scores[f"val_gain_{name}"] = float(np.mean(gains))
        return scores


def _one_step(model: LinearDiT, codec: Codec, preset: Preset) -> Callable:
    prediction = PREDICTIONS[preset.prediction]

    def upscale(params, image_lr):
        image_lr = to_unit_range(image_lr[None])
        height, width = image_lr.shape[1] * 4, image_lr.shape[2] * 4
        shape = (1, height // codec.factor, width // codec.factor, codec.channels)
        x = jnp.zeros(shape)
        one = jnp.ones((1,))
        output = model.apply({"params": params}, x, one, image_lr)
        x0 = prediction.x0_hat(x, output, one)
        images = codec.decode(x0, image_lr), codec.decode(jnp.zeros(shape), image_lr)
        return tuple(_to_uint8(image[0]) for image in images)

    return upscale


def _to_uint8(image):
    return jnp.round((jnp.clip(image, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)


def _centre(image: np.ndarray, size: int) -> np.ndarray:
    top, left = ((side - size) // 2 for side in image.shape[:2])
    return image[top : top + size, left : left + size]
