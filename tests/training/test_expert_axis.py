"""Several experts in one step are as many steps of one, on any mesh."""

import jax
import numpy as np
import optax
import pytest

from linearsr_jax.codecs import PixelCodec
from linearsr_jax.models.presets import get_preset
from linearsr_jax.training import expert_axis, sharding
from linearsr_jax.training.losses import Loss
from linearsr_jax.training.step import make_init, make_train_step, unboxed

PRESET = get_preset("debug")
BOUNDARIES = (0.223, 0.875, 0.939)
EXPERTS, BATCH = 4, 4


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    side = {"image_hr": 16, "image_lr": 4}
    return {
        name: rng.integers(0, 256, (EXPERTS * BATCH, n, n, 3), dtype=np.uint8)
        for name, n in side.items()
    }


@pytest.fixture(scope="module")
def parts():
    # Plain gradient descent: Adam would turn rounding of a gradient near zero into a
    # step of full size. The clip is an expert's own.
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1))
    model = PRESET.make_model()
    loss = Loss(model, PRESET, mass_at_one=0.2, boundaries=BOUNDARIES)
    return make_init(model, optimizer), make_train_step(loss, optimizer, seed=0)


@pytest.fixture(scope="module")
def one_by_one(batch, parts):
    """Each expert's state after two steps of its own, and the mean of the losses."""
    init, step = parts
    step = jax.jit(step)
    start = unboxed(init)(jax.random.key(0))
    states, losses = [], np.zeros(2)
    for expert in range(EXPERTS):
        own = {k: x[expert * BATCH :][:BATCH] for k, x in batch.items()}
        state = start
        for i in range(2):
            state, metrics = step(state, own, PixelCodec(), expert)
            losses[i] += metrics.loss.compute() / EXPERTS
        states.append(jax.device_get(state))
    return states, losses


def run(batch, parts, mesh):
    init, step = parts
    with jax.set_mesh(mesh):
        key = jax.random.key(0)
        one = sharding.state_sharding(jax.eval_shape(init, key), mesh)
        shardings = sharding.stacked(one)
        stacked = jax.jit(
            lambda key: expert_axis.broadcast(unboxed(init)(key), EXPERTS),
            out_shardings=shardings,
        )
        states = stacked(key)
        batches = sharding.put_expert_batch(batch, mesh, EXPERTS, BATCH)
        step = jax.jit(
            expert_axis.over_experts(step),
            donate_argnums=0,
            out_shardings=(shardings, None),
        )
        losses = []
        for _ in range(2):
            states, metrics = step(states, batches, PixelCodec())
            losses.append(float(metrics.loss.compute()))
        return states, losses


@pytest.mark.parametrize(
    ("experts", "data", "fsdp", "sequence"),
    [
        (1, 1, 1, 1),
        pytest.param(4, 1, 1, 1, marks=pytest.mark.slow),
        pytest.param(2, 2, 2, 1, marks=pytest.mark.slow),
        (2, 1, 2, 2),
    ],
)
def test_equals_one_expert_after_another(
    batch, parts, one_by_one, experts, data, fsdp, sequence
):
    devices = jax.devices()[: experts * data * fsdp * sequence]
    mesh = sharding.make_mesh(data, fsdp, devices, experts=experts, sequence=sequence)
    states, losses = run(batch, parts, mesh)
    expected, expected_losses = one_by_one
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for own, state in zip(expert_axis.split(states), expected, strict=True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            jax.device_get(own),
            state,
        )
    kernel = states.params["blocks"]["attention"]["qkv"]["kernel"]
    whole = (EXPERTS, 2, 32, 96)
    assert kernel.shape == whole
    held = (EXPERTS // experts, 2, 32 // fsdp, 96)
    assert kernel.sharding.shard_shape(whole) == held


def test_experts_send_each_other_nothing(batch, parts):
    """On a mesh of experts alone there is nobody else to talk to."""
    init, step = parts
    mesh = sharding.make_mesh(1, 1, jax.devices()[:4], experts=4)
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(init, jax.random.key(0))
        shardings = sharding.stacked(sharding.state_sharding(shapes, mesh))
        states = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct((4, *x.shape), x.dtype, sharding=s),
            jax.eval_shape(unboxed(init), jax.random.key(0)),
            shardings,
        )
        batches = sharding.put_expert_batch(batch, mesh, EXPERTS, BATCH)
        mapped = expert_axis.over_experts(step)
        step = jax.jit(
            lambda *args: mapped(*args)[0], donate_argnums=0, out_shardings=shardings
        )
        program = step.lower(states, batches, PixelCodec()).compile().as_text()
    for operation in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert operation not in program


def test_samples_keep_their_order(batch):
    """Sample n of the pipeline is expert n // B's, whatever the mesh."""
    for experts, data in ((1, 4), (2, 4), (4, 2)):
        mesh = sharding.make_mesh(
            data, 1, jax.devices()[: experts * data], experts=experts
        )
        placed = sharding.put_expert_batch(batch, mesh, EXPERTS, BATCH)["image_hr"]
        np.testing.assert_array_equal(
            placed, batch["image_hr"].reshape(EXPERTS, BATCH, 16, 16, 3)
        )
