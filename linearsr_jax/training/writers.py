"""Where training's numbers and pictures go: the log, files, TensorBoard.

`MetricWriter` is the part of clu's interface of that name that training uses, and
validations, whose scores have a direction. tensorboardX writes TensorBoard's files,
unless the config asks for clu's writer, which needs TensorFlow.
"""

import json
import logging
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from tensorboardX import SummaryWriter

from linearsr_jax.core.array_types import Array, UInt8
from linearsr_jax.core.image_io import write_image
from linearsr_jax.core.images import Image
from linearsr_jax.esgf.evaluation import Validation
from linearsr_jax.training.record import TrainError

logger = logging.getLogger(__name__)

# Values of the config's field tensorboard.
TENSORBOARD_WRITERS = ("tensorboardX", "clu")

Images = Mapping[str, UInt8[Array, "N H W 3"]]


class MetricWriter(Protocol):
    """What the training loop calls; names and arguments are mostly clu's."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records named numbers of a step."""
        ...

    def write_validation(
        self,
        validation: Validation,
        *,
        metrics: Collection[str],
        others: Mapping[str, float],
    ) -> None:
        """Records the scores of a validation.

        Args:
          validation: with its step.
          metrics: names of those that vote on the knee.
          others: numbers of the same step without a direction.
        """
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
    """Ignores everything; a writer overrides what it has a place for.

    A validation is written as scalars.
    """

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `MetricWriter`."""

    def write_validation(
        self,
        validation: Validation,
        *,
        metrics: Collection[str],
        others: Mapping[str, float],
    ) -> None:
        """See `MetricWriter`."""
        del metrics
        self.write_scalars(validation.step, {**validation.scores, **others})

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

    Non-finite numbers are written as null, which strict readers can parse. Those of
    validations say beside their scores what is better, see `esgf.evaluation`. A run
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
        self._write({"step": step, **_finite(scalars)})

    def write_validation(
        self,
        validation: Validation,
        *,
        metrics: Collection[str],
        others: Mapping[str, float],
    ) -> None:
        """See `MetricWriter`."""
        self._write(validation.to_row(metrics) | _finite(others))

    def _write(self, row: Mapping[str, Any]) -> None:
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
            write_image(path, Image(np.concatenate(list(stack))), overwrite=True)


class TensorBoardWriter(IgnoringWriter):
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


class CluWriter(IgnoringWriter):
    """TensorBoard's event files, through clu and TensorFlow.

    A run that resumes writes the steps it repeats once more.
    """

    def __init__(self, folder: Path):
        """Opens a new event file.

        Raises:
          TrainError: TensorFlow is not installed.
        """
        try:
            import tensorflow
            from clu import metric_writers
        except ImportError as error:
            raise TrainError(
                "tensorboard='clu' needs TensorFlow: pip install tensorflow, or take "
                "--override tensorboard=tensorboardX"
            ) from error
        # TensorFlow takes all memory of every GPU it sees.
        tensorflow.config.set_visible_devices([], "GPU")
        writer = metric_writers.SummaryWriter(str(folder))
        self.write_scalars = writer.write_scalars
        self.write_images = writer.write_images
        self.write_texts = writer.write_texts
        self.write_hparams = writer.write_hparams
        self.flush = writer.flush
        self.close = writer.close


class ManyWriters:
    """Hands every call on to several writers."""

    def __init__(self, *members: MetricWriter):
        """Keeps the writers, which close with this one."""
        self._members = members

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `MetricWriter`."""
        for writer in self._members:
            writer.write_scalars(step, scalars)

    def write_validation(
        self,
        validation: Validation,
        *,
        metrics: Collection[str],
        others: Mapping[str, float],
    ) -> None:
        """See `MetricWriter`."""
        for writer in self._members:
            writer.write_validation(validation, metrics=metrics, others=others)

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


def make_writer(
    workdir: Path, *, resume_step: int, tensorboard: str = "tensorboardX"
) -> MetricWriter:
    """Makes the log, and on the first process the files in workdir.

    These are metrics.jsonl, images/ and tensorboard/.

    Args:
      workdir: exists.
      resume_step: the step that the run goes on from.
      tensorboard: who writes TensorBoard's files, one of TENSORBOARD_WRITERS.

    Raises:
      TrainError: see `CluWriter`.
    """
    if jax.process_index() != 0:
        return LogWriter()
    folder = workdir / "tensorboard"
    event_files = (
        CluWriter(folder)
        if tensorboard == "clu"
        else TensorBoardWriter(folder, resume_step)
    )
    return ManyWriters(
        LogWriter(),
        JsonLinesWriter(workdir / "metrics.jsonl", resume_step),
        ImageFolderWriter(workdir / "images"),
        event_files,
    )


def _finite(scalars: Mapping[str, float]) -> dict[str, float | None]:
    return {
        name: float(value) if math.isfinite(value) else None
        for name, value in scalars.items()
    }
