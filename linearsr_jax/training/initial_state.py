"""Makes the initial state: random, from a model, or from the run's checkpoint."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from linearsr_jax.codecs import Codec, load_codec, make_codec
from linearsr_jax.core.array_types import PyTree
from linearsr_jax.core.rng import stream_key
from linearsr_jax.models.presets import Preset
from linearsr_jax.pretrained.model_folder import PretrainedModel, load_pretrained
from linearsr_jax.training import expert_axis, sharding
from linearsr_jax.training.checkpoints import Checkpointer
from linearsr_jax.training.parts import RunParts
from linearsr_jax.training.record import TrainError
from linearsr_jax.training.settings import RunSettings
from linearsr_jax.training.step import TrainState, make_init, make_state, unboxed


def load_origin(settings: RunSettings, preset: Preset) -> PretrainedModel | None:
    """Loads the model to start from; None for random weights.

    A run with tags may start from a model without; the tags get a random embedding. And
    one whose stem has more residual blocks than the model's; they change nothing until
    they are trained.

    Raises:
      TrainError: the model has other sizes, or experts with other intervals.
      PretrainedError: see `pretrained.load_pretrained`.
    """
    if not settings.init_from:
        return None
    model = load_pretrained(settings.init_from)
    if not _may_start(model.preset, preset):
        raise TrainError(
            f"init_from {settings.init_from}: a model with other sizes than the "
            "preset; set preset to the one it was trained with"
        )
    if len(model.experts) > 1 and model.boundaries != settings.expert_boundaries:
        raise TrainError(
            f"init_from {settings.init_from}: has experts split at {model.boundaries}, "
            f"not expert_boundaries {settings.expert_boundaries}"
        )
    return model


def _may_start(origin: Preset, preset: Preset) -> bool:
    if origin.stem_blocks > preset.stem_blocks:
        return False
    smaller = dataclasses.replace(preset, stem_blocks=origin.stem_blocks)
    return origin in (smaller, dataclasses.replace(smaller, tag_count=0))


def load_run_codec(
    settings: RunSettings,
    preset: Preset,
    origin: PretrainedModel | None,
    description: dict[str, Any] | None,
) -> Codec:
    """Loads the codec of a run.

    Args:
      settings, preset: settings and preset of the run.
      origin: model that the run starts from; None for random weights or a resumed run.
      description: description of the codec of a resumed run; None for a new one.
    """
    if origin and not settings.codec_folder:
        return origin.codec
    if description:
        folder = settings.codec_folder or settings.init_from
        return make_codec(description, Path(folder) if folder else None)
    return load_codec(preset.codec, settings.codec_folder)


class StartState:
    """Makes and restores the state of all experts, on a mesh.

    Attributes:
      shapes: shape and type of each array of the state.
      shardings: sharding of each.
    """

    def __init__(self, parts: RunParts):
        """Works out shapes and shardings, and nothing else.

        Raises:
          TrainError: an array does not split over the mesh.
        """
        init = make_init(parts.model, parts.optimizer, parts.loss.adversary)
        self._key = stream_key(parts.settings.seed, "init")
        one = sharding.state_sharding(jax.eval_shape(init, self._key), parts.mesh)
        self.shardings = sharding.stacked(one)
        self._parts, experts = parts, parts.settings.experts
        self._init = jax.jit(
            lambda key: expert_axis.broadcast(unboxed(init)(key), experts),
            out_shardings=self.shardings,
        )
        self.shapes: PyTree = jax.eval_shape(
            lambda key: expert_axis.broadcast(unboxed(init)(key), experts), self._key
        )
        _check_splits(self.shapes, self.shardings)

    def random(self) -> TrainState:
        """Draws random weights, the same for every expert."""
        return self._init(self._key)

    def from_model(self, origin: PretrainedModel) -> TrainState:
        """Makes the state from a model: from its experts, or copies of its only one."""
        repeats = self._parts.settings.experts // len(origin.experts)
        params = jax.tree.map(lambda *own: np.stack(own * repeats), *origin.experts)
        if origin.preset != self._parts.preset:
            # What it lacks; see `load_origin`.
            flat = traverse_util.flatten_dict(sharding.fetched(self.random().params))
            flat |= traverse_util.flatten_dict(params)
            params = traverse_util.unflatten_dict(flat)
        # On several hosts jit takes no NumPy arrays that it would have to split.
        params = jax.tree.map(
            lambda x, s: jax.make_array_from_callback(x.shape, s, lambda i: x[i]),
            params,
            self.shardings.params,
        )
        restart = jax.jit(
            jax.vmap(
                functools.partial(
                    make_state,
                    optimizer=self._parts.optimizer,
                    adversary=self._parts.loss.adversary,
                )
            ),
            in_shardings=(self.shardings.params,),
            out_shardings=self.shardings,
        )
        return restart(params)

    def restored(self, checkpointer: Checkpointer, step: int) -> TrainState:
        """Reads the state of a checkpoint."""
        return checkpointer.restore_state(step, self.shapes, self.shardings)


def _check_splits(shapes: PyTree, shardings: PyTree) -> None:
    """Checks that every array splits into equal parts, before anything compiles."""
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    for (path, array), of_array in zip(leaves, jax.tree.leaves(shardings), strict=True):
        for size, axes in zip(array.shape, of_array.spec, strict=False):
            names = (axes,) if isinstance(axes, str) else axes or ()
            parts = math.prod(of_array.mesh.shape[name] for name in names)
            if size % parts:
                # What divides both: other numbers leave devices over.
                fitting = math.gcd(parts, size)
                raise TrainError(
                    f"mesh.{'.'.join(names)} {parts} does not divide an axis of "
                    f"{size} of {jax.tree_util.keystr(path)}; {fitting} does"
                )
