"""Reports where a run's time goes to Google Cloud, by ml-goodput-measurement.

That package writes events to Cloud Logging and computes from them, also over restarts,
what share of a job has trained. `config.goodput_job` names the job.
"""

from typing import Any

from linearsr_jax.training.hosts import is_first
from linearsr_jax.training.record import TrainError


class CloudGoodput:
    """A `goodput.Listener` that writes events of the package.

    Starting is its training preparation and waiting for data its data loading; the
    other kinds of `run_log.KINDS` are custom events by their names. What a rewind loses
    it finds by itself, since steps come again.
    """

    def __init__(self, recorder: Any):
        """Begins the job.

        Args:
          recorder: the package's GoodputRecorder.
        """
        self._recorder = recorder
        recorder.record_job_start_time()

    def begin(self, kind: str) -> None:
        """Writes that time of a kind begins."""
        if kind == "starting":
            self._recorder.record_training_preparation_start_time()
        elif kind == "data_wait":
            self._recorder.record_data_loading_start_time()
        else:
            self._recorder.record_custom_badput_event_start_time(
                custom_badput_event_type=kind
            )

    def end(self, kind: str) -> None:
        """Writes that time of a kind ends."""
        if kind == "starting":
            self._recorder.record_training_preparation_end_time()
        elif kind == "data_wait":
            self._recorder.record_data_loading_end_time()
        else:
            self._recorder.record_custom_badput_event_end_time(
                custom_badput_event_type=kind
            )

    def begin_step(self, step: int) -> None:
        """Writes that a step begins."""
        self._recorder.record_step_start_time(step)

    def close(self) -> None:
        """Ends the job, and waits until all has been written."""
        self._recorder.record_job_end_time()
        self._recorder.flush()


def open_cloud_goodput(job: str) -> CloudGoodput:
    """Connects to Cloud Logging; processes but the first one write nothing.

    Args:
      job: name of the job, the same for all its restarts. Events go to the log
        goodput_JOB.

    Raises:
      TrainError: the package is not installed, or there is no access to the project.
    """
    try:
        # An extra of a few users: it brings six packages of Google Cloud's.
        from ml_goodput_measurement.src.goodput import GoodputRecorder
    except ImportError as error:
        raise TrainError(
            f"goodput_job={job!r} needs: pip install ml-goodput-measurement"
        ) from error
    try:
        recorder = GoodputRecorder(job, f"goodput_{job}", logging_enabled=is_first())
    # The errors of google-auth and google-cloud-logging have no base of their own.
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise TrainError(f"goodput_job={job!r}: no Cloud Logging: {text}") from error
    return CloudGoodput(recorder)
