"""What XLA plans for the 1.6B network on an H100, compiled without one; slow."""

import math
import re

import jax
import jax.numpy as jnp
import pytest

from kernels_pallas.testing import compile_for_gpu
from linearsr_jax.benchmarks.forward import make_condition
from linearsr_jax.models.layers import cast_kernels
from linearsr_jax.models.presets import get_preset

DEPTH = get_preset("1600m").depth
SIDE = 32  # Of the latents: 1024 x 1024 pixels.


@pytest.fixture(autouse=True)
def _cuda():
    pytest.importorskip("jax_cuda13_plugin", reason="compiles with jax's CUDA packages")


def compile_network(**how):
    """Compiles an evaluation of 1600m in bfloat16."""
    preset = get_preset("1600m")
    model = preset.make_model(dtype=jnp.bfloat16, **how)

    def draw(key):
        return cast_kernels(model.init_params(key), model.dtype)

    def project(params, condition):
        return model.apply({"params": params}, condition, method="project_condition")

    def denoise(params, *inputs):
        return model.apply({"params": params}, *inputs, method="denoise")

    params = jax.eval_shape(draw, jax.random.key(0))
    condition = jax.eval_shape(lambda: make_condition(model, preset))
    side = math.prod(model.stem_strides) * SIDE
    inputs = (
        jax.ShapeDtypeStruct((1, SIDE, SIDE, model.latent_channels), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
        jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
        jax.eval_shape(project, params, condition),
    )
    return params, compile_for_gpu(denoise, params, *inputs)


def copied_weights(params, compiled):
    """Shapes of the layers' products that a kernel of its own writes to memory."""
    layers = {
        ",".join(map(str, x.shape[1:]))
        for x in jax.tree.leaves(params["blocks"])
        if x.ndim == 3 and x.dtype == jnp.bfloat16
    }
    # Not what happens inside a kernel, where a product reads a slice in place.
    computations = re.split(r"\n(?=%|ENTRY)", compiled.as_text())
    outer = [c for c in computations if c.startswith(("ENTRY", "%region"))]
    lines = "\n".join(outer).splitlines()
    written = re.findall(
        r"bf16\[(?:1,)?([\d,]+)\]\S* (?:copy|fusion|fusion-done|dynamic-slice|slice)\(",
        # A product with one vector, which XLA multiplies out before it adds up; its
        # matrix happens to have the shape of a layer's.
        "\n".join(line for line in lines if "/time_embed/" not in line),
    )
    return [shape for shape in written if shape in layers]


@pytest.mark.slow
def test_a_loop_copies_weights_and_none_is_left_unrolled():
    rolled = copied_weights(*compile_network(implementation="reference"))
    assert len(rolled) >= 6  # Attention's two, cross-attention's two, Mix-FFN's two.
    params, compiled = compile_network(implementation="gpu", scan_unroll=DEPTH)
    assert not copied_weights(params, compiled)
    text = compiled.as_text()
    assert " while(" not in text
    entry = text[text.rindex("\nENTRY") :]
    # State and output, and the convolution; cuDNN's attention.
    assert len(re.findall(r" custom-call\(.*mosaic_gpu", entry)) == 3 * DEPTH
    assert len(re.findall(r" custom-call\(.*fmha", entry)) == DEPTH
    assert compiled.memory_analysis().temp_size_in_bytes < 100e6
