"""Where a diverging run goes back to."""

from pathlib import Path

import pytest

from linearsr_jax.training.record import Rewind, TrainError
from linearsr_jax.training.rewinding import choose_checkpoint, data_seed, plan_rewind


def rewinds(*steps):
    return [Rewind(step=step + 5, to=step, reason="bad") for step in steps]


@pytest.mark.parametrize(
    ("kept", "before", "past", "expected"),
    [
        ([10, 20, 30], 35, [], 30),
        # What began earlier is in the newest checkpoint already.
        ([10, 20, 30], 25, [], 20),
        # Going back there has not helped.
        ([10, 20, 30], 35, [30], 20),
        ([10, 20], 35, [30, 20], 10),
        # It has: there is a newer one since.
        ([10, 20, 30, 40], 45, [30], 40),
        # There is nothing older.
        ([30], 35, [30], 30),
        ([30], 30, [], None),
    ],
)
def test_choose_checkpoint(kept, before, past, expected):
    assert choose_checkpoint(kept, before, rewinds(*past)) == expected


def test_every_rewind_has_an_order_of_samples_of_its_own():
    # Of a checkpoint made yesterday too: the seeds are these on every machine.
    assert [data_seed(7, n) for n in range(3)] == [7, 369571992, 1009178997]
    # Runs whose seeds are neighbours do not read each other's samples.
    seeds = {data_seed(seed, n) for seed in range(50) for n in range(5)}
    assert len(seeds) == 50 * 5


def plan(kept, past, limit=3):
    return plan_rewind(
        Path("run"),
        kept,
        rewinds(*past),
        step=50,
        before=50,
        reason="the loss jumped",
        max_rewinds=limit,
    )


def test_a_plan_says_where_to_and_why():
    expected = Rewind(step=50, to=40, reason="the loss jumped")
    assert plan([10, 40], [10]) == expected


def test_reports():
    with pytest.raises(TrainError, match="step 50; there is no checkpoint to go back"):
        plan([], [])
    with pytest.raises(TrainError, match=r"after 2 rewinds \(step 15 back to 10: bad;"):
        plan([10, 40], [10, 20], limit=2)
    with pytest.raises(
        TrainError, match=r"step 50; esgf\.max_rewinds 0 allows no rewind"
    ):
        plan([10], [], limit=0)
