"""Plans a training run: memory, work, messages, and what would make it fit."""

import dataclasses
import itertools
import math

import jax

from linearsr_jax.core.device_mesh import count_slices
from linearsr_jax.models.flops import forward_flops
from linearsr_jax.plan.collectives import BETWEEN_SLICES, count_collectives
from linearsr_jax.plan.flop_count import flops_of
from linearsr_jax.plan.memory import USABLE, compile_program, device_bytes
from linearsr_jax.plan.plan import (
    Plan,
    find_slowest,
    format_bytes,
    format_flops,
    format_plan,
)
from linearsr_jax.plan.step_program import StepProgram, make_step_program
from linearsr_jax.plan.topologies import Topology
from linearsr_jax.training.parts import RunParts
from linearsr_jax.training.sharding import batch_parts
from linearsr_jax.training.state_bytes import find_places, sum_by_kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepPlan(Plan):
    """The needs of a training step on a topology.

    Of `bytes_per_chip`: parameters, moments, EMA and so on, the codec and the batch;
    activations, what the forward pass keeps for the backward pass; temporaries, all
    else that the compiler asks for. It is bound by flops, memory, collectives, or
    slices: what several of them send each other.

    Attributes:
      flops_per_step: products of the whole step on all chips, recomputed ones too.
      collectives: see `count_collectives`, on each chip.
    """

    flops_per_step: int
    collectives: dict[str, dict[str, int]]


def plan_step(parts: RunParts, topology: Topology) -> StepPlan:
    """Compiles the training step and reports what it needs.

    Args:
      parts: parts of a run on the topology's devices.
      topology: chips to plan for.

    Raises:
      PlanError: the compiler refuses the program for another reason than memory.
      TrainError: the state does not split over the mesh.
    """
    program = make_step_program(parts)
    sizes = sum_by_kind(find_places(program.start_state))
    _, batch, codec = program.arguments
    sizes["codec"] = device_bytes(codec)
    sizes["batch"] = device_bytes(batch)
    arguments = sum(sizes.values())
    sizes["activations"] = _activation_bytes(program)
    compiled = compile_program(program.compile, arguments, topology.chip.memory)
    text, temporary = compiled.text, compiled.temporaries
    if not text:
        # Refused for its memory; what is kept is a part of what it needs.
        temporary = max(temporary, sizes["activations"])
    sizes["temporaries"] = max(0, temporary - sizes["activations"])
    sizes["activations"] = min(sizes["activations"], temporary)
    total, limit = arguments + temporary, int(USABLE * topology.chip.memory)
    fits = total <= limit and bool(text)
    with jax.set_mesh(parts.mesh):
        flops = flops_of(program.step, *program.arguments)
    collectives = count_collectives(text)
    chip = topology.chip
    # The state is read and written once, what is kept for the backward pass written and
    # read, and the rest read.
    read = sizes["codec"] + sizes["batch"]
    touched = 2 * (arguments - read + sizes["activations"]) + read
    sent = {kind: found["bytes"] for kind, found in collectives.items()}
    across = sent.pop(BETWEEN_SLICES, 0)
    bounds = {
        "flops": flops / topology.count / chip.flops,
        "memory": touched / chip.bandwidth,
        "collectives": sum(sent.values()) / chip.link,
        "slices": across / chip.network,
    }
    bound_by, seconds = find_slowest(bounds)
    return StepPlan(
        topology=topology.name,
        chips=topology.count,
        bytes_per_chip={**sizes, "total": total, "limit": limit},
        fits=fits,
        flops_per_step=flops,
        collectives=collectives,
        seconds_bound=seconds,
        bound_by=bound_by,
        mfu_bound=_model_flops(parts) / (seconds * topology.count * chip.flops),
        advice="" if fits else _advise(parts, sizes, total, limit),
    )


