"""Every preset's whole training step compiles for a slice of a real TPU.

With libtpu, which needs Python 3.12 but no TPU. In this process nothing else may
have loaded libtpu for another purpose:
`pytest -m slow tests/training/test_tpu_compile.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas.absent import tpu_devices
from linearsr_jax.codecs import DcAeCodec, PixelCodec
from linearsr_jax.codecs.dc_ae_network import DcAeConfig, init_params
from linearsr_jax.config.defaults import default_config
from linearsr_jax.diffusion.experts import EXPERT_BOUNDARIES
from linearsr_jax.models.presets import PRESETS, get_preset
from linearsr_jax.training import expert_axis, sharding
from linearsr_jax.training import optimizers as optim
from linearsr_jax.training.losses import Loss
from linearsr_jax.training.step import make_init, make_train_step, unboxed

# HBM of a v5e chip.
CHIP_BYTES = 16 * 2**30


def shapes_with(shapes, shardings):
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        shardings,
    )


def abstract_codec(preset, mesh):
    if preset.codec == "pixel":
        return PixelCodec()
    config = DcAeConfig()
    params = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    replicated = jax.tree.map(lambda _: sharding.replicated(mesh), params)
    return DcAeCodec(shapes_with(params, replicated), config)


CASES = [(name, ()) for name in PRESETS] + [
    ("debug", EXPERT_BOUNDARIES),
    ("small", EXPERT_BOUNDARIES),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "boundaries"), CASES)
def test_training_step_fits_a_v5e_slice_of_16(name, boundaries):
    pytest.importorskip("libtpu")
    preset = get_preset(name)
    # As many latent pixels a crop for every codec; 512 pixels for DC-AE.
    crop = 16 * preset.codec_factor
    config = default_config()
    optimizer, _ = optim.make_optimizer(
        steps=config.steps, **config.optimizer.to_dict()
    )
    model = preset.make_model(dtype=jnp.bfloat16, remat="blocks")
    experts = len(boundaries) + 1
    mesh = sharding.make_mesh(1, -1, tpu_devices("v5e:4x4"), experts=experts)
    codec = abstract_codec(preset, mesh)
    batch_sharding = sharding.expert_batch_sharding(mesh)

    def images(side):
        return jax.ShapeDtypeStruct(
            (experts, mesh.size // experts, side, side, 3),
            jnp.uint8,
            sharding=batch_sharding,
        )

    with jax.set_mesh(mesh):
        init = make_init(model, optimizer)
        key = jax.eval_shape(lambda: jax.random.key(0))
        one = sharding.state_sharding(jax.eval_shape(init, key), mesh)
        shardings = sharding.stacked(one)
        shapes = jax.eval_shape(
            lambda key: expert_axis.broadcast(unboxed(init)(key), experts), key
        )
        states = shapes_with(shapes, shardings)
        loss = Loss(
            model, preset, mass_at_one=config.mass_at_one, boundaries=boundaries
        )
        step = jax.jit(
            expert_axis.over_experts(make_train_step(loss, optimizer, seed=0)),
            donate_argnums=0,
            out_shardings=(shardings, None),
        )
        batch = {"image_hr": images(crop), "image_lr": images(crop // 4)}
        compiled = step.lower(states, batch, codec).compile()
    memory = compiled.memory_analysis()
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    parameters = sum(np.prod(x.shape) for x in jax.tree.leaves(states.params))
    print(f"{name}: {parameters:,.0f} parameters, {used / 2**30:.2f} GiB a chip")
    assert used < CHIP_BYTES
    # The states are updated where they are, not copied.
    assert memory.alias_size_in_bytes > 0.9 * memory.output_size_in_bytes
