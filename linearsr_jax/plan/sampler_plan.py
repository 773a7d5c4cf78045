"""Plans upscaling: what the sampler of a run's model needs for an image on one chip.

It is the function that `inference` compiles, with one image and all experts on the
chip. Several chips upscale as many images at once, and send each other nothing.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from linearsr_jax.core.scale import SCALE
from linearsr_jax.inference.guidance import Guidance
from linearsr_jax.inference.sampling import cut_segments, make_upscale
from linearsr_jax.models.embeddings import Condition
from linearsr_jax.models.flops import forward_flops
from linearsr_jax.models.layers import cast_kernels
from linearsr_jax.plan.flop_count import flops_of
from linearsr_jax.plan.memory import USABLE, compile_program, device_bytes
from linearsr_jax.plan.plan import Plan, find_slowest, format_flops, format_plan
from linearsr_jax.plan.step_program import codec_shapes, replicated_shapes
from linearsr_jax.plan.topologies import PlanError, Topology
from linearsr_jax.training.parts import RunParts


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerPlan(Plan):
    """The needs of an image on each chip of a topology.

    Of `bytes_per_chip`: parameters of all experts, codec, inputs; temporaries, all else
    that the compiler asks for. It is bound by flops or memory, on one chip.

    Attributes:
      image: (width, height) of the result in pixels.
      steps: number of network evaluations.
      flops_per_image: products of the whole program.
      images_per_second_bound: all chips together cannot make more.
    """

    image: tuple[int, int]
    steps: int
    flops_per_image: int
    images_per_second_bound: float


def plan_sampler(
    parts: RunParts,
    topology: Topology,
    devices: Sequence[jax.Device],
    image: tuple[int, int],
    steps: int,
) -> SamplerPlan:
    """Compiles the sampler for one chip and reports what it needs.

    Args:
      parts: parts of the run whose model upscales.
      topology: chips to plan for.
      devices: the topology's devices.
      image: (width, height) of the result in pixels, multiples of the codec's factor.
      steps: number of network evaluations, at least 1.

    Raises:
      PlanError: the image has another size, or the compiler refuses the program for
        another reason than memory.
    """
    preset, settings, chip = parts.preset, parts.settings, topology.chip
    width, height = image
    if min(image) < 1 or width % preset.codec_factor or height % preset.codec_factor:
        raise PlanError(
            f"an image of {width}x{height} cannot be planned: its sides must be "
            f"multiples of {preset.codec_factor}"
        )
    # As Upscaler has it.
    model = preset.make_model(dtype=parts.model.dtype, scan_unroll=preset.depth)
    mesh = Mesh(np.array(devices[:1]), ("chip",))
    grid = height // preset.codec_factor, width // preset.codec_factor
    params = jax.eval_shape(
        lambda key: cast_kernels(model.init_params(key), model.dtype), jax.random.key(0)
    )
    guidance, tokens = _guidance(parts), 0
    if guidance.conditional is not None:
        tokens = guidance.conditional.mask.shape[1]
    arguments = replicated_shapes(
        (
            (params,) * settings.experts,
            codec_shapes(parts).astype(model.dtype),
            jax.ShapeDtypeStruct((height // SCALE, width // SCALE, 3), jnp.uint8),
            jax.ShapeDtypeStruct((*grid, preset.latent_channels), jnp.float32),
            guidance,
        ),
        mesh,
    )
    boundaries = settings.expert_boundaries
    upscale = make_upscale(model, preset, steps=steps, boundaries=boundaries)
    kinds = zip(("parameters", "codec"), arguments, strict=False)
    sizes = {kind: device_bytes(tree) for kind, tree in kinds}
    sizes["inputs"] = device_bytes(arguments[2:])
    given = sum(sizes.values())
    with jax.set_mesh(mesh):
        flops = flops_of(upscale, *arguments)
        compiled = compile_program(
            lambda: jax.jit(upscale).lower(*arguments).compile(), given, chip.memory
        )
    sizes["temporaries"] = compiled.temporaries
    total, limit = given + sizes["temporaries"], int(USABLE * chip.memory)
    fits = total <= limit and bool(compiled.text)
    # Each step reads the parameters of its expert.
    one = sizes["parameters"] // settings.experts
    bounds = {
        "flops": flops / chip.flops,
        "memory": (steps * one + sizes["codec"]) / chip.bandwidth,
    }
    bound_by, seconds = find_slowest(bounds)
    of_step = dict(forward_flops(model, grid, tokens))
    used = len(cut_segments(preset, steps=steps, boundaries=boundaries))
    own = used * of_step.pop("condition") + steps * sum(of_step.values())
    return SamplerPlan(
        topology=topology.name,
        chips=topology.count,
        image=image,
        steps=steps,
        bytes_per_chip={**sizes, "total": total, "limit": limit},
        fits=fits,
        flops_per_image=flops,
        seconds_bound=seconds,
        bound_by=bound_by,
        images_per_second_bound=topology.count / seconds,
        mfu_bound=own / (seconds * chip.flops),
        advice="" if fits else _advise(settings.experts, one, total, limit),
    )


def _guidance(parts: RunParts) -> Guidance:
    """Makes the shapes of the condition of the run's model, without guidance."""
    condition, preset = parts.settings.condition, parts.preset
    if condition.kind == "none":
        return jax.eval_shape(Guidance)
    tokens, dtype = (1, condition.max_tokens), jnp.int32
    if condition.kind == "features":
        tokens, dtype = (*tokens, preset.condition_features), jnp.float32

    def make():
        mask = jnp.ones(tokens[:2], jnp.bool_)
        return Guidance(Condition(jnp.zeros(tokens, dtype), mask))

    return jax.eval_shape(make)


def _advise(experts: int, one: int, total: int, limit: int) -> str:
    """Names the option of `linearsr upscale` that needs less memory."""
    # It holds two experts at a time.
    if total - (experts - 2) * one <= limit:
        return "--offload-experts"
    return "--max-memory, which upscales in bands of rows"


def format_sampler_plan(plan: SamplerPlan) -> str:
    """Formats a plan for people."""
    width, height = plan.image
    return format_plan(
        plan,
        f", an image of {width}x{height} on each, {plan.steps} steps",
        [f"{format_flops(plan.flops_per_image)} an image"],
        f"an image (by {plan.bound_by}); all chips make at most "
        f"{plan.images_per_second_bound:,.1f} a second",
    )