def _activation_bytes(program: StepProgram) -> int:
    """Counts what the forward pass of one expert's microbatch keeps, per device."""
    parts, (states, batch, codec) = program.parts, program.arguments
    settings = parts.settings
    size = settings.batch_size // settings.accumulation

    def one(tree, rows=None):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape[1:] if rows is None else (rows, *x.shape[2:]), x.dtype
            ),
            tree,
        )

    def kept(params, codec, batch, key, critic):
        draws = parts.loss.draw(key, batch, codec, 0)

        def loss(params):
            return parts.loss(params, codec, batch, draws, critic)[0]

        # The function that goes back is a tree of the arrays that it needs.
        return jax.vjp(loss, params)[1]

    plain = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), codec)
    params = one(states.params)
    key = jax.eval_shape(lambda: jax.random.key(0))
    critic = one(states.adversary) if states.adversary else None
    found = jax.eval_shape(kept, params, plain, one(batch, size), key, critic)
    given = {(x.shape, x.dtype) for x in jax.tree.leaves((params, plain))}
    total = sum(
        math.prod(x.shape) * x.dtype.itemsize
        for x in jax.tree.leaves(found)
        # Parameters and codec are counted already.
        if (x.shape, x.dtype) not in given
    )
    return total // (parts.mesh.size // parts.mesh.shape["experts"])


def _model_flops(parts: RunParts) -> int:
    """Counts the network's products in a step: forward, and twice that backward."""
    settings = parts.settings
    side = settings.data.pipeline.crop_size // parts.preset.codec_factor
    condition = settings.condition
    tokens = 0 if condition.kind == "none" else condition.max_tokens
    one = sum(forward_flops(parts.model, (side, side), tokens).values())
    return 3 * one * settings.batch_size * settings.experts


def _advise(parts: RunParts, sizes: dict[str, int], total: int, limit: int) -> str:
    """Finds the smallest change that, by estimate, brings the total below the limit.

    One setting rather than two, and then the smaller factors. `mesh.experts` is none of
    them: it also changes which devices hold the batch.
    """
    settings, fsdp = parts.settings, parts.mesh.shape["fsdp"]
    state = ("parameters", "moments", "EMA", "discriminator")
    held = sum(sizes.get(kind, 0) for kind in state)
    kept, temporary = sizes["activations"], sizes["temporaries"]
    rest = total - held - kept - temporary
    devices = batch_parts(parts.mesh)
    per_device = settings.batch_size // settings.accumulation // devices
    # What the experts leave of the slices divides `data`; see `sharding.make_mesh`.
    slices = count_slices(list(parts.mesh.devices.flat))
    across = slices // math.gcd(parts.mesh.shape["experts"], slices)
    found = []
    has_remat = settings.config["remat"] == "blocks"
    factors = [2**n for n in range(12)]
    for more, times, remat in itertools.product(factors, factors, (False, True)):
        if per_device % more or devices % (fsdp * times * across):
            continue
        if parts.preset.width % (fsdp * times) or (remat and has_remat):
            continue
        changing = temporary + (0 if remat else kept)
        changes = [
            *([f"accumulation={settings.accumulation * more}"] if more > 1 else ()),
            *([f"mesh.fsdp={fsdp * times}"] if times > 1 else ()),
            *(["remat=blocks"] if remat else ()),
        ]
        # The compiler may refuse what by estimate would do without a change.
        if changes and rest + held // times + changing // more <= limit:
            # Computing blocks again costs a third of the products.
            cost = more * times * (4 if remat else 1)
            found.append((len(changes), cost, " ".join(changes)))
    if found:
        return min(found)[-1]
    # Slices and nodes have powers of two.
    needed = 2 ** math.ceil(math.log2(parts.mesh.size * total / limit))
    also = "" if has_remat else ", remat=blocks"
    return f"{needed} chips of this kind or more, with a larger mesh.fsdp{also}"


def format_step_plan(plan: StepPlan) -> str:
    """Formats a plan for people."""
    work = [f"{format_flops(plan.flops_per_step)} a step"]
    work += [
        f"  {kind:<18} {found['count']:6}  {format_bytes(found['bytes'])} a chip"
        for kind, found in plan.collectives.items()
    ]
    if not plan.collectives and plan.chips > 1:
        work.append("  what the chips send is not known of a program that is refused")
    return format_plan(plan, "", work, f"a step (by {plan.bound_by})")
