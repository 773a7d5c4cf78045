"""Forward-mode differentiation of the whole network, by implementation="reference".

MeanFlow and consistency distillation need jvp and grad of jvp of it, curvature needs
Hessian-vector products. The forms that None chooses are reverse-mode only.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearsr_jax.models.presets import get_preset
from tests.models.test_blocks import random_like

GRID = (3, 5)


@pytest.fixture(scope="module")
def networks():
    """({implementation: jitted function of the latents}, latents)."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2, *GRID, 48)).astype(np.float32)
    image_lr = rng.uniform(-1, 1, (2, *GRID, 3)).astype(np.float32)
    sigma = np.array([0.3, 0.8], np.float32)
    preset = dataclasses.replace(get_preset("debug"), tag_count=0)
    models = {
        name: preset.make_model(implementation=name) for name in (None, "reference")
    }
    abstract = jax.eval_shape(models[None].init_params, jax.random.key(0))
    params = random_like(abstract, scale=0.2)

    def function_of_latents(model):
        def run(latents):
            return model.apply({"params": params}, latents, sigma, image_lr)

        return jax.jit(run)

    return {n: function_of_latents(m) for n, m in models.items()}, latents


def direction_like(x, seed):
    return np.random.default_rng(seed).standard_normal(x.shape).astype(np.float32)


def inner(a, b):
    return float(np.sum(np.asarray(a, np.float64) * np.asarray(b, np.float64)))


def test_jvp_is_the_transpose_of_the_default_forms_gradient(networks):
    runs, latents = networks
    tangent, cotangent = direction_like(latents, 1), direction_like(latents, 2)
    out, slope = jax.jvp(runs["reference"], (latents,), (tangent,))
    default_out, vjp = jax.vjp(runs[None], latents)
    np.testing.assert_allclose(out, default_out, rtol=0, atol=1e-5)
    (gradient,) = vjp(cotangent)
    assert inner(slope, cotangent) == pytest.approx(inner(gradient, tangent), rel=1e-4)


def test_jvp_is_the_slope(networks):
    runs, latents = networks
    tangent = direction_like(latents, 1)
    _, slope = jax.jvp(runs["reference"], (latents,), (tangent,))
    step = np.float32(2**-11)
    ahead, behind = (runs[None](latents + s * tangent) for s in (step, -step))
    difference = (np.asarray(ahead, np.float64) - behind) / (2 * step)
    error = np.linalg.norm(slope - difference) / np.linalg.norm(difference)
    # Of rounding: 1e-7 of the output, divided by the step.
    assert error < 3e-3


def test_hessian_vector_products_are_symmetric(networks):
    runs, latents = networks

    def hvp(tangent):
        gradient = jax.grad(lambda x: jnp.sum(jnp.sin(runs["reference"](x))))
        return jax.jvp(gradient, (latents,), (tangent,))[1]

    u, v = direction_like(latents, 1), direction_like(latents, 2)
    hu, hv = jax.jit(hvp)(u), jax.jit(hvp)(v)
    assert np.all(np.isfinite(hu))
    assert abs(inner(v, hu)) > 1e-3
    assert inner(v, hu) == pytest.approx(inner(u, hv), rel=1e-2)


def test_gradient_of_a_jvp_is_finite(networks):
    runs, latents = networks
    tangent = direction_like(latents, 1)

    def slope_norm(x):
        return jnp.sum(jax.jvp(runs["reference"], (x,), (tangent,))[1] ** 2)

    gradient = jax.jit(jax.grad(slope_norm))(latents)
    assert np.all(np.isfinite(gradient))
    assert np.any(np.asarray(gradient) != 0)


def test_the_switch_is_not_undone_by_what_was_compiled_before(networks):
    """The default refuses forward mode on CPU, before and after the switch ran."""
    runs, latents = networks
    for _ in range(2):
        with pytest.raises(TypeError, match="forward-mode"):
            jax.jvp(runs[None], (latents,), (latents,))
        jax.jvp(runs["reference"], (latents,), (latents,))
