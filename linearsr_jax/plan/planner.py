"""Plans a training run: memory, work, messages, and what would make it fit.

The step is compiled for the real chips, so its memory is what the compiler asks for.
The time is a bound (S. Williams et al., Roofline, 2009): no chip can be faster than its
peak at the slowest of products, memory and messages. It says nothing of how close a
run comes.
"""

import dataclasses
import math
from typing import Any

import jax

from linearsr_jax.models.flops import forward_flops
from linearsr_jax.plan.collectives import count_collectives
from linearsr_jax.plan.flop_count import flops_of
from linearsr_jax.plan.memory import USABLE, compile_program, device_bytes
from linearsr_jax.plan.step_program import StepProgram, make_step_program
from linearsr_jax.plan.topologies import Topology
from linearsr_jax.training.parts import RunParts
from linearsr_jax.training.state_bytes import find_places, sum_by_kind


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training step needs on a topology.

    Attributes:
      topology: name of the topology.
      chips: number of chips.
      bytes_per_chip: by kind: parameters, moments, EMA and so on, the codec and the
        batch; activations, what the forward pass keeps for the backward pass;
        temporaries, all else that the compiler asks for; total; limit.
      fits: whether total is at most limit.
      flops_per_step: products of the whole step on all chips, recomputed ones too.
      collectives: see `count_collectives`, on each chip.
      seconds_bound: no step can be shorter.
      bound_by: flops, memory or collectives.
      mfu_bound: the network's own products, without recomputation, over what the chips
        could do in that time.
      advice: the smallest change that would make it fit; "" where it fits.
    """

    topology: str
    chips: int
    bytes_per_chip: dict[str, int]
    fits: bool
    flops_per_step: int
    collectives: dict[str, dict[str, int]]
    seconds_bound: float
    bound_by: str
    mfu_bound: float
    advice: str

    def to_json(self) -> dict[str, Any]:
        """Converts to values that JSON can store."""
        return dataclasses.asdict(self)


def make_plan(parts: RunParts, topology: Topology) -> Plan:
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
    compiled = compile_program(program.compile, arguments)
    text, temporary = compiled.text, compiled.temporaries
    if not text:
        # Refused for its memory, so at least what is kept does not fit.
        at_least = max(sizes["activations"], topology.chip.memory - arguments)
        temporary = max(temporary, at_least)
    sizes["temporaries"] = max(0, temporary - sizes["activations"])
    sizes["activations"] = min(sizes["activations"], temporary)
    total, limit = arguments + temporary, int(USABLE * topology.chip.memory)
    fits = total <= limit and bool(text)
    with jax.set_mesh(parts.mesh):
        flops = flops_of(program.step, *program.arguments)
    collectives = count_collectives(text)
    chip = topology.chip
    sent = sum(found["bytes"] for found in collectives.values())
    bounds = {
        "flops": flops / topology.count / chip.flops,
        # The state is read and written once, and what is kept for the backward pass
        # written and read.
        "memory": 2 * (arguments + sizes["activations"]) / chip.bandwidth,
        "collectives": sent / chip.link,
    }
    bound_by = max(bounds, key=lambda name: bounds[name])
    seconds = bounds[bound_by]
    return Plan(
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
    """Finds the smallest change that brings the total below the limit."""
    excess, settings = total - limit, parts.settings
    state = ("parameters", "moments", "EMA", "discriminator")
    changing = sizes["activations"] + sizes["temporaries"]
    devices = parts.mesh.size // parts.mesh.shape["experts"]
    per_device = settings.batch_size // settings.accumulation // devices
    for times in (2**n for n in range(1, 12)):
        if per_device % times:
            break
        if changing - changing // times >= excess:
            return f"accumulation={settings.accumulation * times}"
    held = sum(sizes.get(kind, 0) for kind in state)
    fsdp = parts.mesh.shape["fsdp"]
    for times in (2**n for n in range(1, 12)):
        if devices % (fsdp * times):
            break
        if held - held // times >= excess:
            return f"mesh.fsdp={fsdp * times}"
    if settings.config["remat"] != "blocks" and sizes["activations"] >= excess:
        return "remat=blocks"
    needed = math.ceil(parts.mesh.size * total / limit)
    return f"at least {needed} chips of this kind, mesh.fsdp={needed}, remat=blocks"


def format_plan(plan: Plan) -> str:
    """Formats a plan for people."""
    rows = [f"{plan.topology}, {plan.chips} chips"]
    rows += [
        f"  {kind:<14} {size / 2**30:9.3f} GiB a chip"
        for kind, size in plan.bytes_per_chip.items()
    ]
    rows.append(f"fits: {'yes' if plan.fits else f'no; {plan.advice}'}")
    rows.append(f"{plan.flops_per_step / 1e12:,.1f} TFLOP a step")
    rows += [
        f"  {kind:<18} {found['count']:6}  {found['bytes'] / 2**30:9.3f} GiB a chip"
        for kind, found in plan.collectives.items()
    ]
    rows.append(
        f"at least {plan.seconds_bound:.4f} s a step (by {plan.bound_by}); MFU at most "
        f"{100 * plan.mfu_bound:.0f} %"
    )
    return "\n".join(rows)
