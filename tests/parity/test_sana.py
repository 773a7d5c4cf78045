"""Converted SANA weights compute what diffusers' transformer does, alone and sampling.

Golden arrays come from make_golden_sana.py; where torch and diffusers are installed the
parts are compared as well, one by one.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from linearsr_jax.convert.sana import convert
from linearsr_jax.diffusion import samplers
from linearsr_jax.diffusion.flow import x0_from_velocity
from linearsr_jax.diffusion.schedule import sigma_grid
from linearsr_jax.models.blocks import CrossAttention, MixFFN
from linearsr_jax.models.embeddings import (
    Condition,
    ConditionProjection,
    TimeEmbedding,
)
from linearsr_jax.models.linear_attention import LinearSelfAttention
from linearsr_jax.pretrained.model_folder import load_pretrained
from tests.models.test_blocks import attend
from tests.parity.comparing import relative_error
from tests.sana_testing import GOLDEN, TWINS, golden_weights, save_codec, save_diffusers

MODULE_TOLERANCE = 1e-5
WHOLE_TOLERANCE = 1e-4
# Of make_golden_sana.GRIDS, one each; position on a new grid and on its own.
CASES = (("plain", 0), ("qk", 1), ("position", 1), ("position", 2))


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Every twin, through the converter as a user would."""
    folder = tmp_path_factory.mktemp("sana")
    codec = save_codec(folder / "codec")
    found = {}
    for name in TWINS:
        source = save_diffusers(folder / name, golden_weights(name), name)
        convert(source, folder / f"{name}_ours", codec)
        found[name] = load_pretrained(folder / f"{name}_ours")
    return found


def image_lr(latents, seed=0):
    """Any: a converted model does not look at it."""
    batch, height, width, _ = latents.shape
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (batch, 8 * height, 8 * width, 3)).astype(np.float32)


def predict_velocity(model, latents, timestep, condition, mask):
    # In the middle between whole timesteps, of which the lower one counts.
    sigma = (timestep + 0.5) / 1000
    return jax.jit(model.preset.make_model().apply)(
        {"params": model.experts[0]},
        latents,
        sigma.astype(np.float32),
        image_lr(latents),
        Condition(condition, mask.astype(bool)),
    )


@pytest.mark.parametrize(("twin", "case"), CASES)
def test_network(golden, models, twin, case):
    names = ("latents", "timestep", "condition", "mask")
    inputs = (golden[f"{case}.{name}"] for name in names)
    actual = predict_velocity(models[twin], *inputs)
    assert relative_error(actual, golden[f"{case}.{twin}"]) < WHOLE_TOLERANCE


def test_golden_arrays_tell_the_twins_apart(golden):
    for twin in ("qk", "position"):
        assert relative_error(golden["1.plain"], golden[f"1.{twin}"]) > 0.01


def sample(model, golden, sigmas, solver):
    latents = golden["0.latents"][:1]
    network = model.preset.make_model()
    mask = golden["0.mask"][:1].astype(bool)
    condition = Condition(golden["0.condition"][:1], mask)

    @jax.jit
    def run(params, latents):
        def denoise(x, sigma):
            velocity = network.apply(
                {"params": params}, x, sigma[None], image_lr(latents), condition
            )
            return x0_from_velocity(x, velocity, sigma)

        return samplers.take_steps(
            denoise, samplers.start_from(latents), solver(sigmas)
        ).x

    return run(model.experts[0], latents)


def test_dpm_solver_loop(golden, models):
    """Network and sampler, 20 steps."""
    model = models["qk"]
    sigmas = sigma_grid(
        model.preset.default_steps,
        shift=model.preset.sampling_shift,
        unshifted_start=model.preset.unshifted_start,
    )
    np.testing.assert_array_equal(
        jnp.floor(1000 * sigmas[:-1].astype(np.float32)), golden["dpm.timesteps"]
    )
    actual = sample(model, golden, sigmas, samplers.SOLVERS[model.preset.solver])
    assert relative_error(actual, golden["dpm.latents"]) < WHOLE_TOLERANCE


