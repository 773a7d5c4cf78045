"""Validation is shared out, and its numbers do not depend on among how many."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from linearsr_jax.training.hosts import gather_rows
from tests.processes_testing import find_free_port, make_environment
from tests.training.validating import IMAGES, validate


@pytest.fixture(scope="module")
def on_eight_devices():
    return validate()


def test_eight_devices_find_what_one_does(on_eight_devices):
    scores, _, pictures = on_eight_devices
    expected, count, others = validate(jax.devices()[:1])
    assert count == IMAGES
    assert scores.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name], value, rtol=1e-4, err_msg=name)
    for name, images in others.items():
        assert images.shape[0] == 4
        # A rounding may fall to the other side.
        assert np.abs(pictures[name].astype(int) - images).max() <= 1


def test_two_processes_share_the_images_and_find_what_one_does(on_eight_devices):
    scores, count, pictures = on_eight_devices
    assert count == IMAGES
    port, environment = str(find_free_port()), make_environment(devices=4)
    command = [sys.executable, "-m", "tests.training.validating", port]
    started = [
        subprocess.Popen(
            [*command, str(i)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    texts = [process.communicate(timeout=600) for process in started]
    assert [process.returncode for process in started] == [0, 0], texts
    found = [json.loads(text.splitlines()[-1]) for text, _ in texts]
    # Four devices take four of eight, then three of three; the other four repeat one.
    assert [own for _, own, _ in found] == [7, 5]
    for of_process, _, sums in found:
        assert of_process.keys() == scores.keys()
        for name, value in scores.items():
            np.testing.assert_allclose(of_process[name], value, rtol=1e-6)
        assert sums == {n: x.astype(int).sum() for n, x in pictures.items()}


def test_rows_are_gathered_in_order():
    table = gather_rows({1: [3.0, 4.0], 0: [1.0, 1 / 3]}, 2)
    np.testing.assert_array_equal(table, [[1.0, 1 / 3], [3.0, 4.0]])
