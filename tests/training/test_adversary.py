"""The adversarial term: who learns from what, and that it resumes bit for bit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import debug
from linearsr_jax.training import loop
from linearsr_jax.training.adversary import Adversary
from tests.runs_testing import cut_back


@pytest.fixture(scope="module")
def adversary():
    return Adversary(seed=0, width=4, learning_rate=1e-2)


def images(seed):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(-1, 1, (4, 16, 16, 3)), jnp.float32)


def test_each_learns_from_its_own_loss(adversary):
    state = adversary.init()

    def loss(number, params, image_hat):
        return jnp.sum(
            adversary.losses(params, state.directions, image_hat, images(1))[number]
        )

    grads = jax.jit(jax.grad(loss, (1, 2)), static_argnums=0)
    of_model = grads(0, state.params, images(0))
    of_discriminator = grads(1, state.params, images(0))
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(of_model[0]))
    assert np.abs(of_model[1]).max() > 0
    assert any((np.asarray(x) != 0).any() for x in jax.tree.leaves(of_discriminator[0]))
    np.testing.assert_array_equal(of_discriminator[1], 0)


def test_learns_to_tell_smooth_from_noisy(adversary):
    smooth = jnp.zeros((4, 16, 16, 3)) + 0.3

    @jax.jit
    def step(state):
        def loss(params):
            return jnp.mean(
                adversary.losses(params, state.directions, smooth, images(2))[1]
            )

        value, grads = jax.value_and_grad(loss)(state.params)
        return adversary.update(state, grads), value

    state, first = step(adversary.init())
    assert float(first) == pytest.approx(np.log(2), abs=0.2)
    for _ in range(60):
        state, last = step(state)
    assert float(last) < 0.5 * float(first)


@pytest.mark.parametrize(("field", "value"), [("width", 0), ("learning_rate", 0.0)])
def test_useless_numbers_are_named(field, value):
    settings = {"width": 4, "learning_rate": 1e-3} | {field: value}
    with pytest.raises(ValueError, match=rf"discriminator\.{field} must be above 0"):
        Adversary(seed=0, **settings)


def make_config(photos):
    config = debug.get_config()
    config.steps = 4
    config.log_every = 1
    config.checkpoint_every = 2
    config.optimizer.decay_steps = 1
    config.mass_at_one = 1.0
    config.loss.adversarial = 0.5
    config.loss.below_sigma = 2.0
    config.discriminator.width = 4
    config.data.folder = str(photos)
    return config.lock()


def test_resumes_bit_for_bit(photos, tmp_path):
    whole = loop.train_and_evaluate(make_config(photos), tmp_path).state
    cut_back(tmp_path, 2)
    resumed = loop.train_and_evaluate(make_config(photos), tmp_path).state
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(resumed), jax.device_get(whole)
    )
    start = Adversary(seed=0, width=4, learning_rate=1e-3).init()
    moved = jax.tree.map(
        lambda x, y: np.abs(x[0] - y).max(), whole.adversary.params, start.params
    )
    assert max(jax.tree.leaves(moved)) > 0
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "loss" in row]
    assert len(rows) == 4
    for row in rows:
        assert {"adversarial", "discriminator"} <= row.keys()
