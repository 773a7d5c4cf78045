"""Reads the inputs of a batch, and writes its outputs with all that goes with them."""

import hashlib
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from linearsr_jax.core import image_io
from linearsr_jax.core.files import sha256, write_text
from linearsr_jax.core.image_formats import ImageError
from linearsr_jax.core.images import Image
from linearsr_jax.inference.batch_plan import Job
from linearsr_jax.inference.manifest import (
    MAP_SETTING,
    Manifest,
    is_manifest,
    is_map,
    sidecar_of,
)

# Gray levels of a map of uncertainty for a standard deviation of one level.
_GRAY_PER_LEVEL = 8


@dataclass(frozen=True)
class FileOptions:
    """The choices for reading and writing files.

    Attributes:
      quality: see `image_io.write_image`.
      max_pixels: see `image_io.read_image`.
      stream_suffix: suffix of the format that standard output gets.
      seeds: so many make a map of uncertainty beside each output; None makes none.
      overwrite: whether to replace existing outputs.
    """

    quality: int | None = None
    max_pixels: int = image_io.MAX_PIXELS
    stream_suffix: str = ".png"
    seeds: int | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Source:
    """An input, and the SHA-256 of its bytes."""

    image: Image
    sha256: str


@dataclass(frozen=True)
class Result:
    """An upscaled image, and what is written with it.

    Attributes:
      image: the output.
      tags: tags that the model was told.
      deviation: uncertainty in levels, float32 (H, W); None without.
      manifest: how it was made; None without.
    """

    image: Image
    tags: tuple[str, ...]
    deviation: np.ndarray | None = None
    manifest: Manifest | None = None


def read_source(path: Path | None, files: FileOptions) -> Source:
    """Reads an image file, or standard input in place of None."""
    if path is not None:
        return Source(
            image_io.read_image(path, max_pixels=files.max_pixels), sha256(path)
        )
    data = sys.stdin.buffer.read()
    image = image_io.decode_image(data, "standard input", max_pixels=files.max_pixels)
    return Source(image, hashlib.sha256(data).hexdigest())


def write_result(job: Job, result: Result, files: FileOptions) -> None:
    """Writes an output, its map of uncertainty, and its manifest in it or beside it.

    The output comes last: where it exists, all that belongs to it does.

    Args:
      job: where to; standard output gets the image alone.
      result: what to write.
      files: how to write it.

    Raises:
      ImageError: see `image_io.write_image`; or a file that is no manifest has the
        manifest's name.
    """
    if job.target is None:
        _write_stream(result, files)
        return
    job.target.parent.mkdir(parents=True, exist_ok=True)
    sidecar, manifest = sidecar_of(job.target), result.manifest
    has_room = image_io.holds_comment(job.target, result.image)
    if manifest and not has_room:
        if not (files.overwrite or is_manifest(sidecar)):
            image_io.check_output_is_free(sidecar)
        write_text(sidecar, manifest.to_json() + "\n")
    if job.uncertainty and result.deviation is not None:
        levels = np.rint(np.minimum(_GRAY_PER_LEVEL * result.deviation, 255))
        image_io.write_image(
            job.uncertainty,
            Image(levels.astype(np.uint8)[..., None]),
            comment=_of_map(manifest, files).to_json() if manifest else None,
            # A run that was stopped may have written it, but not the output.
            overwrite=files.overwrite or is_map(job.uncertainty),
        )
    _write_image(job.target, result, files, overwrite=files.overwrite)
    if has_room and is_manifest(sidecar):
        sidecar.unlink()  # of an output that had this name before


def _of_map(manifest, files):
    return replace(manifest, settings={**manifest.settings, MAP_SETTING: files.seeds})


def _write_image(path, result, files, *, overwrite):
    image_io.write_image(
        path,
        result.image,
        keywords=result.tags,
        comment=result.manifest and result.manifest.to_json(),
        quality=files.quality,
        overwrite=overwrite,
    )


def _write_stream(result, files):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"image{files.stream_suffix}")
        _write_image(path, result, files, overwrite=False)
        try:
            with path.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except BrokenPipeError as error:
            raise ImageError("standard output", "was closed by its reader") from error
