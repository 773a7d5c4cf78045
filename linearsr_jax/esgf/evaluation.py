"""The scores of a validation, and their form in a training log.

In the log a validation is one row with the scores by name, the direction of each, and
the names of those that vote on the knee:

    {"step": 500, "val_psnr_light": 27.1, "val_psnr_light_raw": 27.0,
     "higher_is_better": {"val_psnr_light": true, "val_psnr_light_raw": true},
     "voters": ["val_psnr_light"]}
"""

import dataclasses
import math
from collections.abc import Collection
from typing import Any, Literal

Weights = Literal["averaged", "raw"]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One score of a model.

    Attributes:
      metric: name of the metric: "psnr", "gain", "loss_at_110", ...
      degradation: degradation of the LR images: "bicubic", "light", ...; None for a
        metric that is not about upscaled images.
      weights: averaged weights, or the raw ones of the last step.
      higher_is_better: whether a larger value is better.
      value: score in the unit of the metric; not finite if the run produced that.
    """

    metric: str
    degradation: str | None
    weights: Weights
    higher_is_better: bool
    value: float

    @property
    def name(self) -> str:
        """Name in logs: val_METRIC_DEGRADATION, with _raw for raw weights."""
        parts = ["val", self.metric]
        if self.degradation is not None:
            parts.append(self.degradation)
        if self.weights == "raw":
            parts.append("raw")
        return "_".join(parts)

    def votes(self, metrics: Collection[str]) -> bool:
        """Tells whether the score votes on the knee.

        Args:
          metrics: names of the metrics that vote, from the config.
        """
        return self.weights == "averaged" and self.metric in metrics


@dataclasses.dataclass(frozen=True)
class Validation:
    """All scores after a step."""

    step: int
    evaluations: tuple[Evaluation, ...]

    @property
    def scores(self) -> dict[str, float]:
        """Values by name."""
        return {e.name: e.value for e in self.evaluations}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Validation":
        """Inverts `dataclasses.asdict`."""
        evaluations = tuple(Evaluation(**e) for e in values["evaluations"])
        return cls(values["step"], evaluations)

    def to_row(self, metrics: Collection[str]) -> dict[str, Any]:
        """Makes a row of a training log; values that are not finite become None.

        Args:
          metrics: names of the metrics that vote, from the config.
        """
        return {
            "step": self.step,
            **{
                name: value if math.isfinite(value) else None
                for name, value in self.scores.items()
            },
            "higher_is_better": {e.name: e.higher_is_better for e in self.evaluations},
            "voters": [e.name for e in self.evaluations if e.votes(metrics)],
        }


def parse_name(name: str) -> tuple[str, str | None, Weights]:
    """Splits the name of a score, for logs from before rows named the voters.

    Args:
      name: name that begins with val_.

    Returns:
      (metric, degradation, weights), see `Evaluation`.
    """
    metric = name.removeprefix("val_")
    weights: Weights = "raw" if metric.endswith("_raw") else "averaged"
    metric = metric.removesuffix("_raw")
    if metric.startswith("loss_at_") or "_" not in metric:
        return metric, None, weights
    metric, _, degradation = metric.rpartition("_")
    return metric, degradation, weights
