"""Measures one evaluation of the network, part by part, on the present device.

Weights are random, the batch size is one, and there is no guidance. Two yardsticks are
measured in the same run: a large matrix product and a memory copy. Parts that compute
much per byte should come near the first, the others near the second.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kernels_pallas import bench_lib
from linearsr_jax.core.array_types import PyTree
from linearsr_jax.models.embeddings import Condition
from linearsr_jax.models.flops import forward_flops
from linearsr_jax.models.layers import cast_kernels
from linearsr_jax.models.linear_dit import (
    LinearDiT,
    inference_unroll,
    make_block,
)
from linearsr_jax.models.presets import Preset, get_preset

# Tokens of a text, as in SANA, and of the tags of a photograph.
TEXT_TOKENS, TAG_TOKENS = 300, 16


class Ceilings(NamedTuple):
    """The upper limits of the device, as measured.

    Attributes:
      matmul: FLOP/s of a large product.
      copy: bytes per second, read plus written.
    """

    matmul: float
    copy: float

    @classmethod
    def measured(cls, dtype: str) -> "Ceilings":
        """Measures them for products of that type."""
        matmul = bench_lib.matmul_ceiling(jnp.dtype(dtype))
        return cls(matmul, bench_lib.copy_bandwidth())


def bench_forward(
    preset_name: str, sizes: Sequence[int], dtype: str = "float32"
) -> dict[str, Any]:
    """Times one evaluation of the network, whole and by part.

    Args:
      preset_name, sizes, dtype: see `forward_rows`.

    Returns:
      The report of `bench_lib` with matmul_tflops and the rows of `forward_rows`.

    Raises:
      ValueError: there is no such preset, or a size does not fit.
    """
    check_sizes(get_preset(preset_name), sizes)
    ceilings = Ceilings.measured(dtype)
    rows = list(forward_rows(ceilings, preset_name, sizes, dtype))
    return make_report(rows, ceilings, preset=preset_name, dtype=dtype)


def forward_rows(
    ceilings: Ceilings,
    preset_name: str,
    sizes: Sequence[int],
    dtype: str = "float32",
    **how: Any,
) -> Iterator[dict[str, Any]]:
    """Measures row by row.

    Args:
      ceilings: for the fractions.
      preset_name: key of `PRESETS`.
      sizes: output pixels per side, multiples of the codec's factor.
      dtype: type of the computation and of the weights of products.
      **how: `LinearDiT`'s scan_unroll and implementation; by default as `Upscaler`.

    Yields:
      {"size", "part", "times" (per evaluation; "forward" is everything but the part
      computed once per image), "gflop", "gb" (weights, input and output), "ms" (each
      time), "tflops", "fraction_of_matmul", "fraction_of_copy"}, on an NVIDIA GPU what
      `bench_lib.profiled` adds; of a part that fails, and of "forward" if its output
      is not finite, "size", "part", "times" and "error".
    """
    preset = get_preset(preset_name)
    how = {"scan_unroll": inference_unroll(preset.depth), **how}
    model = preset.make_model(dtype=jnp.dtype(dtype), **how)
    params = random_params(model)
    for size in sizes:
        for part in _parts(model, preset, params, size):

            def measure(part=part):
                is_whole = part.name == "forward"
                run = jax.jit(part.function)
                if is_whole and not jnp.all(jnp.isfinite(run(*part.inputs))):
                    raise ArithmeticError("the network's output is not finite")
                seconds = bench_lib.seconds_per_call(
                    run, *part.inputs, calls=1 if is_whole else 10
                )
                output = jax.eval_shape(part.function, *part.inputs)
                moved = _nbytes((part.inputs, output))
                return {
                    "gflop": round(part.flops / 1e9, 3),
                    "gb": round(moved / 1e9, 4),
                    "ms": round(1e3 * seconds, 4),
                    "tflops": round(part.flops / seconds / 1e12, 4),
                    "fraction_of_matmul": round(
                        part.flops / seconds / ceilings.matmul, 4
                    ),
                    "fraction_of_copy": round(moved / seconds / ceilings.copy, 4),
                    **bench_lib.profiled(run, *part.inputs),
                }

            labels = {"size": size, "part": part.name, "times": part.times}
            yield bench_lib.attempt(measure, **labels)


def random_params(model: LinearDiT) -> PyTree:
    """Draws a network's weights as inference keeps them, on the device."""

    def draw(key):
        return cast_kernels(model.init_params(key), model.dtype)

    return jax.jit(draw)(jax.random.key(0))


