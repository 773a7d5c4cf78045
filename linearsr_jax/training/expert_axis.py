"""The axis of experts: what trains one model, mapped over copies of it.

Every array of the state and of the batch has a leading axis of experts, of length 1
for the plain model. Experts share nothing but the codec: draws, clipping, optimiser and
guard are each one's own, since all of that is inside the step of one.

The axis is split over the mesh axis `experts` by shard_map, which leaves the other axes
to XLA; the experts that a device holds run one after another. Not vmap: it would turn
convolutions with one kernel an expert into grouped ones, slow everywhere and impossible
to split, and keep all experts' activations at once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from linearsr_jax.codecs import Codec
from linearsr_jax.core.array_types import PyTree
from linearsr_jax.training.metrics import TrainMetrics
from linearsr_jax.training.step import TrainState

StackedStep = Callable[[PyTree, PyTree, Codec], tuple[PyTree, TrainMetrics]]


def broadcast(tree: PyTree, experts: int) -> PyTree:
    """Equal copies of one expert's arrays."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (experts, *x.shape)), tree)


def split(tree: PyTree) -> tuple[PyTree, ...]:
    """Each expert's own arrays."""
    count = len(jax.tree.leaves(tree)[0])
    return tuple(jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count))


def over_experts(step: Callable[..., tuple[TrainState, TrainMetrics]]) -> StackedStep:
    """Maps the step of one expert over the leading axis of states and batches.

    Jit it under the mesh, whose axis `experts` must divide the number of experts.

    Args:
      step: (state, batch, codec, expert) -> (state, metrics), from `make_train_step`.

    Returns:
      (states, batches, codec) -> (states, metrics of all experts together).
    """

    def of_own(states, batches, codec, numbers):
        def one(states, row):
            index, batch, number = row
            state, metrics = step(
                jax.tree.map(lambda x: x[index], states), batch, codec, number
            )
            # In place: outputs of the scan would be a second copy of the states.
            states = jax.tree.map(lambda x, y: x.at[index].set(y), states, state)
            return states, metrics

        count = len(numbers)
        if count > 1:
            rows = (jnp.arange(count), batches, numbers)
            return jax.lax.scan(one, states, rows)
        # Without the loop, in which XLA's CPU backend is slower.
        first = jax.tree.map(lambda x: x[0], (batches, numbers))
        states, metrics = one(states, (0, *first))
        return states, jax.tree.map(lambda x: x[None], metrics)

    def stacked_step(states, batches, codec):
        mesh = jax.sharding.get_abstract_mesh()
        numbers = jnp.arange(len(states.step))
        mapped = of_own
        if not mesh.empty and mesh.shape["experts"] > 1:
            axis = jax.P("experts")
            mapped = jax.shard_map(
                of_own,
                in_specs=(axis, axis, jax.P(), axis),
                out_specs=axis,
                axis_names={"experts"},
                check_vma=False,
            )
        states, metrics = mapped(states, batches, codec, numbers)
        return states, metrics.reduce()

    return stacked_step
