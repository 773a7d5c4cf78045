"""Measures the network, part by part, and a whole image on the present device.

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
import numpy as np

from kernels_pallas import bench_lib
from linearsr_jax.codecs import Codec, DcAeCodec, load_codec
from linearsr_jax.codecs.dc_ae_network import DcAeConfig
from linearsr_jax.codecs.dc_ae_network import init_params as init_dc_ae
from linearsr_jax.core.array_types import PyTree
from linearsr_jax.core.scale import SCALE
from linearsr_jax.inference.guidance import Guidance
from linearsr_jax.inference.sampling import draw_noise, make_upscale
from linearsr_jax.models.embeddings import Condition
from linearsr_jax.models.flops import forward_flops
from linearsr_jax.models.layers import cast_kernels
from linearsr_jax.models.linear_dit import LinearDiT, make_block
from linearsr_jax.models.presets import Preset, get_preset

# Tokens of a text, as in SANA, and of the tags of a photograph.
TEXT_TOKENS, TAG_TOKENS = 300, 16


def bench_forward(
    preset_name: str, sizes: Sequence[int], dtype: str = "float32"
) -> dict[str, Any]:
    """Times one evaluation of the network, whole and by part.

    Args:
      preset_name: key of `PRESETS`.
      sizes: output pixels per side, multiples of the codec's factor.
      dtype: type of the computation and of the weights of products.

    Returns:
      The report of `bench_lib` with matmul_tflops. Its rows are {"size", "part",
      "times" (per evaluation; "forward" is everything but the part computed once per
      image), "gflop", "gb" (weights, input and output), "ms" (each time), "tflops",
      "fraction_of_matmul", "fraction_of_copy"}.

    Raises:
      ValueError: there is no such preset, or a size does not fit.
    """
    preset = get_preset(preset_name)
    _check_sizes(preset, sizes)
    model = preset.make_model(dtype=jnp.dtype(dtype))
    params = jax.jit(lambda key: cast_kernels(model.init_params(key), model.dtype))(
        jax.random.key(0)
    )
    ceiling, copy = bench_lib.matmul_ceiling(model.dtype), bench_lib.copy_bandwidth()
    rows = []
    for size in sizes:
        for part in _parts(model, preset, params, size):
            seconds = bench_lib.seconds_per_call(part.function, *part.inputs)
            output = jax.eval_shape(part.function, *part.inputs)
            moved = _nbytes((part.inputs, output))
            rows.append(
                {
                    "size": size,
                    "part": part.name,
                    "times": part.times,
                    **_row(seconds, part.flops, moved, ceiling, copy),
                }
            )
    report = bench_lib.report(rows, copy)
    return {"preset": preset_name, "dtype": dtype, **_with_ceiling(report, ceiling)}


def bench_upscale(
    preset_name: str, sizes: Sequence[int], steps: int, dtype: str = "float32"
) -> dict[str, Any]:
    """Times upscaling a whole image, with the weights and the LR image on the device.

    Args:
      preset_name, sizes, dtype: see `bench_forward`.
      steps: number of network evaluations.

    Returns:
      The report of `bench_lib` with matmul_tflops and exponent, the power of the number
      of pixels that the time grows with (null for a single size). Its rows are {"size",
      "steps", "gflop" (of the evaluations), "ms", "decode_ms" (part of ms), "peak_mb"
      (memory that the program allocates beside weights and input),
      "fraction_of_matmul" (of the evaluations)}.

    Raises:
      ValueError: see `bench_forward`.
    """
    preset = get_preset(preset_name)
    _check_sizes(preset, sizes)
    model = preset.make_model(dtype=jnp.dtype(dtype))
    params = jax.jit(lambda key: cast_kernels(model.init_params(key), model.dtype))(
        jax.random.key(0)
    )
    codec = jax.device_put(_random_codec(preset, model.dtype))
    ceiling, copy = bench_lib.matmul_ceiling(model.dtype), bench_lib.copy_bandwidth()
    upscale = make_upscale(model, preset, steps=steps)
    rows = []
    for size in sizes:
        side = size // SCALE
        noise = draw_noise(preset, codec, side, side, steps=steps, seed=0)
        pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        condition = _condition(model, preset)
        guidance = Guidance(condition)
        inputs = jax.device_put(([params], codec, pixels, noise, guidance))
        seconds = bench_lib.seconds_per_call(upscale, *inputs)
        memory: Any = jax.jit(upscale).lower(*inputs).compile().memory_analysis()
        latents = jnp.asarray(noise)[None]
        lr = jnp.zeros((1, side, side, 3))
        decode_seconds = bench_lib.seconds_per_call(
            lambda codec, *x: codec.decode(*x), codec, latents, lr
        )
        flops = forward_flops(model, noise.shape[:2], condition.mask.shape[1])
        once = flops["condition"]
        total = once + steps * (sum(flops.values()) - once)
        rows.append(
            {
                "size": size,
                "steps": steps,
                "gflop": round(total / 1e9, 3),
                "ms": round(1e3 * seconds, 3),
                "decode_ms": round(1e3 * decode_seconds, 3),
                "peak_mb": round(memory.temp_size_in_bytes / 1e6, 1),
                "fraction_of_matmul": round(
                    total / max(seconds - decode_seconds, 1e-9) / ceiling, 4
                ),
            }
        )
    report = _with_ceiling(bench_lib.report(rows, copy), ceiling)
    exponent = None
    if len(sizes) > 1:
        pixels = 2 * np.log([row["size"] for row in rows])
        exponent = round(np.polyfit(pixels, np.log([r["ms"] for r in rows]), 1)[0], 3)
    return {"preset": preset_name, "dtype": dtype, "exponent": exponent, **report}


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
    condition = _condition(model, preset)
    flops = forward_flops(model, (side, side), condition.mask.shape[1])
    stride = math.prod(model.stem_strides)
    latents = jnp.ones((1, side, side, model.latent_channels))
    lr = jnp.ones((1, stride * side, stride * side, 3))
    sigma = jnp.full(1, 0.5)
    e, t6 = jax.jit(functools.partial(_apply, model, "embed_time"))(params, sigma)
    projected = jax.jit(functools.partial(_apply, model, "project_condition"))(
        params, condition
    )
    tokens = jnp.ones((1, side**2, model.width), model.dtype)
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


def _condition(model: LinearDiT, preset: Preset) -> Condition:
    if preset.tag_count:
        tokens = jnp.zeros((1, TAG_TOKENS), jnp.int32)
    else:
        tokens = jnp.ones((1, TEXT_TOKENS, model.condition_features), model.dtype)
    return Condition(tokens, jnp.ones(tokens.shape[:2], bool))


def _random_codec(preset: Preset, dtype: jnp.dtype) -> Codec:
    if preset.codec != "dc_ae":
        return load_codec(preset.codec, "")
    config = DcAeConfig()
    params = jax.jit(functools.partial(init_dc_ae, config))(jax.random.key(0))
    return DcAeCodec(params, config, dtype)


def _row(seconds, flops, moved, ceiling, copy):
    return {
        "gflop": round(flops / 1e9, 3),
        "gb": round(moved / 1e9, 4),
        "ms": round(1e3 * seconds, 4),
        "tflops": round(flops / seconds / 1e12, 4),
        "fraction_of_matmul": round(flops / seconds / ceiling, 4),
        "fraction_of_copy": round(moved / seconds / copy, 4),
    }


def _with_ceiling(report, ceiling):
    return {"matmul_tflops": round(ceiling / 1e12, 4), **report}


def _nbytes(tree: PyTree) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _check_sizes(preset: Preset, sizes: Sequence[int]) -> None:
    for size in sizes:
        if size < 1 or size % preset.codec_factor:
            raise ValueError(
                f"size {size} must be a positive multiple of {preset.codec_factor}"
            )
