"""The paper's sizes take a real step: full width, two blocks, eight devices.

The codec is a stand-in, as good as any for this: block means, projected.
"""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from linearsr_jax.config.defaults import default_config
from linearsr_jax.models.presets import get_preset
from linearsr_jax.training import metrics as train_metrics
from linearsr_jax.training import optimizers as optim
from linearsr_jax.training import sharding
from linearsr_jax.training.initial_state import _check_splits
from linearsr_jax.training.losses import Loss
from linearsr_jax.training.record import TrainError
from linearsr_jax.training.step import make_init, make_train_step, unboxed

PIXELS = 64  # two latent pixels in each direction


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class BlockMeanCodec:
    """A test double of a codec of factor 32: no detail survives it."""

    factor: int = 32
    channels: int = 32

    def _projection(self):
        return np.random.default_rng(0).standard_normal((3, self.channels), np.float32)

    def encode(self, image_hr, image_lr):
        batch, height, width, _ = image_hr.shape
        blocks = image_hr.reshape(batch, height // 32, 32, width // 32, 32, 3)
        return blocks.mean((2, 4)) @ self._projection()

    def decode(self, latents, image_lr):
        means = latents @ np.linalg.pinv(self._projection())
        return means.repeat(32, axis=1).repeat(32, axis=2)


@pytest.fixture(scope="module")
def batch():
    image_hr = np.random.default_rng(0).integers(0, 256, (8, 2, 2, 3), dtype=np.uint8)
    image_hr = image_hr.repeat(PIXELS // 2, axis=1).repeat(PIXELS // 2, axis=2)
    return {"image_hr": image_hr, "image_lr": image_hr[:, ::4, ::4].copy()}


def take_step(preset, batch, optimizer, *, devices, fsdp):
    model = preset.make_model(remat="blocks")
    mesh = sharding.make_mesh(-1, fsdp, jax.devices()[:devices])
    with jax.set_mesh(mesh):
        init = make_init(model, optimizer)
        # This generator compiles faster than the default one, and runs faster.
        key = jax.random.key(0, impl="unsafe_rbg")
        shardings = sharding.state_sharding(jax.eval_shape(init, key), mesh)
        state = jax.jit(unboxed(init), out_shardings=shardings)(key)
        loss = Loss(model, preset, mass_at_one=0.0)
        step = jax.jit(
            make_train_step(loss, optimizer, seed=0),
            donate_argnums=0,
            out_shardings=(shardings, None),
        )
        state, metrics = step(
            state,
            jax.device_put(batch, sharding.batch_sharding(mesh)),
            BlockMeanCodec(),
        )
    return state, train_metrics.scalars(metrics)


def make_came():
    config = default_config()
    config.optimizer.name = "came"
    config.optimizer.warmup_steps = 0
    return optim.make_optimizer(steps=config.steps, **config.optimizer.to_dict())[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["600m", "1600m"])
def test_takes_a_step_under_fsdp_with_remat(name, batch):
    preset = dataclasses.replace(get_preset(name), depth=2)
    state, scalars = take_step(preset, batch, make_came(), devices=8, fsdp=4)
    assert all(np.isfinite(value) for value in scalars.values())
    assert scalars["grad_norm"] > 0
    assert scalars["update_norm"] > 0
    blocks = state.params["blocks"]
    for kernel in (
        blocks["attention"]["qkv"]["kernel"],
        blocks["attention"]["out"]["kernel"],
        blocks["cross_attention"]["kv"]["kernel"],
        blocks["ffn"]["expand"]["kernel"],
        blocks["ffn"]["project"]["kernel"],
    ):
        shard = kernel.sharding.shard_shape(kernel.shape)
        assert 4 * np.prod(shard) == kernel.size
        assert shard[0] == kernel.shape[0] == 2  # the layers are not split


@pytest.mark.slow
def test_a_narrow_one_agrees_with_one_device(batch):
    preset = dataclasses.replace(
        get_preset("600m"), width=64, depth=2, heads=2, cross_heads=4
    )
    # Plain gradient descent: rounding of a gradient near zero stays what it is.
    runs = [
        take_step(preset, batch, optax.sgd(0.1), devices=devices, fsdp=fsdp)
        for devices, fsdp in ((1, 1), (8, 4))
    ]
    (one, one_scalars), (eight, eight_scalars) = runs
    np.testing.assert_allclose(eight_scalars["loss"], one_scalars["loss"], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        *jax.device_get((eight.params, one.params)),
    )


def test_a_mesh_that_does_not_split_the_state_names_one_that_does():
    mesh = jax.sharding.AbstractMesh((128,), ("fsdp",))
    split = jax.sharding.NamedSharding(mesh, jax.P("fsdp"))
    state = {"kernel": jax.ShapeDtypeStruct((2240,), "float32")}
    # 112 divides 2240 as well, but no slice of 128.
    with pytest.raises(TrainError, match=r"fsdp 128 .* of 2240 of .*kernel.*; 64 does"):
        _check_splits(state, {"kernel": split})
