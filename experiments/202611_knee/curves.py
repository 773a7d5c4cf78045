"""Simulated validation curves whose knee is known: the benchmark of `esgf.knee`.

Frozen before the detector was tuned (the history of this file shows it); changing it
makes a new benchmark.

A curve is   sign * scale * (trend + drift + oscillation + noise + spikes) + offset

The trend is monotone, without noise, and rises from 0 to the level 1, its plateau.
**The true knee is the first evaluation from which the trend stays within 5 % of the
rise of its last level**; the rise is the level minus the trend at the first
evaluation. For some families that means:

- two plateaus, learning-rate drop: the level is that of the *last* plateau, so the
  knee lies on the second rise (each gains at least 10 % of the rise). A detector may
  well, and rightly, name the first plateau while it lasts; only its last word counts.
- drift: a slow change after the knee, at most +5 % or -20 % of the rise by the end. It
  is not part of the trend: the knee is where the rise ends.
- oscillation, collapse: they begin after the knee and are not part of the trend.
- never (linear, square root, logarithm, exponentials that end below 80 % of their
  level) and flat: there is no knee. Rises that end between 80 % and the plateau are
  left out: whether those have a knee is a matter of taste.
- missing evaluations: the knee is an evaluation that took place.

Every plateau has at least 8 planned evaluations after its knee (each of two: 6).
Noise is white or AR(1), its standard deviation log-uniform in 0.5 to 8 % of the rise.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

TOLERANCE = 0.05  # of the rise; see the definition above
CURVES_PER_FAMILY = 70
NEVER_CURVES = 300  # more, because a rate of 2 % is to be measured on them
NEVER = ("linear", "sqrt", "log", "slow")

Rise = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Curve:
    """A simulated run.

    Attributes:
      family: key of `FAMILIES`.
      kind: what distinguishes it inside the family, for reading results.
      steps: of its evaluations, rising.
      metrics: values per metric at these steps; NaN where one is missing.
      higher_is_better: per metric.
      knee: the true knee, one of steps; None if there is none.
      verdict: what a detector should say after the last evaluation.
    """

    family: str
    kind: str
    steps: np.ndarray
    metrics: dict[str, np.ndarray]
    higher_is_better: dict[str, bool]
    knee: int | None
    verdict: str


def generate(seed: int) -> Iterator[Curve]:
    """All curves of a seed, family by family; any one depends on nothing but it."""
    for number, family in enumerate(FAMILIES):
        count = NEVER_CURVES if family == "never" else CURVES_PER_FAMILY
        for index in range(count):
            rng = np.random.default_rng([seed, number, index])
            yield FAMILIES[family](rng, index)


def true_knee(
    steps: np.ndarray, trend: np.ndarray, level: float | None = 1.0
) -> int | None:
    """The definition: see the top of the file.

    Args:
      steps: of the evaluations.
      trend: at these steps, rising.
      level: of the last plateau; None if the trend never reaches one.
    """
    if level is None:
        return None
    reached = trend >= level - TOLERANCE * (level - trend[0])
    after_last_miss = len(steps) - np.argmin(reached[::-1]) if not reached.all() else 0
    return int(steps[after_last_miss])


# Rises: functions of time / time of the knee, from 0 at 0 towards 1, 0.95 at 1.


def exponential(rng: np.random.Generator) -> Rise:
    """1 - exp(-x / tau)."""
    return lambda x: 1 - TOLERANCE**x


def kinked(rng: np.random.Generator) -> Rise:
    """A straight line up to the level."""
    return lambda x: np.minimum((1 - TOLERANCE) * x, 1)


def power_law(rng: np.random.Generator) -> Rise:
    """1 - (1 + x / x0) ** -p, p in 1.5 .. 4."""
    p = rng.uniform(1.5, 4)
    stretch = TOLERANCE ** (-1 / p) - 1
    return lambda x: 1 - (1 + stretch * x) ** -p


def logistic(rng: np.random.Generator) -> Rise:
    """S-shaped; the middle at 0.3 to 0.6 of the knee."""
    middle = rng.uniform(0.3, 0.6)
    low = 1 / (1 + np.exp(middle * 3 / (1 - middle)))

    def raw(x):
        return 1 / (1 + np.exp(-3 * (x - middle) / (1 - middle)))

    return lambda x: (raw(x) - low) / (1 - low)


RISES = (exponential, kinked, power_law, logistic)


# What is laid over the trend.


def white(rng: np.random.Generator, count: int) -> np.ndarray:
    """Unit variance."""
    return rng.standard_normal(count)


def ar1(rng: np.random.Generator, count: int) -> np.ndarray:
    """Unit variance, correlation 0.3 to 0.7 between neighbours."""
    phi = rng.uniform(0.3, 0.7)
    noise = rng.standard_normal(count)
    for i in range(1, count):
        noise[i] = phi * noise[i - 1] + math.sqrt(1 - phi**2) * noise[i]
    return noise


def grow_oscillation(
    rng: np.random.Generator, count: int, onset: int, largest: float
) -> np.ndarray:
    """Zero up to onset, then swings that grow to the amplitude largest at the end."""
    after = np.clip(np.arange(count) - onset, 0, None)
    amplitude = largest * (after / max(after[-1], 1)) ** rng.uniform(0.5, 1.5)
    if rng.random() < 0.3:
        return amplitude * rng.uniform(-1, 1, count)
    period = rng.uniform(2.2, 6)
    return amplitude * np.sin(2 * np.pi * after / period)


@dataclasses.dataclass
class Plan:
    """When a curve is evaluated and how noisy it is: the same draw for all families."""

    rng: np.random.Generator
    count: int
    knee_index: int
    steps: np.ndarray
    noise: np.ndarray
    rise: Rise
    name: str

    @property
    def time(self) -> np.ndarray:
        """0 at the first evaluation, 1 at the knee."""
        elapsed = self.steps - self.steps[0]
        return elapsed / elapsed[self.knee_index]

    @property
    def trend(self) -> np.ndarray:
        """One rise, 0.95 of it at the knee."""
        return self.rise(self.time)


def draw_plan(
    rng: np.random.Generator, *, noise: Callable | None = None, horizon=(20, 100)
) -> Plan:
    """Draws evaluations, knee, noise and the shape of the rise."""
    count = int(rng.integers(horizon[0], horizon[1] + 1))
    # At least 5 evaluations before the knee and 8 after it.
    knee_index = int(rng.integers(5, max(6, min(count - 9, int(0.6 * count)))))
    every = int(rng.choice([1, 50, 500, 1000, 4000, 5000]))
    steps = every * np.arange(rng.integers(0, 2), count + 2)[:count]
    if rng.random() < 0.25 and every > 1:
        jitter = rng.uniform(-0.3, 0.3, count) * every
        steps = np.maximum(steps + jitter.astype(int), 0)
    noise = noise or (ar1 if rng.random() < 0.3 else white)
    sd = math.exp(rng.uniform(math.log(0.005), math.log(0.08)))
    rise = RISES[rng.integers(len(RISES))]
    name = f"{rise.__name__} {noise.__name__} {100 * sd:.1f}%"
    return Plan(rng, count, knee_index, steps, sd * noise(rng, count), rise(rng), name)


SCALES = {  # name: higher is better, start, rise
    "psnr": (True, 22.0, 3.0),
    "musiq": (True, 46.0, 14.0),
    "ssim": (True, 0.55, 0.15),
    "lpips": (False, 0.45, 0.25),
    "loss": (False, 1.2, 0.9),
}


def finish(
    plan: Plan,
    family: str,
    trend: np.ndarray,
    extra: np.ndarray | float = 0.0,
    *,
    level: float | None = 1.0,
    verdict: str = "plateau",
    kept: np.ndarray | None = None,
    kind: str = "",
    metric: str | None = None,
) -> Curve:
    """Puts a curve on a metric's scale and drops the evaluations that are missing."""
    metric = metric or str(plan.rng.choice(list(SCALES)))
    higher, start, size = SCALES[metric]
    size *= math.exp(plan.rng.uniform(-0.5, 0.5))
    values = start + (1 if higher else -1) * size * (trend + plan.noise + extra)
    kept = np.ones(plan.count, bool) if kept is None else kept
    return Curve(
        family=family,
        kind=f"{kind} {plan.name}".strip(),
        steps=plan.steps[kept],
        metrics={metric: values[kept]},
        higher_is_better={metric: higher},
        knee=true_knee(plan.steps[kept], trend[kept], level),
        verdict=verdict,
    )


