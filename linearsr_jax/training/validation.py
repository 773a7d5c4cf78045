"""Scores a model on fixed crops during training.

Images, degradations, noise and noise levels are fixed, so two validations differ only
in the parameters. A knee found in them is therefore not one of sampling noise.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from linearsr_jax.codecs import Codec
from linearsr_jax.core.array_types import PyTree, UInt8
from linearsr_jax.core.image_range import to_uint8
from linearsr_jax.core.rng import stream_key
from linearsr_jax.core.scale import SCALE
from linearsr_jax.data import degrading
from linearsr_jax.data.condition_table import ConditionTable
from linearsr_jax.data.sources import PhotoSource
from linearsr_jax.diffusion.experts import find_expert
from linearsr_jax.esgf.evaluation import Evaluation, Weights
from linearsr_jax.evaluation.baselines import bicubic
from linearsr_jax.inference.guidance import Guidance
from linearsr_jax.inference.sampling import draw_noise, make_upscale
from linearsr_jax.metrics import get_metrics
from linearsr_jax.models.embeddings import Condition
from linearsr_jax.training.losses import Batch, Draws
from linearsr_jax.training.parts import RunParts

# Number of photographs in the picture of a validation.
SHOWN = 4
# The flow loss is measured at the middles of the paper's four intervals, and at
# sigma = 1, where one-step quality is decided.
LEVELS = (0.11, 0.55, 0.907, 0.97, 1.0)


def degrade_fixed(
    image_hr: UInt8[np.ndarray, "H W 3"], number: int, name: str
) -> UInt8[np.ndarray, "y x 3"]:
    """Makes the LR image of a validation photograph.

    Args:
      image_hr: photograph, whose sides are multiples of SCALE.
      number: number of the photograph, which alone determines the random draws.
      name: name of the degradation.
    """
    rng = np.random.default_rng([0, number])
    return degrading.degrade_by_name(image_hr, name, SCALE, rng)


class Validator:
    """Scores a model on the centre crop of every photograph.

    The degradations are bicubic and those of training. Beside the metrics there are
    "gain", the PSNR over that of bicubic upscaling in dB, and "loss_at_T", the flow
    loss at timestep T, which is 1000 times one of LEVELS.
    """

    def __init__(
        self,
        parts: RunParts,
        photographs: PhotoSource | Iterable[UInt8[np.ndarray, "H W 3"]],
        *,
        codec: Codec,
        conditions: ConditionTable | None = None,
    ):
        """Crops and degrades the photographs.

        Args:
          parts: parts of the run.
          photographs: photographs, each at least val.crop_size high and wide.
          codec: codec of the run.
          conditions: conditions of the photographs, if there are any.

        Raises:
          ValueError: a metric is unknown, or scores whole folders.
        """
        settings = parts.settings.val
        trained_with = parts.settings.data.degradations
        crop_size, steps = settings.crop_size, settings.steps
        names = dict.fromkeys(("psnr", *settings.metrics))
        self._metrics = get_metrics(names)
        self._functions = {metric: metric.load() for metric in self._metrics}
        self._hr = np.stack([_centre(image, crop_size) for image in photographs])
        self._lr = {
            name: np.stack(
                [degrade_fixed(image, i, name) for i, image in enumerate(self._hr)]
            )
            for name in dict.fromkeys(("bicubic", *trained_with))
        }
        self._trained_with = trained_with
        self._baseline = {
            name: np.stack([bicubic(image) for image in images])
            for name, images in self._lr.items()
        }
        self._codec = codec
        self._boundaries = parts.settings.expert_boundaries
        self._conditions = conditions
        mesh = jax.sharding.get_abstract_mesh()
        whole = None if mesh.empty else jax.P()
        self._upscale = jax.jit(
            make_upscale(
                parts.model, parts.preset, steps=steps, boundaries=self._boundaries
            ),
            out_shardings=whole,
        )
        side = crop_size // SCALE
        self._noise = draw_noise(parts.preset, codec, side, side, steps=steps, seed=0)
        self._loss = loss = parts.loss

        def flow_loss(params, codec, batch, sigma, draws):
            draws = loss.weigh(sigma, draws.noise, draws.views)
            return loss(params, codec, batch, draws)[1][0]["flow"][0]

        self._flow_loss = jax.jit(flow_loss, out_shardings=whole)

    def __call__(
        self, experts: Sequence[PyTree], weights: Weights
    ) -> tuple[tuple[Evaluation, ...], dict[str, UInt8[np.ndarray, "N H W 3"]]]:
        """Scores the parameters of each expert.

        Args:
          experts: parameters of each expert.
          weights: whether these are averaged or raw weights.

        Returns:
          (evaluations, images): evaluations are means over the photographs; images has,
          for each degradation, the first photographs as bicubic, upscaled and true,
          side by side.
        """
        found, images = [], {}
        for degradation in self._lr:
            outputs = self._upscale_all(tuple(experts), degradation)
            found += self._score(outputs, degradation, weights)
            columns = (self._baseline[degradation], outputs, self._hr)
            images[f"val_{degradation}"] = np.concatenate(
                [stack[:SHOWN] for stack in columns], axis=2
            )
        found += [self._flow_loss_at(sigma, experts, weights) for sigma in LEVELS]
        return tuple(found), images

    def _upscale_all(self, experts, degradation):
        outputs = (
            self._upscale(
                experts, self._codec, image_lr, self._noise, self._guidance(i)
            )[0]
            for i, image_lr in enumerate(self._lr[degradation])
        )
        return np.stack([to_uint8(np.asarray(output)) for output in outputs])

    def _score(self, outputs, degradation, weights) -> list[Evaluation]:
        references = {"hr": self._hr, "lr": self._lr[degradation]}
        found = {}
        for metric, score in self._functions.items():
            compared = [outputs]
            if metric.compares_with:
                compared.append(references[metric.compares_with])
            found[metric.name] = Evaluation(
                metric=metric.name,
                degradation=degradation,
                weights=weights,
                higher_is_better=metric.higher_is_better,
                value=_mean(score, *compared),
            )
        psnr = self._functions[self._metrics[0]]
        before = _mean(psnr, self._baseline[degradation], self._hr)
        gain = dataclasses.replace(
            found["psnr"], metric="gain", value=found["psnr"].value - before
        )
        return [*found.values(), gain]

    def _flow_loss_at(self, sigma, experts, weights) -> Evaluation:
        params = experts[find_expert(sigma, self._boundaries)]
        values = [
            self._flow_loss(
                params, self._codec, batch, jnp.full(1, sigma, jnp.float32), draws
            )
            for batch, draws in map(self.sample, range(len(self)))
        ]
        return Evaluation(
            metric=f"loss_at_{round(1000 * sigma)}",
            degradation=None,
            weights=weights,
            higher_is_better=False,
            value=float(np.mean(values)),
        )

    def __len__(self) -> int:
        """Counts the photographs."""
        return len(self._hr)

    def sample(self, number: int, expert: int = 0) -> tuple[Batch, Draws]:
        """Makes a training batch of one photograph, with the draws of an expert."""
        photograph = slice(number, number + 1)
        degradation = self._trained_with[number % len(self._trained_with)]
        batch: Batch = {
            "image_hr": self._hr[photograph],
            "image_lr": self._lr[degradation][photograph],
        }
        if self._conditions:
            batch |= self._conditions.row(photograph)
        key = stream_key(0, "validation", number)
        return batch, self._loss.draw(key, batch, self._codec, expert)

    def _guidance(self, number: int) -> Guidance:
        if not self._conditions:
            return Guidance()
        row = self._conditions.row(slice(number, number + 1))
        condition = Condition(
            jnp.asarray(row["condition_tokens"]), jnp.asarray(row["condition_mask"])
        )
        return Guidance(condition)


def _mean(score, *stacks) -> float:
    return float(np.mean([score(*images) for images in zip(*stacks, strict=True)]))


def _centre(image: np.ndarray, size: int) -> np.ndarray:
    top, left = ((side - size) // 2 for side in image.shape[:2])
    return image[top : top + size, left : left + size]
