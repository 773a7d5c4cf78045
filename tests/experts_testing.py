"""Small models of several experts that differ, for the tests of sampling."""

import functools

import jax
import numpy as np

from linearsr_jax.codecs import PixelCodec
from linearsr_jax.models.presets import get_preset
from linearsr_jax.pretrained.model_folder import PretrainedModel

PRESET = get_preset("debug")
FOUR = (0.223, 0.875, 0.939)
# Distinctive among arrays: the shape of one leaf that every expert has once.
HEAD_SHAPE = (32, 48)


@functools.cache
def _init_params():
    return jax.device_get(jax.jit(PRESET.make_model().init_params)(jax.random.key(0)))


def make_experts(n):
    """Host parameters whose outputs differ from expert to expert."""
    params = _init_params()
    experts = []
    for expert in range(n):
        kernel = np.sin(np.arange(32 * 48) * (expert + 1.0)).reshape(HEAD_SHAPE)
        head = dict(params["head"], kernel=np.float32(0.2 * kernel))
        experts.append({**params, "head": head})
    return tuple(experts)


def make_pretrained(boundaries):
    """A model of no skill."""
    experts = make_experts(len(boundaries) + 1)
    return PretrainedModel("mine", PRESET, PixelCodec(), experts, boundaries, {})
