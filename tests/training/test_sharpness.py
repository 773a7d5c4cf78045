"""Batch sharpness against its closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from linearsr_jax.codecs import PixelCodec
from linearsr_jax.models.presets import get_preset
from linearsr_jax.training.losses import Loss
from linearsr_jax.training.sharpness import make_batch_sharpness, sharpness


def test_of_a_quadratic():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((5, 5))
    hessian = root @ root.T
    point = rng.standard_normal(5)
    gradient = hessian @ point
    expected = gradient @ hessian @ gradient / (gradient @ gradient)
    # A tree of parameters, as networks have.
    params = {"a": jnp.float32(point[:2]), "b": jnp.float32(point[2:])}

    def quadratic(params):
        x = jnp.concatenate([params["a"], params["b"]])
        return 0.5 * x @ jnp.float32(hessian) @ x

    np.testing.assert_allclose(sharpness(quadratic, params), expected, rtol=1e-5)


def test_of_the_network_against_finite_differences():
    preset = get_preset("debug")
    model = preset.make_model(implementation="reference")
    loss = Loss(model, preset, mass_at_one=0.0)
    rng = np.random.default_rng(0)
    batch = {
        name: rng.integers(0, 256, (1, side, side, 3), dtype=np.uint8)
        for name, side in (("image_hr", 16), ("image_lr", 4))
    }
    codec = PixelCodec()
    params = model.init_params(jax.random.key(0))
    # A zero head has no gradient behind it.
    params["head"]["kernel"] = 0.1 * jax.random.normal(
        jax.random.key(1), params["head"]["kernel"].shape
    )
    draws = loss.draw(jax.random.key(2), batch, codec)
    measured = make_batch_sharpness(loss)(params, codec, [(batch, draws)] * 2)

    gradient = jax.jit(jax.grad(lambda p: loss(p, codec, batch, draws)[0]))
    g = gradient(params)
    # Small: a ReLU that turns on within the step is no curvature.
    step = 3e-4 / np.sqrt(sum(float(jnp.vdot(x, x)) for x in jax.tree.leaves(g)))
    ends = [
        gradient(jax.tree.map(lambda p, d, s=s: p + s * step * d, params, g))
        for s in (1, -1)
    ]
    curvature = jax.tree.map(lambda a, b: (a - b) / (2 * step), *ends)
    dots = [
        sum(
            float(jnp.vdot(x, y))
            for x, y in zip(*map(jax.tree.leaves, pair), strict=True)
        )
        for pair in ((g, curvature), (g, g))
    ]
    np.testing.assert_allclose(measured, dots[0] / dots[1], rtol=2e-2)
