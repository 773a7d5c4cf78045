"""Scores a model on fixed crops during training.

Images, degradations and noise are fixed, so two evaluations differ only by the
parameters.
"""

from collections.abc import Iterable, Sequence

import jax
import numpy as np

from linearsr_jax.array_types import Array, PyTree, UInt8
from linearsr_jax.codecs import SCALE, Codec
from linearsr_jax.data import degradations
from linearsr_jax.data.degradation_params import get_degradation
from linearsr_jax.evaluate import bicubic
from linearsr_jax.metrics import get_metrics
from linearsr_jax.models.linear_dit import LinearDiT
from linearsr_jax.models.presets import Preset
from linearsr_jax.sampling import draw_noise, make_upscale

# Photographs in the picture of a validation.
SHOWN = 4


def degrade_fixed(
    image_hr: UInt8[Array, "H W 3"], number: int, degradation: str
) -> dict[str, UInt8[Array, "h w 3"]]:
    """The LR images of validation photograph `number`, by the degradation's name.

    Args:
      image_hr: sides are multiples of SCALE.
      number: what is random depends on it alone.
      degradation: the one beside bicubic; see `degradation_params.get_degradation`.
    """
    rng = np.random.default_rng([0, number])
    params = get_degradation(degradation)
    return {
        "bicubic": degradations.bicubic(image_hr),
        degradation: degradations.degrade(image_hr, params, SCALE, rng),
    }


class Validator:
    """One-step quality on the centre crop of every photograph.

    Scores are named val_METRIC_DEGRADATION, the degradations being bicubic and the
    one trained with; val_gain_DEGRADATION is PSNR over bicubic upscaling, in dB.
    """

    def __init__(
        self,
        photographs: Iterable[UInt8[Array, "H W 3"]],
        crop_size: int,
        degradation: str,
        metrics: Sequence[str],
        model: LinearDiT,
        codec: Codec,
        preset: Preset,
    ):
        """Crops and degrades the photographs.

        Args:
          photographs: each at least crop_size high and wide.
          crop_size: HR pixels.
          degradation: see `degrade_fixed`.
          metrics: names in `metrics.METRICS`; psnr is always among the scores.
          model, codec, preset: what is trained.

        Raises:
          ValueError: an unknown metric, or one of whole folders.
        """
        names = dict.fromkeys(("psnr", *metrics))
        self._metrics = get_metrics(names)
        self._functions = {metric: metric.load() for metric in self._metrics}
        self._hr = np.stack([_centre(image, crop_size) for image in photographs])
        degraded = [
            degrade_fixed(image, i, degradation) for i, image in enumerate(self._hr)
        ]
        self._lr = {
            name: np.stack([images[name] for images in degraded])
            for name in degraded[0]
        }
        self._baseline = {
            name: np.stack([bicubic(image) for image in images])
            for name, images in self._lr.items()
        }
        self._codec = codec
        mesh = jax.sharding.get_abstract_mesh()
        whole = None if mesh.empty else jax.P()
        self._upscale = jax.jit(
            make_upscale(model, preset, steps=1), out_shardings=whole
        )
        side = crop_size // SCALE
        self._noise = draw_noise(preset, codec, side, side, steps=1, seed=0)

    def __call__(
        self, params: PyTree
    ) -> tuple[dict[str, float], dict[str, UInt8[Array, "N H W 3"]]]:
        """Scores the parameters.

        Returns:
          (scores, images): means over the photographs; and for each degradation the
          first photographs as bicubic, upscaled and true, side by side.
        """
        scores, images = {}, {}
        psnr = self._functions[self._metrics[0]]
        for name, images_lr in self._lr.items():
            outputs = np.stack(
                [
                    np.asarray(self._upscale((params,), self._codec, x, self._noise)[0])
                    for x in images_lr
                ]
            )
            references = {"hr": self._hr, "lr": images_lr}
            for metric, score in self._functions.items():
                compared = [outputs]
                if metric.compares_with:
                    compared.append(references[metric.compares_with])
                scores[f"val_{metric.name}_{name}"] = _mean(score, *compared)
            before = _mean(psnr, self._baseline[name], self._hr)
            scores[f"val_gain_{name}"] = scores[f"val_psnr_{name}"] - before
            columns = (self._baseline[name], outputs, self._hr)
            images[f"val_{name}"] = np.concatenate([x[:SHOWN] for x in columns], axis=2)
        return scores, images


def _mean(score, *stacks) -> float:
    return float(np.mean([score(*images) for images in zip(*stacks, strict=True)]))


def _centre(image: np.ndarray, size: int) -> np.ndarray:
    top, left = ((side - size) // 2 for side in image.shape[:2])
    return image[top : top + size, left : left + size]
