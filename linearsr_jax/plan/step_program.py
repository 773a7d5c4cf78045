"""Builds a run's training step for devices that are not here, and compiles it.

It is the step of `training.trainer`, with shapes in place of arrays.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from linearsr_jax.codecs import Codec, DcAeCodec, PixelCodec
from linearsr_jax.codecs.dc_ae_network import DcAeConfig, init_params
from linearsr_jax.core.array_types import PyTree
from linearsr_jax.core.scale import SCALE
from linearsr_jax.training.initial_state import StartState
from linearsr_jax.training.jitted_step import jit_step
from linearsr_jax.training.parts import RunParts
from linearsr_jax.training.sharding import expert_batch_sharding, replicated


@dataclasses.dataclass(frozen=True)
class StepProgram:
    """A training step and the shapes of its arguments.

    Attributes:
      parts: parts of the run, on the mesh to compile for.
      start_state: knows the state's shapes and places.
      step: the step of all experts, compiled under the mesh.
      arguments: shapes of (states, batch, codec), placed.
    """

    parts: RunParts
    start_state: StartState
    step: Any
    arguments: tuple[PyTree, PyTree, PyTree]

    def compile(self) -> jax.stages.Compiled:
        """Compiles the step for the devices of the mesh."""
        with jax.set_mesh(self.parts.mesh):
            return self.step.lower(*self.arguments).compile()


def make_step_program(parts: RunParts) -> StepProgram:
    """Builds the step; nothing is compiled.

    Raises:
      TrainError: the state does not split over the mesh.
    """
    start_state = StartState(parts)
    states = _placed(start_state.shapes, start_state.shardings)
    arguments = (
        states,
        _batch(parts),
        replicated_shapes(codec_shapes(parts), parts.mesh),
    )
    step = jit_step(parts, start_state.shardings)
    return StepProgram(parts, start_state, step, arguments)


def _placed(shapes: PyTree, shardings: PyTree) -> PyTree:
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        shardings,
    )


def _batch(parts: RunParts) -> PyTree:
    settings, condition = parts.settings, parts.settings.condition
    side = settings.data.pipeline.crop_size
    shapes = {
        "image_hr": ((side, side, 3), jnp.uint8),
        "image_lr": ((side // SCALE, side // SCALE, 3), jnp.uint8),
    }
    if condition.kind != "none":
        tokens = condition.max_tokens
        features = (parts.preset.condition_features,)
        shapes["condition_mask"] = ((tokens,), jnp.bool_)
        shapes["condition_tokens"] = (
            ((tokens,), jnp.int32)
            if condition.kind == "tags"
            else ((tokens, *features), jnp.float32)
        )
    sizes = settings.experts, settings.batch_size
    sharding = expert_batch_sharding(parts.mesh)
    return {
        name: jax.ShapeDtypeStruct((*sizes, *shape), dtype, sharding=sharding)
        for name, (shape, dtype) in shapes.items()
    }


def codec_shapes(parts: RunParts) -> Codec:
    """Makes the codec of a run with shapes in place of weights, which nothing reads."""
    if parts.preset.codec == "pixel":
        return PixelCodec()
    # The only codec with weights.
    config = DcAeConfig()
    params = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    return DcAeCodec(params, config)


def replicated_shapes(shapes: PyTree, mesh: Mesh) -> PyTree:
    """Places shapes whole on every device of a mesh."""
    return _placed(shapes, jax.tree.map(lambda _: replicated(mesh), shapes))
