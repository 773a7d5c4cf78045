"""What is due after which step."""

import dataclasses

import pytest

from configs import debug
from linearsr_jax.training.cadence import Due, find_due
from linearsr_jax.training.setup import make_settings


@pytest.fixture
def settings():
    config = debug.get_config()
    config.data.folder = config.val.folder = "photos"
    config.steps, config.log_every, config.checkpoint_every = 31, 5, 10
    config.val.every, config.esgf.knee_step = 15, 17
    return make_settings(config)


@pytest.mark.parametrize(
    ("step", "due"),
    [
        (1, Due(log=False, checkpoint=False, validation=False)),
        (5, Due(log=True, checkpoint=False, validation=False)),
        (10, Due(log=True, checkpoint=True, validation=False)),
        (15, Due(log=True, checkpoint=False, validation=True)),
        (17, Due(log=False, checkpoint=False, validation=True)),  # the knee by hand
        (31, Due(log=True, checkpoint=True, validation=True)),  # the last
    ],
)
def test_due(settings, step, due):
    assert find_due(settings, step, is_stopping=False, has_validation=True) == due
    assert bool(due) == (step != 1)
    without = find_due(settings, step, is_stopping=False, has_validation=False)
    assert without == dataclasses.replace(due, validation=False)


def test_a_run_that_is_stopped_logs_and_saves(settings):
    due = find_due(settings, 1, is_stopping=True, has_validation=True)
    assert due == Due(log=True, checkpoint=True, validation=False)
