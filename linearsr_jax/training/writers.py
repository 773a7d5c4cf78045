"""Writes the numbers and pictures of training to the log, to files and to TensorBoard.

`MetricWriter` has the part of clu's interface of the same name that training uses, and
validations, whose scores have a direction. tensorboardX writes TensorBoard's files,
unless the config asks for clu's writer, which needs TensorFlow.
"""

import json
import logging
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tensorboardX import SummaryWriter

from linearsr_jax.core.array_types import Array, UInt8
from linearsr_jax.core.files import written_whole
from linearsr_jax.core.image_io import write_image
from linearsr_jax.core.images import Image
from linearsr_jax.esgf.evaluation import Validation
from linearsr_jax.esgf.run_log import LOG
from linearsr_jax.training.goodput import count_as_lost
from linearsr_jax.training.hosts import is_first
from linearsr_jax.training.record import TrainError
from linearsr_jax.training.workdir import step_of

logger = logging.getLogger(__name__)

# Values of the config field `tensorboard`.
TENSORBOARD_WRITERS = ("tensorboardX", "clu")

Images = Mapping[str, UInt8[Array, "N H W 3"]]


class MetricWriter(Protocol):
    """Interface of writers; names and arguments mostly follow clu."""

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
          validation: scores with their step.
          metrics: names of the metrics that vote on the knee.
          others: further numbers of the same step, without a direction.
        """
        ...

    def write_images(self, step: int, images: Images) -> None:
        """Records named stacks of images, uint8 RGB."""
        ...

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Records named texts."""
        ...

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Records the settings of the run: numbers, strings and bools."""
        ...

    def flush(self) -> None:
        """Makes what was written readable."""
        ...

    def close(self) -> None:
        """Flushes and closes the writer."""
        ...


class IgnoringWriter:
    """A writer that ignores everything; others override what they can write.

    A validation is written as scalars.
    """

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Ignores the numbers; see `MetricWriter`."""

    def write_validation(
        self,
        validation: Validation,
        *,
        metrics: Collection[str],
        others: Mapping[str, float],
    ) -> None:
        """Writes the scores; see `MetricWriter`."""
        del metrics
        self.write_scalars(validation.step, {**validation.scores, **others})

    def write_images(self, step: int, images: Images) -> None:
        """Ignores the images; see `MetricWriter`."""

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Ignores the texts; see `MetricWriter`."""

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Ignores the settings; see `MetricWriter`."""

    def flush(self) -> None:
        """Does nothing; see `MetricWriter`."""

    def close(self) -> None:
        """Does nothing; see `MetricWriter`."""


class LogWriter(IgnoringWriter):
    """Logs numbers as one line per call, and texts as they are."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the numbers; see `MetricWriter`."""
        text = "  ".join(f"{name} {value:.5g}" for name, value in scalars.items())
        logger.info("step %d  %s", step, text)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes the texts; see `MetricWriter`."""
        for name, text in texts.items():
            logger.info("%s\n%s", name, text)


class JsonLinesWriter(IgnoringWriter):
    """Appends one JSON object per call: {"step": ..., name: value, ...}.

    Non-finite numbers are written as null, which strict readers can parse. Validations
    also have the directions of their scores; see `esgf.evaluation`. A resumed run drops
    the lines of the steps that it will repeat, but for the time that they took, which
    is lost, and damaged lines, such as the one that a killed run was writing.
    """

    def __init__(self, path: Path, resume_step: int):
        """Opens path for steps after resume_step."""
        kept: list[bytes] = []
        # The last row with times of each process, by how long it took to start,
        # which tells processes apart.
        last_kept: dict[float | None, Mapping[str, float]] = {}
        last_dropped: dict[float | None, Mapping[str, float]] = {}
        if path.exists():
            for number, line in enumerate(path.read_bytes().splitlines(), start=1):
                step = step_of(line)
                if step is None:
                    logger.warning("%s: dropped line %d, it is damaged", path, number)
                    continue
                row = json.loads(line)
                is_kept = step <= resume_step
                if is_kept:
                    kept.append(line + b"\n")
                if "seconds" in row:
                    last = last_kept if is_kept else last_dropped
                    last[row.get("seconds_starting")] = row
        for start, dropped in last_dropped.items():
            times = count_as_lost(dropped, last_kept.get(start))
            kept.append(json.dumps({"step": resume_step, **times}).encode() + b"\n")
        # Write it whole or not at all, since a run may be killed here too.
        with written_whole(path) as temporary:
            temporary.write_bytes(b"".join(kept))
        self._file = path.open("a")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the numbers; see `MetricWriter`."""
        self._write({"step": step, **_finite(scalars)})

    def write_validation(
        self,
        validation: Validation,
        *,
        metrics: Collection[str],
        others: Mapping[str, float],
    ) -> None:
        """Writes the scores; see `MetricWriter`."""
        self._write(validation.to_row(metrics) | _finite(others))

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes; see `MetricWriter`."""
        self._file.close()


class ImageFolderWriter(IgnoringWriter):
    """Writes images as folder/NAME_STEP.png, the images of a stack below each other."""

    def __init__(self, folder: Path):
        """Notes the folder, which is created with the first image."""
        self._folder = folder

    def write_images(self, step: int, images: Images) -> None:
        """Writes the images; see `MetricWriter`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, stack in images.items():
            path = self._folder / f"{name}_{step:08d}.png"
            write_image(path, Image(np.concatenate(list(stack))), overwrite=True)


