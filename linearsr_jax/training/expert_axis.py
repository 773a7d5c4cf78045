"""Maps the training step of one model over the axis of experts.

Every array of the state and of the batch has a leading axis of experts, of length 1
for the plain model. Experts share only the codec. Draws, clipping, optimiser and guard
belong to each expert, since they are all inside the step of one.

shard_map splits the axis over the mesh axis `experts` and leaves the other axes to XLA.
The experts on one device run one after another. vmap would turn convolutions with a
kernel per expert into grouped ones, which are slow everywhere and cannot be split, and
would keep the activations of all experts at once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from linearsr_jax.codecs import Codec
from linearsr_jax.core.array_types import PyTree
from linearsr_jax.training.metrics import StepMetrics
from linearsr_jax.training.step import TrainState

StackedStep = Callable[[PyTree, PyTree, Codec], tuple[PyTree, StepMetrics]]


def broadcast(tree: PyTree, experts: int) -> PyTree:
    """Repeats the arrays of one expert for all experts."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (experts, *x.shape)), tree)


def split(tree: PyTree) -> tuple[PyTree, ...]:
    """Splits stacked arrays into those of each expert; NumPy's become views."""
    if isinstance(jax.tree.leaves(tree)[0], np.ndarray):
        return _split(tree)
    # One program; by itself each array of each shape would compile one of its own.
    return _split_on_device(tree)


def _split(tree):
    count = len(jax.tree.leaves(tree)[0])
    return tuple(jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count))


_split_on_device = jax.jit(_split)


def over_experts(step: Callable[..., tuple[TrainState, StepMetrics]]) -> StackedStep:
    """Maps the step of one expert over the leading axis of states and batches.

    Jit it under the mesh, whose axis `experts` must divide the number of experts.

    Args:
      step: function (state, batch, codec, expert) -> (state, metrics), from
        `make_train_step`.

    Returns:
      A function (states, batches, codec) -> (states, metrics of all experts together).
    """

    def of_own(states, batches, codec, numbers):
        def one(states, row):
            index, batch, number = row
            state, metrics = step(
                jax.tree.map(lambda x: x[index], states), batch, codec, number
            )
            # Update in place; outputs of the scan would be a second copy of the states.
            states = jax.tree.map(lambda x, y: x.at[index].set(y), states, state)
            return states, metrics

        count = len(numbers)
        if count > 1:
            rows = (jnp.arange(count), batches, numbers)
            return jax.lax.scan(one, states, rows)
        # Avoid the loop, in which XLA is slower on CPU.
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
