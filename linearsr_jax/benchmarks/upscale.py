"""Measures upscaling a whole image on the present device: network, solver, decoder.

Weights are random, the batch size is one, and there is no guidance; the yardsticks are
those of `forward`.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kernels_pallas import bench_lib
from linearsr_jax.benchmarks.forward import (
    Ceilings,
    check_sizes,
    make_condition,
    make_report,
    random_params,
)
from linearsr_jax.codecs import Codec, DcAeCodec, load_codec
from linearsr_jax.codecs.dc_ae_network import DcAeConfig
from linearsr_jax.codecs.dc_ae_network import init_params as init_dc_ae
from linearsr_jax.core.scale import SCALE
from linearsr_jax.inference.guidance import Guidance
from linearsr_jax.inference.sampling import draw_noise, make_upscale
from linearsr_jax.models.flops import forward_flops
from linearsr_jax.models.linear_dit import LinearDiT, inference_unroll
from linearsr_jax.models.presets import Preset, get_preset


def bench_upscale(
    preset_name: str, sizes: Sequence[int], steps: int, dtype: str = "float32"
) -> dict[str, Any]:
    """Times upscaling a whole image, with the weights and the LR image on the device.

    Args:
      preset_name, sizes, steps, dtype: see `upscale_rows`.

    Returns:
      The report of `bench_lib` with matmul_tflops, the rows of `upscale_rows` and
      exponent, the power of the number of pixels that the time grows with (null where
      fewer than two sizes ran).

    Raises:
      ValueError: there is no such preset, or a size does not fit.
    """
    check_sizes(get_preset(preset_name), sizes)
    ceilings = Ceilings.measured(dtype)
    rows = list(upscale_rows(ceilings, preset_name, sizes, steps, dtype))
    exponent = None
    ran = [(row["size"], row["ms"]) for row in rows if "ms" in row]
    if len(ran) > 1:
        pixels, times = zip(*ran, strict=True)
        exponent = round(np.polyfit(2 * np.log(pixels), np.log(times), 1)[0], 3)
    labels = {"preset": preset_name, "dtype": dtype, "exponent": exponent}
    return make_report(rows, ceilings, **labels)


def upscale_rows(
    ceilings: Ceilings,
    preset_name: str,
    sizes: Sequence[int],
    steps: int,
    dtype: str = "float32",
    **how: Any,
) -> Iterator[dict[str, Any]]:
    """Measures row by row.

    Args:
      ceilings, preset_name, sizes, dtype, **how: see `forward.forward_rows`. The
        decoder's operations have the same implementation.
      steps: number of network evaluations.

    Yields:
      {"size", "steps", "gflop" (of the evaluations), "ms", "decode_ms" (part of ms),
      "peak_mb" (memory that the program allocates beside weights and input),
      "fraction_of_matmul" (of the evaluations)}; of a size that fails "size", "steps"
      and "error".
    """
    preset = get_preset(preset_name)
    how = {"scan_unroll": inference_unroll(preset.depth), **how}
    model = preset.make_model(dtype=jnp.dtype(dtype), **how)
    params = random_params(model)
    codec = jax.device_put(_random_codec(preset, model))
    upscale = make_upscale(model, preset, steps=steps)
    for size in sizes:

        def measure(size=size):
            side = size // SCALE
            noise = draw_noise(preset, codec, side, side, steps=steps, seed=0)
            rng = np.random.default_rng(0)
            pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
            condition = make_condition(model, preset)
            guidance = Guidance(condition)
            inputs = jax.device_put(([params], codec, pixels, noise, guidance))
            compiled = jax.jit(upscale).lower(*inputs).compile()
            seconds = bench_lib.seconds_per_call(compiled, *inputs, calls=1)
            memory: Any = compiled.memory_analysis()
            latents = jnp.asarray(noise)[None]
            lr = jnp.asarray(pixels, jnp.float32)[None] / 127.5 - 1
            decode_seconds = bench_lib.seconds_per_call(
                jax.jit(lambda codec, *x: codec.decode(*x)),
                *(codec, latents, lr),
                calls=1,
            )
            flops = forward_flops(model, noise.shape[:2], condition.mask.shape[1])
            once = flops["condition"]
            total = once + steps * (sum(flops.values()) - once)
            in_network = max(seconds - decode_seconds, 1e-9)
            return {
                "gflop": round(total / 1e9, 3),
                "ms": round(1e3 * seconds, 3),
                "decode_ms": round(1e3 * decode_seconds, 3),
                "peak_mb": round(memory.temp_size_in_bytes / 1e6, 1),
                "fraction_of_matmul": round(total / in_network / ceilings.matmul, 4),
            }

        yield bench_lib.attempt(measure, size=size, steps=steps)


def _random_codec(preset: Preset, model: LinearDiT) -> Codec:
    if preset.codec != "dc_ae":
        return load_codec(preset.codec, "")
    config = DcAeConfig()
    params = jax.jit(functools.partial(init_dc_ae, config))(jax.random.key(0))
    implementation = model.implementation
    return DcAeCodec(params, config, model.dtype, implementation=implementation)