# Families. Each takes a generator and the curve's number.


def rise_white(rng, index):
    """A rise to a plateau under white noise; the shapes in turn."""
    plan = draw_plan(rng, noise=white)
    return finish(plan, "rise, white noise", plan.trend)


def rise_ar1(rng, index):
    """The same under AR(1) noise."""
    plan = draw_plan(rng, noise=ar1)
    return finish(plan, "rise, AR(1) noise", plan.trend)


def oscillation(rng, index):
    """Swings that begin after the knee and grow to 15 to 50 % of the rise."""
    plan = draw_plan(rng, horizon=(30, 100))
    room = plan.count - plan.knee_index
    onset = plan.knee_index + int(rng.uniform(0.0, 0.5) * room)
    largest = rng.uniform(0.15, 0.5)
    swings = grow_oscillation(rng, plan.count, onset, largest)
    sd = np.std(plan.noise)
    # Swings below twice the noise are not to be told from it.
    verdict = "oscillating" if largest > 4 * sd else "plateau"
    return finish(plan, "oscillation", plan.trend, swings, verdict=verdict)


def paper(rng, index):
    """The paper: knee at 48k, evaluated every 4k, an unstable peak at 224k."""
    steps = 4000 * np.arange(1, 57)
    sd = math.exp(rng.uniform(math.log(0.005), math.log(0.06)))
    onset = int(rng.integers(14, 26))
    rise = (exponential, power_law)[index % 2](rng)
    curves = []
    for metric in ("psnr", "musiq"):
        plan = Plan(rng, 56, 11, steps, sd * white(rng, 56), rise, f"{100 * sd:.1f}%")
        swings = grow_oscillation(rng, 56, onset, rng.uniform(0.2, 0.5))
        curves.append(
            finish(
                plan, "paper", plan.trend, swings, verdict="oscillating", metric=metric
            )
        )
    metrics = curves[0].metrics | curves[1].metrics
    # PSNR alone, MUSIQ alone, both.
    names = (["psnr"], ["musiq"], ["psnr", "musiq"])[index % 3]
    return dataclasses.replace(
        curves[0],
        metrics={name: metrics[name] for name in names},
        higher_is_better=dict.fromkeys(names, True),
        kind=f"{'+'.join(names)} {curves[0].kind}",
    )