def test_euler_loop(golden, models):
    """Its scheduler in diffusers feeds fractions of timesteps, on a grid of its own."""
    preset = dataclasses.replace(models["qk"].preset, floor_timestep=False)
    model = dataclasses.replace(models["qk"], preset=preset)
    sigmas = golden["euler.sigmas"].astype(np.float64)
    actual = sample(model, golden, sigmas, samplers.euler)
    assert relative_error(actual, golden["euler.latents"]) < WHOLE_TOLERANCE


@pytest.mark.parametrize("twin", ["plain", "qk"])
def test_every_module_against_diffusers(golden, models, twin):
    pytest.importorskip("diffusers", reason="extra `parity` is not installed")
    from tests.parity import make_golden_sana

    torch_twin = make_golden_sana.make_twin(twin)
    calls = {}

    def record(name):
        def hook(_module, args, kwargs, output):
            calls[name] = (args, kwargs, output)

        return hook

    modules = dict(torch_twin.named_modules())
    parts = ("attn1", "attn2", "ff")
    names = [f"transformer_blocks.{i}.{part}" for i in range(2) for part in parts]
    for name in ("patch_embed", "time_embed", "caption_projection", "caption_norm"):
        modules[name].register_forward_hook(record(name), with_kwargs=True)
    for name in names:
        modules[name].register_forward_hook(record(name), with_kwargs=True)
    inputs = make_golden_sana.make_inputs(*make_golden_sana.GRIDS[1])
    make_golden_sana.run_twin(torch_twin, inputs)

    params = models[twin].experts[0]
    sigma = (inputs["timestep"].numpy() + 0.5) / 1000
    e, t6 = TimeEmbedding(32, True, jnp.float32).apply(
        {"params": params["time_embed"]}, sigma
    )
    theirs_t6, theirs_e = calls["time_embed"][2]
    caption = ConditionProjection(32, jnp.float32).apply(
        {"params": params["condition"]}, inputs["condition"].numpy()
    )
    errors = {
        "time": relative_error(e, theirs_e),
        "time, blocks": relative_error(t6.reshape(2, -1), theirs_t6),
        "caption": relative_error(caption, calls["caption_norm"][2]),
    }
    mask = inputs["mask"].numpy().astype(bool)
    how = {"dtype": jnp.float32, "implementation": None}
    has_norm = twin == "qk"
    attention = LinearSelfAttention(
        width=32, heads=4, qk_norm=has_norm, floor=0.0, **how
    )
    cross_attention = CrossAttention(32, 2, has_norm, False, jnp.float32)
    ffn = MixFFN(32, 80, **how)
    for layer in range(2):
        block = jax.tree.map(lambda x, layer=layer: x[layer], params["blocks"])
        for part in parts:
            args, kwargs, expected = calls[f"transformer_blocks.{layer}.{part}"]
            x = (args or [kwargs.get("hidden_states")])[0].numpy()
            if part == "attn1":
                actual = attention.apply({"params": block["attention"]}, x)
            elif part == "attn2":
                their_mask = kwargs["attention_mask"][:, 0].numpy() == 0
                np.testing.assert_array_equal(their_mask, mask)
                condition = kwargs["encoder_hidden_states"].numpy()
                actual = cross_attention.apply(
                    {"params": block["cross_attention"]},
                    x,
                    condition,
                    mask,
                    method=attend,
                )
            else:
                batch, channels, *grid = x.shape
                tokens = x.reshape(batch, channels, -1).transpose(0, 2, 1)
                actual = ffn.apply({"params": block["ffn"]}, tokens, tuple(grid))
                expected = expected.flatten(2).permute(0, 2, 1)
            errors[f"{layer}.{part}"] = relative_error(actual, expected)
    assert max(errors.values()) < MODULE_TOLERANCE, errors


def test_position_embedding_against_diffusers():
    pytest.importorskip("diffusers", reason="extra `parity` is not installed")
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    from linearsr_jax.models.embeddings import position_embedding

    for grid, base, scale in (((64, 64), 64, 1.0), ((3, 50), 128, 2.0)):
        expected = get_2d_sincos_pos_embed(
            48, grid, base_size=base, interpolation_scale=scale
        )
        actual = position_embedding(grid, 48, base / scale)
        assert relative_error(actual, expected.float()) < 1e-6
