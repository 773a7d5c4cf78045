"""`linearsr plan` on simulated devices in place of TPUs; plans are in tests/plan/."""

import dataclasses
import json

import jax
import pytest

from linearsr_jax.plan import topologies
from tests.cli.running import run

CONFIG = ("--config", "configs/experts.py:debug", "--topology", "v5e:2x4")


@pytest.fixture(autouse=True)
def _devices(monkeypatch):
    monkeypatch.setattr(topologies, "tpu_devices", lambda name, slices: jax.devices())


def test_an_image_does_not_depend_on_the_mesh_of_training(capsys):
    overrides = ("--override", "mesh.fsdp=128", "mesh.experts=4", "batch_size=9")
    image = ("--image", "64x32", "--steps", "4")
    code, out, _ = run(capsys, "plan", *CONFIG, *image, "--json", *overrides)
    assert code == 0
    plan = json.loads(out)
    assert (plan["image"], plan["steps"], plan["chips"]) == ([64, 32], 4, 8)
    assert plan["fits"]


def test_what_does_not_fit_has_an_exit_code_of_its_own(monkeypatch, capsys):
    chip = dataclasses.replace(topologies.CHIPS["v5e"], memory=1000)
    monkeypatch.setitem(topologies.CHIPS, "v5e", chip)
    code, out, _ = run(capsys, "plan", *CONFIG, "--image", "64x32", "--json")
    assert code == 3
    assert not json.loads(out)["fits"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--steps", "4"), "--steps belongs to --image"),
        (("--image", "64"), "'64' is no size such as 1024x1024"),
        (("--image", "66x64"), "its sides must be multiples of 4"),
    ],
)
def test_images_that_cannot_be_planned(capsys, arguments, error):
    code, out, err = run(capsys, "plan", *CONFIG, *arguments)
    assert code in (1, 2)
    assert not out
    assert error in err