def drift(rng, index):
    """After the knee the metric goes on slowly, up or down."""
    plan = draw_plan(rng)
    total = rng.uniform(0.02, 0.05) if index % 2 else -rng.uniform(0.05, 0.2)
    after = np.clip(plan.steps - plan.steps[plan.knee_index], 0, None)
    kind = "up" if index % 2 else "down"
    return finish(plan, "drift", plan.trend, total * after / after[-1], kind=kind)


def second_rise(rng, first_height, duration, noise_after=1.0):
    """A plan and a trend of two rises; the second takes duration evaluations."""
    plan = draw_plan(rng, horizon=(40, 100))
    first = int(rng.integers(5, plan.count // 3))
    start = int(rng.integers(first + 6, max(first + 7, plan.count - duration - 9)))
    plan.noise[start:] *= noise_after
    time = (plan.steps - plan.steps[start]) / (
        plan.steps[start + duration] - plan.steps[start]
    )
    later = RISES[rng.integers(len(RISES))](rng)(np.clip(time, 0, None))
    elapsed = plan.steps - plan.steps[0]
    trend = first_height * plan.rise(elapsed / elapsed[first])
    return plan, trend + (1 - first_height) * later


def two_plateaus(rng, index):
    """A first plateau at 50 to 80 % of the rise, then a second one."""
    plan, trend = second_rise(rng, rng.uniform(0.5, 0.8), int(rng.integers(3, 12)))
    return finish(plan, "two plateaus", trend)


def learning_rate_drop(rng, index):
    """A jump by 10 to 30 % of the rise within two evaluations; the noise halves."""
    plan, trend = second_rise(rng, rng.uniform(0.7, 0.9), 2, noise_after=0.5)
    return finish(plan, "learning-rate drop", trend)


def spikes(rng, index):
    """Single evaluations that are off by 20 to 100 % of the rise; up to 8 % of them."""
    plan = draw_plan(rng)
    hit = rng.random(plan.count) < rng.uniform(0.02, 0.08)
    size = rng.uniform(0.2, 1, plan.count) * rng.choice([-1, -1, 1], plan.count)
    return finish(plan, "spikes", plan.trend, hit * size)


def missing(rng, index):
    """5 to 30 % of the evaluations did not take place."""
    plan = draw_plan(rng, horizon=(28, 100))
    kept = rng.random(plan.count) > rng.uniform(0.05, 0.3)
    return finish(plan, "missing evaluations", plan.trend, kept=kept)


def not_a_number(rng, index):
    """5 to 20 % of the values are NaN, the last three never all of them."""
    plan = draw_plan(rng, horizon=(28, 100))
    hole = np.where(rng.random(plan.count) < rng.uniform(0.05, 0.2), np.nan, 0.0)
    hole[[0, -1]] = 0
    return finish(plan, "NaN", plan.trend, hole)


def collapse(rng, index):
    """Some time after the knee the metric falls below its start, or becomes NaN."""
    plan = draw_plan(rng, horizon=(30, 100))
    onset = int(rng.integers(min(plan.knee_index + 8, plan.count - 5), plan.count - 4))
    after = np.clip(np.arange(plan.count) - onset, 0, None)
    fall = -rng.uniform(1.0, 2.0) * np.minimum(after / 2, 1)
    if index % 2:
        fall = np.where(after > 0, np.nan, 0.0)
    kind = "to NaN" if index % 2 else "fall"
    return finish(plan, "collapse", plan.trend, fall, verdict="diverged", kind=kind)


def several(rng, index):
    """Three metrics with one knee, noise of their own; every third curve has a flat."""
    plan = draw_plan(rng)
    names = rng.choice(list(SCALES), 3, replace=False)
    curves = []
    for i, name in enumerate(names):
        sd = math.exp(rng.uniform(math.log(0.005), math.log(0.08)))
        own = dataclasses.replace(plan, noise=sd * white(rng, plan.count))
        is_flat = i == 2 and index % 3 == 0
        curves.append(
            finish(
                own,
                "several metrics",
                np.zeros(plan.count) if is_flat else plan.trend,
                level=None if is_flat else 1.0,
                metric=str(name),
            )
        )
    return dataclasses.replace(
        curves[0],
        metrics={k: v for curve in curves for k, v in curve.metrics.items()},
        higher_is_better={
            k: v for curve in curves for k, v in curve.higher_is_better.items()
        },
    )


def flat(rng, index):
    """Nothing but noise."""
    plan = draw_plan(rng)
    zero = np.zeros(plan.count)
    return finish(plan, "flat", zero, level=None, verdict="none")


def never(rng, index):
    """Still rising at the end."""
    plan = draw_plan(rng)
    kind = NEVER[index % len(NEVER)]
    x = (plan.steps + plan.steps[-1] / plan.count) / plan.steps[-1]
    if kind == "linear":
        trend = x
    elif kind == "sqrt":
        trend = np.sqrt(x)
    elif kind == "log":
        trend = np.log1p(x * rng.uniform(5, plan.count))
    else:
        trend = 1 - np.exp(-rng.uniform(0.3, 1.6) * x)
    # Noise is measured by the rise seen, as in the other families.
    trend = (trend - trend[0]) / (trend[-1] - trend[0])
    return finish(plan, "never", trend, level=None, verdict="none", kind=kind)


FAMILIES = {
    "rise, white noise": rise_white,
    "rise, AR(1) noise": rise_ar1,
    "oscillation": oscillation,
    "paper": paper,
    "drift": drift,
    "two plateaus": two_plateaus,
    "learning-rate drop": learning_rate_drop,
    "spikes": spikes,
    "missing evaluations": missing,
    "NaN": not_a_number,
    "collapse": collapse,
    "several metrics": several,
    "flat": flat,
    "never": never,
}
