"""Turns photographs into batches of (HR, LR) pairs, with grain.

Everything random about sample n of a stream is a function of (seed, n): the
photograph (shuffled anew each epoch), the crop, and the degradation. Nothing depends
on how many threads, workers or hosts read the stream, or where reading started. A run
resumes by asking for `start_batch`; there is no iterator state to save.

This module does not use JAX; worker processes need only numpy and Pillow. (Where JAX
is installed grain itself imports it, but nothing starts a backend.)
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags
from PIL import Image

from linearsr_jax.core.scale import SCALE
from linearsr_jax.data import degrading, sources
from linearsr_jax.data.degradation_params import (
    LIGHT,
    RealEsrganParams,
    get_degradation,
)
from linearsr_jax.data.manifest import Manifest
from linearsr_jax.data.workers import WorkerIterator


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """Settings of the samples.

    Attributes:
      crop_size: side of the HR crop in pixels, a multiple of SCALE.
      scale_range: (low, high), 0 < low <= high <= 1; the photograph is shrunk by
        a factor drawn from it before the crop is taken, never below crop_size.
        Shrinking hides the noise and softness of the camera from the HR side.
      degradations: name to weight, see `degradation_params.DEGRADATIONS`; each
        sample draws one with a probability in proportion to its weight.
      cache_bytes: limit on decoded images that `open_source` keeps, in bytes per
        process.
      degrade_on: "host" or "device"; with "device", samples carry a plan instead of
        the LR image, for `device_degradations.prepare_batch`.
      condition_dropout: share of samples whose condition is dropped.
    """

    crop_size: int
    scale_range: tuple[float, float] = (0.5, 1.0)
    degradations: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"light": 1.0}
    )
    cache_bytes: int = 1 << 30
    degrade_on: str = "host"
    condition_dropout: float = 0.0

    def __post_init__(self):
        if self.crop_size < 1 or self.crop_size % SCALE:
            raise ValueError(
                f"crop_size must be a positive multiple of {SCALE}, got "
                f"{self.crop_size}."
            )
        low, high = self.scale_range
        if not 0 < low <= high <= 1:
            raise ValueError(
                "scale_range must be (low, high) with 0 < low <= high <= 1, got "
                f"{self.scale_range}."
            )
        if not 0 <= self.condition_dropout <= 1:
            raise ValueError(
                "condition_dropout must be within [0, 1], got "
                f"{self.condition_dropout}."
            )
        degrading.check_weights(self.degradations)
        if self.degrade_on not in ("host", "device"):
            raise ValueError(
                f"degrade_on must be 'host' or 'device', got {self.degrade_on!r}."
            )

    def widest_params(self) -> RealEsrganParams:
        """Finds the parameters that bound the sizes in between, for the device."""
        drawn = [get_degradation(name) for name in degrading.used(self.degradations)]
        return max(
            (params for params in drawn if isinstance(params, RealEsrganParams)),
            key=lambda p: (p.resize_range1[1], p.resize_range2[1]),
            default=LIGHT,
        )


@dataclasses.dataclass(frozen=True)
class MakePair(grain.transforms.RandomMap):
    """Turns a photograph into a random crop and its LR image; see `PipelineConfig`."""

    config: PipelineConfig

    def random_map(
        self, element: np.ndarray | dict[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Makes one sample.

        Args:
          element: photograph, uint8 (H, W, 3), both sides at least crop_size; or a
            dict with it as "photo", see `condition_table.ConditionedSource`.
          rng: source of every draw.

        Returns:
          A dict of image_hr, uint8 (crop_size, crop_size, 3), and image_lr, uint8,
          smaller by factor. To degrade on the device, plan (see
          `degradation_plan.pack`) replaces image_lr. The condition is passed on, with
          a mask that is all False where it is dropped.
        """
        if not isinstance(element, dict):
            return self._make_pair(element, rng)
        condition = dict(element)
        sample = self._make_pair(condition.pop("photo"), rng)
        # Drawn last, so that the images are the same with and without conditions.
        if rng.random() < self.config.condition_dropout:
            mask = np.zeros_like(condition["condition_mask"])
            condition["condition_mask"] = mask
        return sample | condition

    def _make_pair(self, photo: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
        image_hr = self._crop(photo, rng)
        name = degrading.draw_name(self.config.degradations, rng)
        if self.config.degrade_on == "device":
            plan = degrading.draw_packed(name, image_hr.shape[:2], SCALE, rng)
            return {"image_hr": image_hr, "plan": plan}
        image_lr = degrading.degrade_by_name(image_hr, name, SCALE, rng)
        return {"image_hr": image_hr, "image_lr": image_lr}

    def _crop(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        size = self.config.crop_size
        height, width = image.shape[:2]
        # Resize only the window; the photograph may have a hundred times its pixels.
        window = round(size / rng.uniform(*self.config.scale_range))
        window = max(size, min(window, height, width))
        top = rng.integers(height - window, endpoint=True)
        left = rng.integers(width - window, endpoint=True)
        flips = rng.random(3) < 0.5
        crop = image[top : top + window, left : left + window]
        if window != size:
            resized = Image.fromarray(crop).resize(
                (size, size), Image.Resampling.LANCZOS
            )
            crop = np.asarray(resized)
        if flips[0]:
            crop = crop[:, ::-1]
        if flips[1]:
            crop = crop[::-1]
        if flips[2]:
            crop = crop.transpose(1, 0, 2)
        return np.ascontiguousarray(crop)


@dataclasses.dataclass(frozen=True)
class _Share:
    """Some samples of every batch, one after the other.

    Attributes:
      samples: stream of all samples.
      positions: positions within a batch of the samples to read.
      batch_size: number of samples in a whole batch.
    """

    samples: grain.MapDataset
    positions: tuple[int, ...]
    batch_size: int

    def __len__(self) -> int:
        return len(self.samples) // self.batch_size * len(self.positions)

    def __getitem__(self, index: int) -> Any:
        batch, place = divmod(index, len(self.positions))
        return self.samples[batch * self.batch_size + self.positions[place]]


def open_source(
    location: str | os.PathLike,
    config: PipelineConfig,
    manifest: Manifest | None = None,
) -> sources.PhotoSource:
    """Opens photographs for `make_dataset`.

    Args:
      location: see `sources.open_source`, also for errors.
      config: sets the smallest usable size and the limit of the cache.
      manifest: manifest of an earlier run, so that sample numbers keep their meaning;
        by default a new one is made.
    """
    return sources.open_source(
        location,
        min_size=config.crop_size,
        cache_bytes=config.cache_bytes,
        manifest=manifest,
    )


def make_dataset(
    source: Any,
    config: PipelineConfig,
    *,
    seed: int,
    batch_size: int,
    start_batch: int = 0,
    share: Sequence[int] | None = None,
) -> grain.MapDataset:
    """Makes the endless stream of batches, or the share of one process.

    Sample n of the stream is the same whatever the batch size or the share. Batch k
    holds samples k batch_size to (k + 1) batch_size - 1.

    Args:
      source: grain RandomAccessDataSource of uint8 (H, W, 3) images, or a
        `condition_table.ConditionedSource`.
      config: settings of the samples.
      seed: seed of shuffling, crops and degradations; 0 or more.
      batch_size: samples per batch over all processes.
      start_batch: batch of the stream that becomes element 0 of the result.
      share: positions within the batch of the samples that this process reads,
        increasing; by default all.

    Returns:
      Dataset of {"image_hr": uint8 (B, H, W, 3), "image_lr": uint8 (B, h, w, 3)} with
      B the size of the share, or with a plan or conditions as `MakePair` says.
      It can be indexed; for iteration see `make_iterator`.

    Raises:
      ValueError: an argument is out of range, or an image of the source's manifest
        is smaller than the crop.
    """
    if seed < 0 or start_batch < 0:
        raise ValueError(
            f"seed and start_batch must be 0 or more, got {seed} and {start_batch}."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}.")
    own = tuple(range(batch_size)) if share is None else tuple(share)
    if not own or own != tuple(sorted({*own} & {*range(batch_size)})):
        raise ValueError(
            "share must be increasing positions within a batch of "
            f"{batch_size}, got {own}."
        )
    if len(source) == 0:
        raise ValueError("source is empty; a stream needs at least one image.")
    if (manifest := getattr(source, "manifest", None)) is not None:
        for name, size in zip(manifest.files, manifest.sizes, strict=True):
            if min(size) < config.crop_size:
                raise ValueError(
                    f"{name}: {size[0]}x{size[1]} is smaller than crop_size "
                    f"{config.crop_size}; open the source with that min_size."
                )
    samples = (
        grain.MapDataset.source(source)
        .seed(seed)
        .shuffle()
        # Each epoch shuffles and draws anew.
        .repeat(reseed_each_epoch=True)
        .random_map(MakePair(config))
    )
    if len(own) < batch_size:
        samples = grain.MapDataset.source(_Share(samples, own, batch_size))
    return samples.batch(len(own), drop_remainder=True)[start_batch:]


def make_iterator(
    dataset: grain.MapDataset, *, num_workers: int = 0, prefetch: int = 2
) -> grain.DatasetIterator | WorkerIterator:
    """Reads a dataset ahead of its consumer.

    The stream is the same whatever the arguments. Worker processes are spawned, so a
    script that asks for them must keep its own code under
    `if __name__ == "__main__":`. Call `close()` when done.

    Args:
      dataset: from `make_dataset`.
      num_workers: number of processes that make batches; 0 uses a thread of this one.
      prefetch: batches made ahead, per worker; 0, possible only without workers, makes
        each batch when it is asked for.

    Raises:
      ValueError: a number is negative, or there are workers without prefetch.
    """
    if num_workers < 0 or prefetch < 0 or (num_workers and not prefetch):
        raise ValueError(
            "num_workers and prefetch must be 0 or more, and prefetch at least 1 "
            f"with workers; got {num_workers} and {prefetch}."
        )
    # A worker process prefetches by itself; threads would only wait for the GIL.
    threads = 0 if num_workers else min(1, prefetch)
    stream = dataset.to_iter_dataset(
        grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=prefetch if threads else 0
        )
    )
    if num_workers:
        if not flags.FLAGS.is_parsed():
            # grain reads absl flags when it starts workers. Outside absl.app.run, as
            # in a notebook or a test, they are not parsed; their defaults are right.
            flags.FLAGS.mark_as_parsed()
        return WorkerIterator(stream, num_workers=num_workers, buffer=prefetch)
    return iter(stream)
