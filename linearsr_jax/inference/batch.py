"""Upscaling files: which input becomes which output, one after another."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from linearsr_jax.core import image_io
from linearsr_jax.inference.upscaler import UpscaleError, Upscaler

logger = logging.getLogger(__name__)

# Of outputs in a folder: lossless, whatever the input was.
_OUTPUT_SUFFIX = ".png"


FindTags = Callable[[np.ndarray], Sequence[str]]


class Job(NamedTuple):
    """One image to do."""

    input: Path
    output: Path


def plan_outputs(inputs: Sequence[Path], output: Path, *, recursive: bool) -> list[Job]:
    """Decides where each image goes, before anything is done.

    One image goes to `output` itself if that has an image suffix. Otherwise output
    is a folder, made if missing, that gets NAME.png for each image; images found in
    a folder's folders keep their place below it.

    Raises:
      image_io.ImageError: a missing input, a folder without images, or two inputs
        that would share one output.
    """
    is_single = len(inputs) == 1 and not inputs[0].is_dir()
    if is_single and not output.is_dir() and output.suffix:
        return [Job(inputs[0], output)]
    if output.exists() and not output.is_dir():
        raise image_io.ImageError(output, "is a file; several images need a folder")
    jobs: dict[Path, Job] = {}
    for given in inputs:
        root = given if given.is_dir() else given.parent
        for path in image_io.find_images(given, recursive=recursive):
            target = (output / path.relative_to(root)).with_suffix(_OUTPUT_SUFFIX)
            if target in jobs and jobs[target].input != path:
                raise image_io.ImageError(
                    target,
                    f"{path} and {jobs[target].input} would both become this file; "
                    "upscale them into different folders",
                )
            jobs[target] = Job(path, target)
    return list(jobs.values())


def upscale_files(
    upscaler: Upscaler,
    jobs: Sequence[Job],
    *,
    overwrite: bool,
    find_tags: FindTags,
    **settings: Any,
) -> tuple[list[dict[str, Any]], int]:
    """Runs the jobs; a failure is reported and the others still run.

    Args:
      upscaler: the model.
      jobs: jobs from `plan_outputs`.
      overwrite: whether to replace existing outputs.
      find_tags: function from an image to its tags; those that the model knows are
        also written into the output.
      **settings: further arguments of `Upscaler.__call__`.

    Returns:
      The outputs in the form that --json prints, and the number of failures.
    """
    outputs, failures = [], 0
    with (
        logging_redirect_tqdm(),
        tqdm(jobs, unit="image", disable=None if len(jobs) > 1 else True) as bar,
    ):
        for job in bar:
            try:
                done = _upscale_file(upscaler, job, overwrite, find_tags, settings)
            except (image_io.ImageError, UpscaleError, OSError) as error:
                failures += 1
                logger.error("linearsr: %s", error)
                continue
            outputs.append(done)
            shown = "".join(f"  {tag}" for tag in done["tags"])
            numbers = (done[key] for key in _REPORTED)
            logger.info("%s -> %s  %dx%d  %.1f s%s", *job, *numbers, shown)
    return outputs, failures


_REPORTED = ("width", "height", "seconds")


def _upscale_file(
    upscaler: Upscaler,
    job: Job,
    overwrite: bool,
    find_tags: FindTags,
    settings: dict[str, Any],
) -> dict[str, Any]:
    start = time.perf_counter()
    image_io.check_output(job.output, overwrite=overwrite)
    image = image_io.read_image(job.input)
    tags = list(upscaler.select_tags(find_tags(image.rgb)))
    image_hr = upscaler(image, tags=tags, **settings)
    job.output.parent.mkdir(parents=True, exist_ok=True)
    image_io.write_image(job.output, image_hr, keywords=tags, overwrite=overwrite)
    return {
        "input": str(job.input),
        "output": str(job.output),
        "width": image_hr.pixels.shape[1],
        "height": image_hr.pixels.shape[0],
        "seconds": round(time.perf_counter() - start, 3),
        "tags": tags,
    }