class TensorBoardWriter(IgnoringWriter):
    """Writes TensorBoard's event files through tensorboardX.

    A resumed run hides the steps that it will repeat.
    """

    def __init__(self, folder: Path, resume_step: int):
        """Opens a new event file for steps after resume_step."""
        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the numbers; see `MetricWriter`."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def write_images(self, step: int, images: Images) -> None:
        """Writes the images; see `MetricWriter`."""
        for name, stack in images.items():
            self._writer.add_images(name, np.asarray(stack), step, dataformats="NHWC")

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes the texts; see `MetricWriter`."""
        for name, text in texts.items():
            # TensorBoard reads Markdown, where four spaces keep columns apart.
            block = "\n".join("    " + line for line in text.splitlines())
            self._writer.add_text(name, block, step)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the settings as a text: tensorboardX would make a run of each call."""
        rows = (f"{name} = {value!r}" for name, value in sorted(hparams.items()))
        self.write_texts(0, {"config": "\n".join(rows)})

    def flush(self) -> None:
        """Flushes; see `MetricWriter`."""
        self._writer.flush()

    def close(self) -> None:
        """Closes; see `MetricWriter`."""
        self._writer.close()


class CluWriter(IgnoringWriter):
    """Writes TensorBoard's event files through clu and TensorFlow.

    A resumed run writes the steps that it repeats a second time.
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
                "tensorboard='clu' needs TensorFlow: pip install tensorflow, or use "
                "--override tensorboard=tensorboardX"
            ) from error
        # TensorFlow would take all the memory of every GPU it sees.
        tensorflow.config.set_visible_devices([], "GPU")
        writer = metric_writers.SummaryWriter(str(folder))
        self.write_scalars = writer.write_scalars
        self.write_images = writer.write_images
        self.write_texts = writer.write_texts
        self.write_hparams = writer.write_hparams
        self.flush = writer.flush
        self.close = writer.close


class ManyWriters:
    """Passes every call on to several writers."""

    def __init__(self, *members: MetricWriter):
        """Takes the writers, which are closed with this one."""
        self._members = members

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the numbers; see `MetricWriter`."""
        for writer in self._members:
            writer.write_scalars(step, scalars)

    def write_validation(
        self,
        validation: Validation,
        *,
        metrics: Collection[str],
        others: Mapping[str, float],
    ) -> None:
        """Writes the scores; see `MetricWriter`."""
        for writer in self._members:
            writer.write_validation(validation, metrics=metrics, others=others)

    def write_images(self, step: int, images: Images) -> None:
        """Writes the images; see `MetricWriter`."""
        for writer in self._members:
            writer.write_images(step, images)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes the texts; see `MetricWriter`."""
        for writer in self._members:
            writer.write_texts(step, texts)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the settings; see `MetricWriter`."""
        for writer in self._members:
            writer.write_hparams(hparams)

    def flush(self) -> None:
        """Flushes; see `MetricWriter`."""
        for writer in self._members:
            writer.flush()

    def close(self) -> None:
        """Closes; see `MetricWriter`."""
        for writer in self._members:
            writer.close()


def make_writer(
    workdir: Path, *, resume_step: int, tensorboard: str = "tensorboardX"
) -> MetricWriter:
    """Makes the writers of a run; all but the first process get one that ignores all.

    They write the log, and metrics.jsonl, images/ and tensorboard/ in workdir.

    Args:
      workdir: existing folder of the run.
      resume_step: step that the run starts or resumes at.
      tensorboard: writer of TensorBoard's files, one of TENSORBOARD_WRITERS.

    Raises:
      TrainError: see `CluWriter`.
    """
    if not is_first():
        return IgnoringWriter()
    folder = workdir / "tensorboard"
    event_files = (
        CluWriter(folder)
        if tensorboard == "clu"
        else TensorBoardWriter(folder, resume_step)
    )
    return ManyWriters(
        LogWriter(),
        JsonLinesWriter(workdir / LOG, resume_step),
        ImageFolderWriter(workdir / "images"),
        event_files,
    )


def _finite(scalars: Mapping[str, float]) -> dict[str, float | None]:
    return {
        name: float(value) if math.isfinite(value) else None
        for name, value in scalars.items()
    }
