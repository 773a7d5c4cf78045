"""The pure step: it learns, and devices agree."""

import jax
import numpy as np
import optax
import pytest

from linearsr_jax import optim, sharding
from linearsr_jax.codecs import PixelCodec
from linearsr_jax.data import degradations
from linearsr_jax.losses import Loss
from linearsr_jax.models.presets import get_preset
from linearsr_jax.train_step import make_init, make_train_step, unboxed

PRESET = get_preset("debug")


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 9, 9, 3), dtype=np.uint8)
    image_hr = np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2)[:, 2:34, 2:34]
    image_lr = np.stack([degradations.bicubic(image) for image in image_hr])
    return {"image_hr": image_hr, "image_lr": image_lr}


def run(batch, optimizer, *, devices, steps, fsdp=1, mass_at_one=0.2, accumulation=1):
    mesh = sharding.make_mesh(-1, fsdp, devices)
    model = PRESET.make_model()
    with jax.set_mesh(mesh):
        init = make_init(model, optimizer)
        key = jax.random.key(0)
        shardings = sharding.state_sharding(jax.eval_shape(init, key), mesh)
        state = jax.jit(unboxed(init), out_shardings=shardings)(key)
        loss = Loss(model, PixelCodec(), PRESET, mass_at_one=mass_at_one)
        step = make_train_step(loss, optimizer, seed=0, accumulation=accumulation)
        step = jax.jit(step, out_shardings=(shardings, None))
        losses = []
        for _ in range(steps):
            state, metrics = step(state, sharding.put_batch(batch, mesh))
            losses.append(float(metrics.loss.compute()))
    return state, losses


def test_one_batch_is_overfitted(batch):
    # At sigma = 1 only, the loss is a plain regression that can go to zero.
    state, losses = run(
        batch, optax.adam(1e-2), devices=jax.devices()[:1], steps=250, mass_at_one=1.0
    )
    assert int(state.step) == 250
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize("fsdp", [1, 4])
def test_one_and_eight_devices_agree_to_rounding(batch, fsdp):
    # Plain gradient descent: Adam would turn rounding of a gradient near zero into
    # a step of full size.
    optimizer = optax.sgd(0.1)
    one, losses_one = run(batch, optimizer, devices=jax.devices()[:1], steps=3)
    eight, losses_eight = run(
        batch, optimizer, devices=jax.devices()[:8], steps=3, fsdp=fsdp
    )
    np.testing.assert_allclose(losses_eight, losses_one, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        jax.device_get(eight.params),
        jax.device_get(one.params),
    )


def test_fsdp_splits_parameters_and_moments(batch):
    optimizer, _ = make_optimizer()
    state, _ = run(batch, optimizer, devices=jax.devices()[:8], steps=1, fsdp=4)
    kernel = state.params["blocks"]["attention"]["qkv"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 8, 96)
    average = optim.ema_params(state.opt_state)["blocks"]["attention"]["qkv"]["kernel"]
    assert average.sharding == kernel.sharding


def test_draws_depend_on_the_step_and_the_seed(batch):
    model, optimizer = PRESET.make_model(), optax.sgd(0.0)
    state = unboxed(make_init(model, optimizer))(jax.random.key(0))

    def losses(seed, steps):
        loss = Loss(model, PixelCodec(), PRESET, mass_at_one=0.0)
        train_step = jax.jit(make_train_step(loss, optimizer, seed=seed))
        return [
            float(train_step(state.replace(step=step), batch)[1].loss.compute())
            for step in steps
        ]

    same, again, other_step = losses(seed=0, steps=[0, 0, 1])
    (other_seed,) = losses(seed=1, steps=[0])
    assert same == again
    assert len({same, other_step, other_seed}) == 3


@pytest.mark.parametrize(("data", "fsdp"), [(3, 1), (-1, -1), (0, 8), (-1, 3)])
def test_mesh_that_does_not_fit_is_an_error(data, fsdp):
    with pytest.raises(ValueError, match="does not fit 8 devices"):
        sharding.make_mesh(data, fsdp)
