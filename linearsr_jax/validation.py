"""Scores a model on fixed crops during training.

Images, degradations and noise are fixed, so two evaluations differ only by the
parameters.
"""

import jax
import numpy as np

from linearsr_jax.array_types import PyTree
from linearsr_jax.codecs import SCALE, Codec
from linearsr_jax.data import degradations, sources
from linearsr_jax.evaluate import bicubic
from linearsr_jax.metrics.psnr_ssim import psnr_y
from linearsr_jax.models.linear_dit import LinearDiT
from linearsr_jax.models.presets import Preset
from linearsr_jax.sampling import draw_noise, make_upscale


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
                image, degradations.LIGHT, SCALE, np.random.default_rng([0, i])
            )
            for i, image in enumerate(self._hr)
        ]
        self._lr = {
            "bicubic": np.stack([degradations.bicubic(image) for image in self._hr]),
            "light": np.stack(light),
        }
        self._upscale = jax.jit(make_upscale(model, codec, preset, steps=1))
        side = crop_size // SCALE
        self._noise = draw_noise(preset, codec, side, side, steps=1, seed=0)

    def __call__(self, params: PyTree) -> dict[str, float]:
        """Mean PSNR in dB for each degradation, and the gain over bicubic upscaling."""
        scores = {}
        for name, images_lr in self._lr.items():
            gains, values = [], []
            for image_hr, image_lr in zip(self._hr, images_lr, strict=True):
                image_sr, _ = self._upscale(params, image_lr, self._noise)
                values.append(psnr_y(np.asarray(image_sr), image_hr))
                gains.append(values[-1] - psnr_y(bicubic(image_lr), image_hr))
            scores[f"val_psnr_{name}"] = float(np.mean(values))
            scores[f"val_gain_{name}"] = float(np.mean(gains))
        return scores


def _centre(image: np.ndarray, size: int) -> np.ndarray:
    top, left = ((side - size) // 2 for side in image.shape[:2])
    return image[top : top + size, left : left + size]
