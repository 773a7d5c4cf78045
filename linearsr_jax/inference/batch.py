"""Upscaling files: one image computes while the next is read and the last is written.

What goes wrong with one image is reported, and the others are still done.
"""

import dataclasses
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from linearsr_jax.core.error_lines import describe_error, ran_out_of_memory
from linearsr_jax.core.images import Image
from linearsr_jax.inference.batch_files import (
    FileOptions,
    Result,
    Source,
    read_source,
    write_result,
)
from linearsr_jax.inference.batch_inputs import STREAM, Failure
from linearsr_jax.inference.batch_plan import Job
from linearsr_jax.inference.manifest import Manifest
from linearsr_jax.inference.sizes import OutputSize
from linearsr_jax.inference.upscaler import Upscaler

_logger = logging.getLogger(__name__)

# LR pixels from which on an image is computed only after the last one is written, so
# that two large outputs are not held at once.
_OVERLAPPED_PIXELS = 4_000_000
# And from which on it is said what it will take.
_ANNOUNCED_PIXELS = 1_000_000
FindTags = Callable[[np.ndarray], Sequence[str]]


@dataclass(frozen=True)
class Output:
    """An image that was upscaled.

    Attributes:
      input, output: names of the files, "-" for a stream.
      width, height: size of the output in pixels.
      seconds: reading, computing and writing.
      tags: tags that the model was told.
      manifest: how it was made, as it is in the file or beside it.
    """

    input: str
    output: str
    width: int
    height: int
    seconds: float
    tags: tuple[str, ...]
    manifest: Manifest | None = None


@dataclass(frozen=True)
class _Timed:
    value: Any
    seconds: float


def upscale_files(
    upscaler: Upscaler,
    jobs: Sequence[Job],
    *,
    find_tags: FindTags,
    files: FileOptions,
    manifest: Manifest | None = None,
    **settings: Any,
) -> Iterator[Output | Failure]:
    """Runs the jobs in order; whatever one of them raises, the others still run.

    Args:
      upscaler: the model.
      jobs: jobs from `batch_plan.make_plan`.
      find_tags: function from an image to its tags; those that the model knows are
        also written into the output.
      files: how files are read and written.
      manifest: written into each output, with the input and tags filled in.
      **settings: further arguments of `Upscaler.__call__`.

    Yields:
      What became of each job, in their order.
    """

    size = OutputSize(*(settings.get(name) for name in ("scale", "size", "max_side")))

    def compute(job: Job, source: Source) -> Result:
        image = source.image
        if image.pixels.size > 3 * _ANNOUNCED_PIXELS:
            _logger.info("linearsr: %s", _estimate(upscaler, image, size, settings))
        width, height = image.pixels.shape[1::-1]
        if size.stretches(width, height):
            _logger.warning(
                "linearsr: %s: %dx%d becomes %dx%d, of other proportions; name one "
                "side to keep them",
                job.source or STREAM,
                width,
                height,
                *size.of(width, height),
            )
        tags = upscaler.select_tags(find_tags(image.rgb))
        deviation = record = None
        if files.seeds is not None:
            deviation = upscaler.uncertainty(
                image, count=files.seeds, tags=tags, **settings
            )
        if manifest is not None:
            name = job.source.name if job.source else STREAM
            suffix = job.target.suffix if job.target else files.stream_suffix
            record = dataclasses.replace(
                manifest,
                settings={**manifest.settings, "format": suffix[1:].lower()},
                input=name,
                input_sha256=source.sha256,
                tags=tuple(tags),
            )
        return Result(upscaler(image, tags=tags, **settings), tags, deviation, record)

    waiting = iter(jobs)
    images: deque[tuple[Job, Future]] = deque()
    outputs: deque[tuple[Job, Future, Callable[[float], Output]]] = deque()
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:

        def read_ahead(count: int) -> None:
            for job in itertools.islice(waiting, count):
                reading = reader.submit(_timed, read_source, job.source, files)
                images.append((job, reading))

        def finish(keep: int) -> Iterator[Output | Failure]:
            while len(outputs) > keep:
                job, writing, describe = outputs.popleft()
                try:
                    yield describe(writing.result().seconds)
                except Exception as error:
                    yield _failure(job, error)

        read_ahead(2)
        while images:
            job, reading = images.popleft()
            try:
                source = reading.result()
                read_ahead(1)
                if source.value.image.pixels.size > 3 * _OVERLAPPED_PIXELS:
                    yield from finish(0)
                done = _timed(compute, job, source.value)
            except Exception as error:
                read_ahead(2 - len(images))
                yield from finish(0)
                yield _failure(job, error)
                continue
            describe = _describer(job, done.value, source.seconds + done.seconds)
            writing = writer.submit(_timed, write_result, job, done.value, files)
            outputs.append((job, writing, describe))
            del source, done, reading, writing
            yield from finish(1)
        yield from finish(0)


def _estimate(
    upscaler: Upscaler, image: Image, size: OutputSize, settings: Mapping[str, Any]
) -> str:
    height, width = image.pixels.shape[:2]
    estimate = upscaler.estimate(
        width,
        height,
        size=size,
        steps=settings.get("steps"),
        guided=settings.get("guidance_scale", 1) != 1,
    )
    new_width, new_height = size.of(width, height)
    return f"{width}x{height} to {new_width}x{new_height}: {estimate}"


def _timed(function: Callable, *args: Any) -> _Timed:
    start = time.perf_counter()
    value = function(*args)
    return _Timed(value, time.perf_counter() - start)


def _describer(job: Job, result: Result, seconds: float) -> Callable[[float], Output]:
    """Returns a function from the seconds of writing to the description.

    It does not keep the image.
    """
    height, width = result.image.pixels.shape[:2]
    names = str(job.source or STREAM), str(job.target or STREAM)
    more = tuple(result.tags), result.manifest
    return lambda writing: Output(
        *names, width, height, round(seconds + writing, 3), *more
    )


def _failure(job: Job, error: Exception) -> Failure:
    _logger.debug("%s", job, exc_info=error)
    return Failure(
        str(job.source or STREAM), str(job.target or STREAM), _text_of(error)
    )


def _text_of(error: Exception) -> str:
    """Returns one line about an error of one image, with the cure if there is one."""
    text = describe_error(error)
    # The model itself has taken to bands before; this comes of the file.
    if ran_out_of_memory(error):
        text += "; close other programs, or give a smaller image"
    return text
