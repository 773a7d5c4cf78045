"""What the hosts of a run compare before the first step."""

import types

import jax
import numpy as np
import pytest

from configs import debug
from linearsr_jax.training import inputs
from linearsr_jax.training.inputs import open_inputs
from linearsr_jax.training.record import installed_versions
from linearsr_jax.training.setup import make_parts


@pytest.fixture
def compared(monkeypatch):
    """The texts that a run compares, by their names."""
    texts = {}
    monkeypatch.setattr(inputs, "check_equal", texts.update)
    return texts


def test_hosts_compare_all_that_they_train_with(photos, compared):
    config = debug.get_config()
    config.data.folder = str(photos)
    record = open_inputs(make_parts(config), None).record
    inputs.check_hosts_agree(config.to_dict())
    names = {"configs", "photographs", "packages", "codecs", "models to start from"}
    assert compared.keys() == names
    before = dict(compared)
    config.seed += 1
    open_inputs(make_parts(config), record)
    inputs.check_hosts_agree(config.to_dict())
    assert {name for name in names if compared[name] != before[name]} == {"configs"}
    # Each host may have its own place for the same photographs.
    before = dict(compared)
    config.data.folder = "elsewhere"
    inputs.check_hosts_agree(config.to_dict())
    assert compared == before


def test_initial_models_differ_by_a_single_weight(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    weights = {"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float32)}
    model = types.SimpleNamespace(experts=[weights])
    first = inputs._describe_weights(model)
    assert first == inputs._describe_weights(model)
    weights["a"][1, 2] = 1e-30
    assert inputs._describe_weights(model) != first


def test_a_run_says_that_it_goes_on_with_other_packages(photos, compared, caplog):
    config = debug.get_config()
    config.data.folder = str(photos)
    parts = make_parts(config)
    record = open_inputs(parts, None).record
    record.versions["jax"] = "0.9.9"
    with caplog.at_level("INFO"):
        open_inputs(parts, record)
    assert f"jax 0.9.9, now {installed_versions()['jax']}" in caplog.text