class _Part(NamedTuple):
    """A part of the network, as a function of its own weights and input."""

    name: str
    times: int
    flops: int
    function: Callable
    inputs: tuple


def _parts(
    model: LinearDiT, preset: Preset, params: PyTree, size: int
) -> Iterator[_Part]:
    side, depth = size // preset.codec_factor, model.depth
    condition = make_condition(model, preset)
    flops = forward_flops(model, (side, side), condition.mask.shape[1])
    stride = math.prod(model.stem_strides)
    latents = bench_lib.normals(1, side, side, model.latent_channels)
    lr = bench_lib.normals(1, stride * side, stride * side, 3, seed=1)
    sigma = jnp.full(1, 0.5)
    e, t6 = jax.jit(functools.partial(_apply, model, "embed_time"))(params, sigma)
    projected = jax.jit(functools.partial(_apply, model, "project_condition"))(
        params, condition
    )
    tokens = bench_lib.normals(1, side**2, model.width, dtype=model.dtype, seed=2)
    block, layer = make_block(model), jax.tree.map(lambda x: x[0], params["blocks"])
    keys_and_values = jax.tree.map(lambda x: x[0], projected.keys_and_values)

    once = flops["condition"]
    everything = functools.partial(_apply, model, "denoise")
    inputs = (params, latents, sigma, lr, projected)
    yield _Part("forward", 1, sum(flops.values()) - once, everything, inputs)
    for name, method, weights, inputs in (
        ("embed", "embed", ("stem", "patch_embed"), (latents, lr)),
        ("time", "embed_time", ("time_embed",), (sigma,)),
        ("read_out", "read_out", ("head",), (tokens, e)),
    ):
        of_model = functools.partial(_apply, model, method)
        weights = {key: params[key] for key in (*weights, "scale_shift_table")}
        yield _Part(name, 1, flops[name], of_model, (weights, *inputs))
    for name, method, inputs in (
        ("attention", "add_attention", (tokens, t6)),
        ("cross_attention", _add_cross, (tokens, keys_and_values, projected.mask)),
        ("ffn", functools.partial(_add_ffn, grid=(side, side)), (tokens, t6)),
    ):
        of_block = functools.partial(_apply, block, method)
        weights = {key: layer[key] for key in (name, "scale_shift_table")}
        yield _Part(name, depth, flops[name] // depth, of_block, (weights, *inputs))
    project = functools.partial(_apply, model, "project_condition")
    yield _Part("once an image", 0, once, project, (params, condition))


def _apply(module: Any, method: str | Callable, params: PyTree, *arrays: Any) -> Any:
    return module.apply({"params": params}, *arrays, method=method)


def _add_cross(block, tokens, keys_and_values, mask):
    return tokens + block.cross_attention(tokens, keys_and_values, mask)


def _add_ffn(block, tokens, t6, grid):
    return block.add_ffn(tokens, t6, grid)


def make_condition(model: LinearDiT, preset: Preset) -> Condition:
    """Makes a text or tags of usual length."""
    if preset.tag_count:
        tokens = jnp.arange(TAG_TOKENS)[None] % preset.tag_count
    else:
        shape = (1, TEXT_TOKENS, model.condition_features)
        tokens = bench_lib.normals(*shape, dtype=model.dtype, seed=3)
    return Condition(tokens, jnp.ones(tokens.shape[:2], bool))


def make_report(
    rows: list[dict[str, Any]], ceilings: Ceilings, **labels: Any
) -> dict[str, Any]:
    """Makes the JSON object that a benchmark of the network prints."""
    report = bench_lib.report(rows, ceilings.copy)
    return {**labels, "matmul_tflops": round(ceilings.matmul / 1e12, 4), **report}


def _nbytes(tree: PyTree) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def check_sizes(preset: Preset, sizes: Sequence[int]) -> None:
    """Raises ValueError for a size that the preset's codec cannot make."""
    for size in sizes:
        if size < 1 or size % preset.codec_factor:
            raise ValueError(
                f"size {size} must be a positive multiple of {preset.codec_factor}"
            )
