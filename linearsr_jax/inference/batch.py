"""Upscaling files: one image computes while the next is read and the last is written.

What goes wrong with one image is reported, and the others are still done.
"""

import functools
import itertools
import logging
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linearsr_jax.core import image_io
from linearsr_jax.core.image_formats import ImageError
from linearsr_jax.core.images import Image
from linearsr_jax.inference.batch_plan import STREAM, Failure, Job
from linearsr_jax.inference.sizes import OutputSize
from linearsr_jax.inference.upscaler import Upscaler

_logger = logging.getLogger(__name__)

# LR pixels from which on an image is computed only after the last one is written, so
# that two large outputs are not held at once.
_OVERLAPPED_PIXELS = 4_000_000
# And from which on it is said what it will take.
_ANNOUNCED_PIXELS = 1_000_000
# Gray levels of a map of uncertainty for a standard deviation of one level.
_GRAY_PER_LEVEL = 8

FindTags = Callable[[np.ndarray], Sequence[str]]


@dataclass(frozen=True)
class FileOptions:
    """How files are read and written.

    Attributes:
      quality: see `image_io.write_image`.
      max_pixels: see `image_io.read_image`.
      stream_suffix: of the format that standard output gets.
      seeds: so many make a map of uncertainty beside each output; None makes none.
    """

    quality: int | None = None
    max_pixels: int = image_io.MAX_PIXELS
    stream_suffix: str = ".png"
    seeds: int | None = None


@dataclass(frozen=True)
class Output:
    """An image that was upscaled.

    Attributes:
      input, output: names of the files, "-" for a stream.
      width, height: of the output, in pixels.
      seconds: reading, computing and writing.
      tags: tags that the model was told.
    """

    input: str
    output: str
    width: int
    height: int
    seconds: float
    tags: tuple[str, ...]


@dataclass(frozen=True)
class _Timed:
    value: Any
    seconds: float


def upscale_files(
    upscaler: Upscaler,
    jobs: Sequence[Job],
    *,
    overwrite: bool,
    find_tags: FindTags,
    files: FileOptions = FileOptions(),
    **settings: Any,
) -> Iterator[Output | Failure]:
    """Runs the jobs in order; whatever one of them raises, the others still run.

    Args:
      upscaler: the model.
      jobs: jobs from `batch_plan.make_plan`.
      overwrite: whether to replace existing outputs.
      find_tags: function from an image to its tags; those that the model knows are
        also written into the output.
      files: how files are read and written.
      **settings: further arguments of `Upscaler.__call__`.

    Yields:
      What became of each job, in their order.
    """

    def compute(image: Image) -> tuple[Image, tuple[str, ...], Image | None]:
        if image.pixels.size > 3 * _ANNOUNCED_PIXELS:
            _logger.info("linearsr: %s", _estimate(upscaler, image, settings))
        tags = upscaler.select_tags(find_tags(image.rgb))
        spread = None
        if files.seeds is not None:
            spread = _spread(upscaler, image, files.seeds, tags=tags, **settings)
        return upscaler(image, tags=tags, **settings), tags, spread

    def write(
        job: Job, image: Image, tags: Sequence[str], spread: Image | None
    ) -> None:
        if spread is not None and job.target is not None:
            path = job.target.with_name(f"{job.target.stem}_uncertainty.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            image_io.write_image(path, spread, overwrite=overwrite)
        _write(job.target, image, tags, files, overwrite=overwrite)

    waiting = iter(jobs)
    images: deque[tuple[Job, Future]] = deque()
    outputs: deque[tuple[Job, Future, Callable[[float], Output]]] = deque()
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:

        def read_ahead(count: int) -> None:
            for job in itertools.islice(waiting, count):
                images.append((job, reader.submit(_timed, _read, job.source, files)))

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
                image = reading.result()
                read_ahead(1)
                if image.value.pixels.size > 3 * _OVERLAPPED_PIXELS:
                    yield from finish(0)
                done = _timed(compute, image.value)
            except Exception as error:
                read_ahead(2 - len(images))
                yield from finish(0)
                yield _failure(job, error)
                continue
            image_hr, tags, _ = done.value
            seconds = image.seconds + done.seconds
            describe = _describer(job, image_hr, tags, seconds)
            writing = writer.submit(_timed, write, job, *done.value)
            outputs.append((job, writing, describe))
            del image, done, image_hr, reading, writing
            yield from finish(1)
        yield from finish(0)


def _spread(upscaler: Upscaler, image: Image, seeds: int, **settings: Any) -> Image:
    """Makes a picture of the uncertainty, in 8 bits."""
    deviation = upscaler.uncertainty(image, count=seeds, **settings)
    levels = np.rint(np.minimum(_GRAY_PER_LEVEL * deviation, 255))
    return Image(levels.astype(np.uint8)[..., None])


def _estimate(upscaler: Upscaler, image: Image, settings: Mapping[str, Any]) -> str:
    height, width = image.pixels.shape[:2]
    names = ("scale", "size", "max_side")
    size = OutputSize(*(settings.get(name) for name in names))
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


def _describer(
    job: Job, image: Image, tags: Sequence[str], seconds: float
) -> Callable[[float], Output]:
    """Returns a function from the seconds of writing to the description.

    It does not keep the image.
    """
    height, width = image.pixels.shape[:2]
    names = str(job.source or STREAM), str(job.target or STREAM)
    return lambda writing: Output(
        *names, width, height, round(seconds + writing, 3), tuple(tags)
    )


def _failure(job: Job, error: Exception) -> Failure:
    _logger.debug("%s", job, exc_info=error)
    return Failure(
        str(job.source or STREAM), str(job.target or STREAM), _text_of(error)
    )


def _text_of(error: Exception) -> str:
    """Returns one line about an error of one image, with the cure if there is one."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return (
            "out of memory; --max-memory GB upscales in bands that take less, "
            f"or close other programs ({text or 'no more is known'})"
        )
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    is_own = type(error).__module__.startswith("linearsr_jax")
    if is_own or isinstance(error, OSError | ValueError):
        return text or type(error).__name__
    return (
        f"{type(error).__name__}: {text}; this is a bug, please report it with what "
        "--debug shows"
    )


def _read(source: Path | None, files: FileOptions) -> Image:
    if source is None:
        data = sys.stdin.buffer.read()
        return image_io.decode_image(
            data, "standard input", max_pixels=files.max_pixels
        )
    return image_io.read_image(source, max_pixels=files.max_pixels)


def _write(
    target: Path | None,
    image: Image,
    tags: Sequence[str],
    files: FileOptions,
    *,
    overwrite: bool,
) -> None:
    write = functools.partial(
        image_io.write_image, image=image, keywords=tags, quality=files.quality
    )
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(target, overwrite=overwrite)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"image{files.stream_suffix}")
        write(path)
        try:
            with path.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except BrokenPipeError as error:
            raise ImageError("standard output", "was closed by its reader") from error
