"""Measurements of training steps, summarised over the steps between two logs.

The flow loss is averaged by ranges of sigma: between the experts' boundaries, and at
sigma = 1, where one-step quality is decided.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from clu import metrics
from flax import struct

from linearsr_jax.core.array_types import Array, Bool, Float
from linearsr_jax.diffusion.experts import EXPERT_BOUNDARIES
from linearsr_jax.training.losses import IMAGE_TERMS

# The names contain timesteps, 1000 sigma; the lower end belongs to the bucket.
FLOW_BUCKETS = (
    "flow_0_223",
    "flow_223_875",
    "flow_875_939",
    "flow_939_1000",
    "flow_at_one",
)


def _extreme(pick: Callable, start: float) -> type[metrics.Metric]:
    """Makes a metric that keeps the smallest or largest value seen."""

    @struct.dataclass
    class Extreme(metrics.Metric):
        value: Float[Array, ""]

        @classmethod
        def empty(cls):
            return cls(jnp.float32(start))

        @classmethod
        def from_model_output(cls, value, **_):
            return cls(value)

        def merge(self, other):
            return type(self)(pick(self.value, other.value))

        def compute(self):
            return self.value

    return Extreme


Largest = _extreme(jnp.maximum, -jnp.inf)
Smallest = _extreme(jnp.minimum, jnp.inf)


def _bucket(index: int) -> type[metrics.Metric]:
    def flow_in_bucket(**output):
        boundaries = jnp.array((*EXPERT_BOUNDARIES, 1.0))
        found = jnp.searchsorted(boundaries, output["sigma"], side="right")
        return {"values": output["values"]["flow"], "mask": found == index}

    return metrics.Average.from_fun(flow_in_bucket)


def _image_term(name: str) -> type[metrics.Metric]:
    def term_where_it_has_weight(**output):
        if name not in output["values"]:
            return {"values": jnp.zeros(1), "mask": jnp.zeros(1, bool)}
        return {"values": output["values"][name], "mask": output["weights"][name] > 0}

    return metrics.Average.from_fun(term_where_it_has_weight)


def _telemetry(metric: type[metrics.Metric], name: str, reduce: Callable):
    """Makes a metric over all layers and microbatches."""
    return metric.from_fun(lambda **output: reduce(output["telemetry"][name]))


TrainMetrics = metrics.Collection.create(
    skipped=metrics.Average.from_output("is_skipped"),
    loss=metrics.Average.from_output("loss"),
    **{name: _bucket(index) for index, name in enumerate(FLOW_BUCKETS)},
    **{
        name: _image_term(name)
        for name in (*IMAGE_TERMS, "adversarial", "discriminator")
    },
    grad_norm=metrics.Average.from_output("grad_norm"),
    grad_norm_max=Largest.from_output("grad_norm"),
    update_norm=metrics.Average.from_output("update_norm"),
    param_norm=metrics.LastValue.from_output("param_norm"),
    update_to_param=metrics.Average.from_fun(
        lambda **output: output["update_norm"] / output["param_norm"]
    ),
    attention_min_denominator=_telemetry(Smallest, "min_denominator", jnp.min),
    attention_dead_rows=_telemetry(metrics.Average, "dead_rows", jnp.mean),
    attention_dead_rows_max=_telemetry(Largest, "dead_rows", jnp.max),
    attention_max_state=_telemetry(Largest, "max_state", jnp.max),
)
"""Metrics of a train step; merge those of several steps to summarise them."""

# An instance of TrainMetrics: clu makes that class at run time, so no checker knows it.
StepMetrics = Any


def of_sound_step(step: StepMetrics, is_finite: Bool[Array, ""]) -> StepMetrics:
    """Empties the metrics of a skipped step, except its count as skipped."""
    chosen = jax.tree.map(
        lambda value, empty: jnp.where(is_finite, value, empty),
        step,
        TrainMetrics.empty(),
    )
    return chosen.replace(skipped=step.skipped)


merge = jax.jit(lambda summary, step: summary.merge(step))
_compute = jax.jit(lambda summary: summary.compute())


def scalars(summary: StepMetrics) -> dict[str, float]:
    """Fetches a summary as plain numbers.

    Values are means, except those whose names say otherwise and param_norm, which is
    the last one. Skipped steps count only in `skipped`, their share. Metrics without
    any sample are left out.
    """
    values, summary = jax.device_get((_compute(summary), summary))
    if values["skipped"] == 1.0:
        return {"skipped": 1.0}
    return {
        name: float(value)
        for name, value in values.items()
        if getattr(getattr(summary, name), "count", 1) > 0
    }
