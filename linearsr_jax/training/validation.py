"""Scores a model on fixed crops during training.

Images, degradations, noise and noise levels are fixed, so two validations differ only
in the parameters. A knee found in them is therefore not one of sampling noise.

Every device upscales other images, and every process scores those of its devices. The
scores are gathered in the order of the photographs, so their means do not depend on how
many processes there are.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

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
from linearsr_jax.training.hosts import gather_rows
from linearsr_jax.training.losses import Batch, Draws
from linearsr_jax.training.parts import RunParts
from linearsr_jax.training.sharding import replicated

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


class ValidationStopped(Exception):
    """Raised in a validation that a signal to stop ends before it has a result."""


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
        is_stopping: Callable[[], bool] = lambda: False,
    ):
        """Crops and degrades the photographs.

        Args:
          parts: parts of the run.
          photographs: photographs, each at least val.crop_size high and wide.
          codec: codec of the run.
          conditions: conditions of the photographs, if there are any.
          is_stopping: tells whether to give up; all processes ask it together,
            between two rounds of photographs.

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
        self._conditions, self._is_stopping = conditions, is_stopping
        # An image for each device at a time.
        self._at_once = parts.mesh.size
        self._spread = jax.NamedSharding(parts.mesh, jax.P(parts.mesh.axis_names))
        upscale = make_upscale(
            parts.model, parts.preset, steps=steps, boundaries=self._boundaries
        )

        def upscale_images(experts, codec, images_lr, noise, conditions):
            def of_one(image_lr, condition):
                guidance = Guidance(condition)
                return upscale(experts, codec, image_lr, noise, guidance)[0]

            return jax.vmap(of_one)(images_lr, conditions)

        self._upscale = jax.jit(upscale_images, out_shardings=self._spread)
        whole = replicated(parts.mesh)
        self._first = jax.jit(lambda images: images[:SHOWN], out_shardings=whole)
        side = crop_size // SCALE
        self._noise = draw_noise(parts.preset, codec, side, side, steps=steps, seed=0)
        loss = parts.loss
        self._draw = jax.jit(loss.draw)

        def flow_losses(params, codec, batch, sigma, noise, views):
            draws = loss.weigh(jnp.full(len(noise), sigma), noise, views)
            return loss(params, codec, batch, draws)[1][0]["flow"]

        self._flow_losses = jax.jit(flow_losses, out_shardings=whole)

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

        Raises:
          ValidationStopped: the run is stopping.
        """
        found, images = [], {}
        for degradation in self._lr:
            own, shown = self._upscale_own(tuple(experts), degradation)
            found += self._score(own, degradation, weights)
            baseline, true = self._baseline[degradation][:SHOWN], self._hr[:SHOWN]
            columns = (baseline, shown, true)
            images[f"val_{degradation}"] = np.concatenate(columns, axis=2)
        return (*found, *self._find_flow_losses(experts, weights)), images

    def _upscale_own(
        self, experts: tuple[PyTree, ...], degradation: str
    ) -> tuple[dict[int, np.ndarray], np.ndarray]:
        """Upscales all; returns what this process holds, by number, and those shown."""
        own, shown = {}, []
        for numbers in self._rounds():
            condition = None
            if self._conditions:
                tokens, mask = self._conditions.tokens, self._conditions.mask
                rows = self._put(numbers, (tokens[:, None], mask[:, None]))
                condition = Condition(*rows)
            images_lr = self._put(numbers, self._lr[degradation])
            outputs = self._upscale(
                experts, self._codec, images_lr, self._noise, condition
            )
            for shard in outputs.addressable_shards:
                held = numbers[shard.index[0]]
                # The last round repeats an image where there are too few.
                if held.size and (number := int(held[0])) not in own:
                    own[number] = to_uint8(np.asarray(shard.data)[0])
            if len(shown) < min(SHOWN, len(self)):
                shown += list(to_uint8(np.asarray(self._first(outputs))))
        return own, np.stack(shown[: len(self)][:SHOWN])

    def _rounds(self) -> Iterator[np.ndarray]:
        """Numbers of the photographs that the devices take, round by round."""
        last = len(self) - 1
        for start in range(0, len(self), self._at_once):
            if self._is_stopping():
                raise ValidationStopped
            yield np.minimum(np.arange(start, start + self._at_once), last)

    def _put(self, numbers: np.ndarray, rows: PyTree) -> PyTree:
        """Puts a row of each array on each device."""

        def put(x):
            taken = x[numbers]
            return jax.make_array_from_callback(
                taken.shape, self._spread, lambda index: taken[index]
            )

        return jax.tree.map(put, rows)

    def _score(self, own, degradation, weights) -> list[Evaluation]:
        references = {"hr": self._hr, "lr": self._lr[degradation]}
        psnr = self._functions[self._metrics[0]]

        def score(number, output):
            values = [psnr(self._baseline[degradation][number], self._hr[number])]
            for metric, function in self._functions.items():
                compared = [output]
                if metric.compares_with:
                    compared.append(references[metric.compares_with][number])
                values.append(function(*compared))
            return values

        # Round by round, because a process may have many photographs to score.
        rows = {}
        for numbers in self._rounds():
            rows |= {n: score(n, own[n]) for n in {*numbers.tolist()} & own.keys()}
        table = gather_rows(rows, len(self))
        before, *values = (float(x) for x in np.mean(table, axis=0))
        found = {
            metric.name: Evaluation(
                metric=metric.name,
                degradation=degradation,
                weights=weights,
                higher_is_better=metric.higher_is_better,
                value=value,
            )
            for metric, value in zip(self._metrics, values, strict=True)
        }
        gain = dataclasses.replace(
            found["psnr"], metric="gain", value=found["psnr"].value - before
        )
        return [*found.values(), gain]

    def _find_flow_losses(self, experts, weights) -> list[Evaluation]:
        losses: dict[float, list[np.ndarray]] = {sigma: [] for sigma in LEVELS}
        for numbers in self._rounds():
            samples = [self.sample(int(number)) for number in numbers]
            rows = [(batch, draws.noise, draws.views) for batch, draws in samples]
            stacked = jax.tree.map(lambda *x: np.concatenate(x), *jax.device_get(rows))
            batch, *draws = self._put(np.arange(len(numbers)), stacked)
            for sigma, found in losses.items():
                params = experts[find_expert(sigma, self._boundaries)]
                values = self._flow_losses(params, self._codec, batch, sigma, *draws)
                found.append(np.asarray(values))
        return [
            Evaluation(
                metric=f"loss_at_{round(1000 * sigma)}",
                degradation=None,
                weights=weights,
                higher_is_better=False,
                value=float(np.mean(np.concatenate(found)[: len(self)])),
            )
            for sigma, found in losses.items()
        ]

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
        return batch, self._draw(key, batch, self._codec, expert)


def _centre(image: np.ndarray, size: int) -> np.ndarray:
    top, left = ((side - size) // 2 for side in image.shape[:2])
    return image[top : top + size, left : left + size]
