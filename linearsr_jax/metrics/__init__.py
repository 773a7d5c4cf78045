"""The image-quality metrics by name; one line of METRICS adds one.

Importing this does not import JAX: a metric that needs it does so when loaded.
"""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from linearsr_jax.metrics.psnr_ssim import psnr_y, ssim_y

MetricFunction = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Metric:
    """A full-reference metric.

    Attributes:
        name: as the command line and the tables have it.
        higher_is_better: whether a larger value is a better image.
        load: makes the function (sr, hr) -> value, both uint8 (H, W, 3) RGB of one
            shape; reading weights and compiling happen here or later, not before.
    """

    name: str
    higher_is_better: bool
    load: Callable[[], MetricFunction]


def _load_lpips() -> MetricFunction:
    from linearsr_jax.metrics.lpips import load_lpips

    return load_lpips()


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", higher_is_better=True, load=lambda: psnr_y),
        Metric("ssim", higher_is_better=True, load=lambda: ssim_y),
        Metric("lpips", higher_is_better=False, load=_load_lpips),
    )
}


def get_metrics(names: Iterable[str]) -> list[Metric]:
    """Looks metrics up by name.

    Args:
        names: keys of METRICS; the order is kept, a repeated name counts once.

    Returns:
        The metrics, not yet loaded.

    Raises:
        ValueError: a name is unknown (the message suggests the nearest), or there
            is none.
    """
    names = list(dict.fromkeys(names))
    if not names:
        raise ValueError(f"no metric named; known are {', '.join(METRICS)}")
    for name in names:
        if name not in METRICS:
            near = difflib.get_close_matches(name.lower(), METRICS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"unknown metric {name!r}; {hint}known are {', '.join(METRICS)}"
            )
    return [METRICS[name] for name in names]
