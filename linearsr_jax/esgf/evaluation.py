"""What a validation measured, and how a training log says it.

In the log a validation is one row: the scores by name, what is better of each, and
which of them vote on the knee:

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
      metric: what was measured: "psnr", "gain", "loss_at_110", ...
      degradation: how the LR images were made: "bicubic", "light", ...; None if the
        metric is not one of upscaled images.
      weights: whether the weights were the averaged ones or those of the last step.
      higher_is_better: the direction of the metric.
      value: in the metric's unit; not finite if the run gave that.
    """

    metric: str
    degradation: str | None
    weights: Weights
    higher_is_better: bool
    value: float

    @property
    def name(self) -> str:
        """The name in logs: val_METRIC_DEGRADATION, and _raw for raw weights."""
        parts = ["val", self.metric]
        if self.degradation is not None:
            parts.append(self.degradation)
        if self.weights == "raw":
            parts.append("raw")
        return "_".join(parts)

    def votes(self, metrics: Collection[str]) -> bool:
        """Tells whether the score votes on the knee.

        Args:
          metrics: names of the metrics that were asked for.
        """
        return self.weights == "averaged" and self.metric in metrics


@dataclasses.dataclass(frozen=True)
class Validation:
    """All scores after a step."""

    step: int
    evaluations: tuple[Evaluation, ...]

    @property
    def scores(self) -> dict[str, float]:
        """The values by name."""
        return {e.name: e.value for e in self.evaluations}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Validation":
        """Builds a validation from what `dataclasses.asdict` made of it."""
        evaluations = tuple(Evaluation(**e) for e in values["evaluations"])
        return cls(values["step"], evaluations)

    def to_row(self, metrics: Collection[str]) -> dict[str, Any]:
        """Formats a row of a training log; what is not finite becomes None.

        Args:
          metrics: names of the metrics that were asked for.
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
    """Splits a score's name; for what was written before rows said what votes.

    Args:
      name: beginning with val_.

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
