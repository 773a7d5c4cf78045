"""Every preset: exact parameter counts, and one whole training step traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearsr_jax.codecs import DcAeCodec, PixelCodec
from linearsr_jax.codecs.dc_ae_network import DcAeConfig, init_params
from linearsr_jax.config.defaults import default_config
from linearsr_jax.diffusion.flow import PREDICTIONS
from linearsr_jax.diffusion.samplers import SOLVERS, start_from, take_steps
from linearsr_jax.diffusion.schedule import sigma_grid
from linearsr_jax.models.presets import PRESETS, get_preset
from linearsr_jax.training.losses import Loss
from linearsr_jax.training.optimizers import make_optimizer
from linearsr_jax.training.step import make_init, make_train_step, unboxed

# SanaTransformer2DModel with 32 latent channels, as counted in diffusers.
SANA_600M = 591_747_872
SANA_1600M = 1_604_462_752
SANA_1_5_1600M = 1_604_641_952


def sana_total(depth, width):
    """SANA's closed form: the blocks, and everything around them."""
    block = 31 * width**2 // 2 + 66 * width
    return depth * block + 8 * width**2 + 2638 * width + 32


def conditioning_total(stem, width):
    """What the LR image adds: three 3x3 convolutions, and patch embedding columns."""
    total, channels = 0, 3
    for out in stem:
        total += 9 * channels * out + out
        channels = out
    return total + channels * width


COUNTS = {
    # The network, and the embeddings of RAM's 4,585 tags.
    "debug": 58_256 + 4585 * 16,
    "nano": 448_976 + 6 * 2 * (9 * 64 * 64 + 64) + 4585 * 64,
    "small": 34_119_216 + 4585 * 256,
    "600m": SANA_600M + conditioning_total((64, 128, 32), 1152),
    "1600m": SANA_1600M + conditioning_total((64, 128, 32), 2240),
    "1600m_qk": SANA_1_5_1600M + conditioning_total((64, 128, 32), 2240),
}
# A trace takes seconds; the last differs by norms that a block's tests have.
TRACED = [name for name in COUNTS if name != "1600m_qk"]
PIXEL = [name for name in PRESETS if PRESETS[name].codec == "pixel"]


def abstract_codec(preset):
    if preset.codec == "pixel":
        return PixelCodec()
    config = DcAeConfig()
    params = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    return DcAeCodec(params, config)


def optimizer():
    config = default_config()
    return make_optimizer(steps=config.steps, **config.optimizer.to_dict())[0]


def abstract_state(preset, **kwargs):
    init = unboxed(make_init(preset.make_model(**kwargs), optimizer()))
    return jax.eval_shape(init, jax.random.key(0))


def test_every_preset_has_its_row():
    assert set(COUNTS) == set(PRESETS)


def test_sanas_totals_are_the_closed_form():
    assert sana_total(28, 1152) == SANA_600M
    assert sana_total(20, 2240) == SANA_1600M
    assert COUNTS["600m"] == 591_897_280
    assert COUNTS["1600m"] == 1_604_646_976
    assert SANA_1_5_1600M == SANA_1600M + 20 * 4 * 2240


@pytest.mark.parametrize("name", COUNTS)
def test_exact_number_of_parameters(name):
    leaves = jax.tree.leaves(abstract_state(get_preset(name)).params)
    assert sum(x.size for x in leaves) == COUNTS[name]
    assert {x.dtype for x in leaves} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, jnp.bfloat16) for name in TRACED), ("nano", jnp.float32)],
)
def test_a_training_step_can_be_traced(name, dtype):
    preset = get_preset(name)
    codec = abstract_codec(preset)
    assert (codec.factor, codec.channels) == (
        preset.codec_factor,
        preset.latent_channels,
    )
    kwargs = {
        "dtype": dtype,
        "remat": "blocks" if dtype == jnp.bfloat16 else "none",
    }
    loss = Loss(preset.make_model(**kwargs), preset, mass_at_one=0.2)
    step = make_train_step(loss, optimizer(), seed=0)
    batch = {
        "image_hr": jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.uint8),
        "image_lr": jax.ShapeDtypeStruct((2, 16, 24, 3), jnp.uint8),
    }
    before = abstract_state(preset, **kwargs)
    after, metrics = jax.eval_shape(step, before, batch, codec)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)
    values = jax.eval_shape(lambda metrics: metrics.compute(), metrics)
    assert {"loss", "flow_0_223", "flow_at_one", "grad_norm"} <= set(values)
    for value in values.values():
        assert (value.shape, value.dtype) == ((), jnp.float32)


@pytest.mark.parametrize("name", PRESETS)
def test_head_sizes(name):
    preset = get_preset(name)
    assert preset.width == preset.heads * (16 if name == "debug" else 32)
    assert preset.width % preset.cross_heads == 0


@pytest.mark.parametrize("name", PRESETS)
def test_the_stem_lands_on_the_codecs_grid(name):
    preset = get_preset(name)
    strides = preset.make_model().stem_strides
    assert 4 * np.prod(strides) == preset.codec_factor


@pytest.mark.parametrize("name", PIXEL)
def test_untrained_pixel_presets_sample_from_pure_noise(name):
    """Sigma_max 1 and a zero head: one step gives latents of exactly zero."""
    preset = get_preset(name)
    assert preset.unshifted_start == 1.0
    assert preset.zero_init
    prediction = PREDICTIONS[preset.prediction]
    table = SOLVERS["dpm_solver_pp"](
        sigma_grid(
            1, shift=preset.sampling_shift, unshifted_start=preset.unshifted_start
        )
    )

    def denoise(x, sigma):
        return prediction.x0_hat(x, jnp.zeros_like(x), sigma)

    noise = jax.random.normal(jax.random.key(0), (1, 2, 3, 48))
    np.testing.assert_array_equal(take_steps(denoise, start_from(noise), table).x, 0.0)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"nona.*debug, nano, small, 600m, 1600m"):
        get_preset("nona")
