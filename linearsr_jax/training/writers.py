"""Where training's numbers and pictures go: the log, files, TensorBoard.

`MetricWriter` is the part of clu's interface of that name that training uses. clu's
own writers need TensorFlow: they write the TensorBoard files where it is installed,
tensorboardX does where not.
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from tensorboardX import SummaryWriter

from linearsr_jax.core.array_types import Array, UInt8
from linearsr_jax.core.image_io import write_image

logger = logging.getLogger(__name__)

Images = Mapping[str, UInt8[Array, "N H W 3"]]


class MetricWriter(Protocol):
    """What the training loop calls; names and arguments are clu's."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records named numbers of a step."""
        ...

    def write_images(self, step: int, images: Images) -> None:
        """Records named stacks of images, uint8 RGB."""
        ...

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Records named texts."""
        ...

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Records the settings of the run: numbers, strings and truth values."""
        ...

    def flush(self) -> None:
        """Makes what was written readable."""
        ...

    def close(self) -> None:
        """Flushes and ends."""
        ...


class IgnoringWriter:
    """Ignores everything; a writer overrides what it has a place for."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `MetricWriter`."""

    def write_images(self, step: int, images: Images) -> None:
        """See `MetricWriter`."""

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """See `MetricWriter`."""

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """See `MetricWriter`."""

    def flush(self) -> None:
        """See `MetricWriter`."""

    def close(self) -> None:
        """See `MetricWriter`."""


class LogWriter(IgnoringWriter):
    """Numbers as one line of the log a call, texts as they are."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `MetricWriter`."""
        text = "  ".join(f"{name} {value:.5g}" for name, value in scalars.items())
        logger.info("step %d  %s", step, text)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """See `MetricWriter`."""
        for name, text in texts.items():
            logger.info("%s\n%s", name, text)


class JsonLinesWriter(IgnoringWriter):
    """Appends one JSON object a call: {"step": ..., name: value, ...}.

    Non-finite numbers are written as null, which strict readers can parse. A run
    that resumes drops the lines of steps it is about to repeat.
    """

    def __init__(self, path: Path, resume_step: int):
        """Opens path for steps after resume_step."""
        kept = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= resume_step:
                        kept.append(line + "\n")
                except (json.JSONDecodeError, KeyError):
                    continue  # the line a killed run was writing
        # Whole or not at all: a run may be killed here too.
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_text("".join(kept))
        temporary.replace(path)
        self._file = path.open("a")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `MetricWriter`."""
        row: dict[str, Any] = {"step": step}
        for name, value in scalars.items():
            row[name] = float(value) if math.isfinite(value) else None
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        """See `MetricWriter`."""
        self._file.close()


class ImageFolderWriter(IgnoringWriter):
    """Images as PNG files: folder/NAME_STEP.png, a stack one below the other."""

    def __init__(self, folder: Path):
        """Makes the folder with its first image."""
        self._folder = folder

    def write_images(self, step: int, images: Images) -> None:
        """See `MetricWriter`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, stack in images.items():
            path = self._folder / f"{name}_{step:08d}.png"
            write_image(path, np.concatenate(list(stack)), "RGB", overwrite=True)


class TensorBoardWriter:
    """TensorBoard's event files, through tensorboardX.

    A run that resumes hides the steps it is about to repeat.
    """

    def __init__(self, folder: Path, resume_step: int):
        """Opens a new event file for steps after resume_step."""
        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `MetricWriter`."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def write_images(self, step: int, images: Images) -> None:
        """See `MetricWriter`."""
        for name, stack in images.items():
            self._writer.add_images(name, np.asarray(stack), step, dataformats="NHWC")

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """See `MetricWriter`."""
        for name, text in texts.items():
            # TensorBoard reads Markdown, where four spaces keep columns apart.
            block = "\n".join("    " + line for line in text.splitlines())
            self._writer.add_text(name, block, step)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """See `MetricWriter`. As a text: tensorboardX gives each call a run."""
        rows = (f"{name} = {value!r}" for name, value in sorted(hparams.items()))
        self.write_texts(0, {"config": "\n".join(rows)})

    def flush(self) -> None:
        """See `MetricWriter`."""
        self._writer.flush()

    def close(self) -> None:
        """See `MetricWriter`."""
        self._writer.close()


class ManyWriters:
    """Hands every call on to several writers."""

    def __init__(self, *members: MetricWriter):
        """Keeps the writers, which close with this one."""
        self._members = members

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `MetricWriter`."""
        for writer in self._members:
            writer.write_scalars(step, scalars)

    def write_images(self, step: int, images: Images) -> None:
        """See `MetricWriter`."""
        for writer in self._members:
            writer.write_images(step, images)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """See `MetricWriter`."""
        for writer in self._members:
            writer.write_texts(step, texts)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """See `MetricWriter`."""
        for writer in self._members:
            writer.write_hparams(hparams)

    def flush(self) -> None:
        """See `MetricWriter`."""
        for writer in self._members:
            writer.flush()

    def close(self) -> None:
        """See `MetricWriter`."""
        for writer in self._members:
            writer.close()


def make_writer(workdir: Path, *, resume_step: int) -> MetricWriter:
    """The log, and on the first process the files in workdir.

    These are metrics.jsonl, images/ and tensorboard/.
    """
    if jax.process_index() != 0:
        return LogWriter()
    return ManyWriters(
        LogWriter(),
        JsonLinesWriter(workdir / "metrics.jsonl", resume_step),
        ImageFolderWriter(workdir / "images"),
        _make_tensorboard_writer(workdir / "tensorboard", resume_step),
    )


def _make_tensorboard_writer(folder: Path, resume_step: int) -> MetricWriter:
    try:
        import tensorflow
        from clu import metric_writers
    except ImportError:
        return TensorBoardWriter(folder, resume_step)
    # TensorFlow takes all memory of every GPU it sees.
    tensorflow.config.set_visible_devices([], "GPU")
    return metric_writers.SummaryWriter(str(folder))
