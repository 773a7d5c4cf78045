"""The optimiser: schedule, decay, EMA, and both by name."""

import jax
import numpy as np
import optax
import pytest

from linearsr_jax.config.defaults import default_config
from linearsr_jax.training import optimizers as optim


def make_optimizer(**changes):
    fields = default_config().optimizer.to_dict()
    fields |= {
        "learning_rate": 1e-3,
        "final_learning_rate": 0.0,
        "warmup_steps": 10,
        "decay_steps": 20,
        "steps": 100,
        "weight_decay": 0.1,
        "ema_decay": 0.5,
    }
    return optim.make_optimizer(**fields | changes)


@pytest.mark.parametrize(
    ("descent", "end"),
    [
        ("linear", [1e-3, 7.6e-4, 5.2e-4, 4e-5, 4e-5]),
        # 4e-5 + 9.6e-4 (1 + cos(pi / 4)) / 2, and so on.
        ("cosine", [1e-3, 8.59411255e-4, 5.2e-4, 4e-5, 4e-5]),
        ("constant", [1e-3] * 5),
    ],
)
def test_schedule_warms_up_holds_and_descends(descent, end):
    _, schedule = make_optimizer(descent=descent, final_learning_rate=4e-5)
    steps = (0, 5, 10, 50, 80, 85, 90, 100, 120)
    values = [float(schedule(step)) for step in steps]
    np.testing.assert_allclose(values, [0, 5e-4, 1e-3, 1e-3, *end], rtol=1e-5)


@pytest.mark.parametrize("descent", optim.DESCENTS)
def test_no_descent_at_all(descent):
    _, schedule = make_optimizer(descent=descent, decay_steps=0)
    assert float(schedule(99)) == np.float32(1e-3)


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match=r"optimizer\.name 'adam'.* adamw, came"):
        make_optimizer(name="adam")
    with pytest.raises(ValueError, match=r"optimizer\.descent 'flat'.* linear"):
        make_optimizer(descent="flat")


def test_adamw_is_optaxs():
    """The chain is written out; its numbers and its state are those of optax.adamw."""
    chosen, schedule = make_optimizer(clip_norm=1e9, warmup_steps=0)
    whole = optax.adamw(
        schedule, b1=0.9, b2=0.99, weight_decay=0.1, mask=optim._is_kernel
    )
    rng = np.random.default_rng(0)
    params = {"dense": {"kernel": rng.standard_normal((3, 4)), "bias": np.ones(4)}}
    params = jax.tree.map(np.float32, params)
    state, state_whole = chosen.init(params), whole.init(params)
    assert jax.tree.structure(state[1]) == jax.tree.structure(state_whole)
    for _ in range(3):
        grads = jax.tree.map(lambda p: np.float32(rng.standard_normal(p.shape)), params)
        updates, state = chosen.update(grads, state, params)
        expected, state_whole = whole.update(grads, state_whole, params)
        jax.tree.map(np.testing.assert_array_equal, updates, expected)


def test_came_descends_with_decay_and_its_own_betas():
    """One step: -rate (sign-like update of rms 1 x (1 - b1), whitened, + decay)."""
    optimizer, _ = make_optimizer(name="came", warmup_steps=0, clip_norm=1e9)
    params = {"kernel": np.full((2, 3), 2.0, np.float32), "bias": np.ones(4, "f4")}
    grads = {"kernel": np.full((2, 3), 7.0, np.float32), "bias": -np.ones(4, "f4")}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    # u = 1 after clipping, m = 0.1; s = 0.9^2 counts 1e-4 of it, so m / 0.009.
    np.testing.assert_allclose(
        updates["kernel"], -1e-3 * (0.1 / 0.009 + 0.2), rtol=1e-4
    )
    np.testing.assert_allclose(updates["bias"], 1e-3 * 0.1, rtol=1e-4)


def test_too_few_steps_for_the_schedule():
    with pytest.raises(ValueError, match="steps 29 must be at least"):
        make_optimizer(steps=29)


def test_ema_is_the_average_of_updated_parameters():
    ema = optim.ema_of_params(0.9)
    params = {"w": np.float32(1.0)}
    state = ema.init(params)
    expected = 1.0
    for n in range(1, 4):
        updates, state = ema.update({"w": np.float32(0.5)}, state, params)
        params = optax.apply_updates(params, updates)
        rate = min(0.9, (1 + n) / (10 + n))
        expected = rate * expected + (1 - rate) * float(params["w"])
    np.testing.assert_allclose(state.params["w"], expected, rtol=1e-6)


def test_weight_decay_acts_on_kernels_only():
    # No gradient: what moves is decay.
    optimizer, _ = make_optimizer(warmup_steps=0)
    params = {
        "dense": {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    }
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert np.all(updates["dense"]["kernel"] < 0)
    assert np.all(updates["dense"]["bias"] == 0)


def test_only_some_parameters_change():
    """The others neither by their gradient nor by weight decay, nor in the norm."""
    optimizer, _ = make_optimizer(warmup_steps=0, only=("tags",), clip_norm=1.0)
    alone, _ = make_optimizer(warmup_steps=0, clip_norm=1.0)
    params = {name: {"kernel": np.ones((2, 2), "f4")} for name in ("tags", "rest")}
    grads = jax.tree.map(lambda x: 100 * x, params)
    grads["tags"] = {"kernel": np.array([[0.3, 0.0], [0.0, 0.0]], "f4")}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["rest"]["kernel"], 0.0)
    tags = {"tags": params["tags"]}
    expected, _ = alone.update({"tags": grads["tags"]}, alone.init(tags), tags)
    np.testing.assert_array_equal(updates["tags"]["kernel"], expected["tags"]["kernel"])
    with pytest.raises(ValueError, match="no parameter belongs to tag"):
        make_optimizer(warmup_steps=0, only=("tag",))[0].init(params)
