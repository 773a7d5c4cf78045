"""Goodput by a clock that the test turns."""

import pytest

from linearsr_jax.training.goodput import KINDS, Goodput


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_every_second_has_one_kind():
    clock = Clock()
    goodput = Goodput(clock)
    for kind, seconds in (("starting", 5), ("compiling", 10), ("data_wait", 1)):
        with goodput.spending(kind):
            clock.now += seconds
    clock.now += 20  # trains to step 10
    goodput.note_checkpoint(10)
    with goodput.spending("saving"):
        clock.now += 4
    clock.now += 30  # trains on, and is rewound
    goodput.note_rewind(10)
    clock.now += 30
    with pytest.raises(OSError), goodput.spending("validating"):
        clock.now += 3
        raise OSError
    found = goodput.report()
    assert [found[f"seconds_{kind}"] for kind in KINDS] == [5, 10, 1, 4, 3, 30]
    assert found["seconds"] == 103
    assert found["goodput_percent"] == pytest.approx(100 * 50 / 103)
    # To the beginning: all is lost.
    goodput.note_rewind(0)
    assert goodput.report()["goodput_percent"] == pytest.approx(0)
