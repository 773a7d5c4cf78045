"""Reports a batch: a bar on a terminal, a line for each image, a summary, JSON."""

import contextlib
import dataclasses
import json
import logging
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linearsr_jax.inference.batch import Output
    from linearsr_jax.inference.batch_inputs import Failure
    from linearsr_jax.inference.batch_plan import Plan

_logger = logging.getLogger(__name__)


class BatchReport:
    """Tells the user what happens, and keeps it for the end."""

    def __init__(self, *, is_json: bool):
        self._is_json = is_json
        self._outputs: list[dict] = []
        self._failures: list[dict] = []
        self._skipped: list[dict] = []
        self._jobs = 0
        self._failed_before = 0
        self._stack = contextlib.ExitStack()
        self._bar = None
        self._start = time.perf_counter()

    def __enter__(self) -> "BatchReport":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(self, event: "Plan | Output | Failure") -> None:
        """Takes in what happened."""
        from linearsr_jax.inference.batch_inputs import Failure
        from linearsr_jax.inference.batch_plan import Plan

        if isinstance(event, Plan):
            self._start_plan(event)
            return
        if isinstance(event, Failure):
            self._fail(event)
        else:
            self._outputs.append(dataclasses.asdict(event))
            tags = "".join(f"  {tag}" for tag in event.tags)
            _logger.info(
                "%s -> %s  %dx%d  %.1f s%s",
                event.input,
                event.output,
                event.width,
                event.height,
                event.seconds,
                tags,
            )
        if self._bar is not None:
            self._bar.update()

    def _start_plan(self, plan: "Plan") -> None:
        self._jobs = len(plan.jobs)
        _logger.debug("linearsr: %d images to do", self._jobs)
        self._skipped = [dataclasses.asdict(skip) for skip in plan.skipped]
        for failure in plan.failures:
            self._fail(failure)
        self._failed_before = len(plan.failures)
        if self._jobs > 1 and sys.stderr.isatty():
            from tqdm import tqdm
            from tqdm.contrib.logging import logging_redirect_tqdm

            # Lines of other threads, too, go above the bar.
            self._stack.enter_context(logging_redirect_tqdm())
            bar = tqdm(total=self._jobs, unit="image")
            self._bar = self._stack.enter_context(bar)

    def _fail(self, failure: "Failure") -> None:
        self._failures.append(dataclasses.asdict(failure))
        text = failure.error
        if not text.startswith((failure.input, failure.output or failure.input)):
            text = f"{failure.input}: {text}"
        _logger.error("linearsr: %s", text)

    def fail(self, error: Exception) -> None:
        """Prints the JSON of a command that ends with an error."""
        if self._is_json:
            self._print_json(error=" ".join(str(error).split()))

    def finish(self, interrupted_by: str | None = None) -> int:
        """Prints the summary and the JSON, and returns the exit code."""
        seconds = time.perf_counter() - self._start
        done, failed, skipped = map(len, (self._outputs, self._failures, self._skipped))
        if done + failed + skipped != 1 or skipped or interrupted_by:
            reasons = Counter(refusal["reason"] for refusal in self._skipped)
            parts = [f"{done} upscaled in {seconds:.1f} s"]
            parts += [f"{failed} failed"] * bool(failed)
            parts += [f"{n} skipped ({reason})" for reason, n in reasons.items()]
            if interrupted_by:
                left = self._jobs - done - (failed - self._failed_before)
                parts.append(f"{left} not done: {interrupted_by}")
            _logger.info("linearsr: %s", ", ".join(parts))
        if self._is_json:
            self._print_json(interrupted=interrupted_by is not None)
        return 1 if self._failures else 0

    def _print_json(
        self, *, interrupted: bool = False, error: str | None = None
    ) -> None:
        result = {
            "outputs": self._outputs,
            "failures": self._failures,
            "skipped": self._skipped,
            "interrupted": interrupted,
            "error": error,
        }
        print(json.dumps(result))
