"""Shapes of parameters in closed form against those that the network makes."""

import dataclasses

import jax
import pytest
from flax import traverse_util

from linearsr_jax.models.parameter_shapes import parameter_shapes
from linearsr_jax.models.presets import PRESETS, get_preset

CHANGES = {
    "tags": {"tag_count": 7},
    "stem": {"stem_widths": (5, 7, 9), "stem_blocks": 11},
    "norms": {"qk_norm": True, "depth": 3},
    "place": {"position_extent": 16.0, "mlp_ratio": 2.3},
}


@pytest.mark.parametrize("name", [*PRESETS, *CHANGES])
def test_shapes_and_order(name):
    if name in CHANGES:
        preset = dataclasses.replace(get_preset("debug"), **CHANGES[name])
    else:
        preset = get_preset(name)
    params = jax.eval_shape(preset.make_model().init_params, jax.random.key(0))
    made = traverse_util.flatten_dict(params, sep=".")
    expected = {name: value.shape for name, value in made.items()}
    assert list(parameter_shapes(preset).items()) == list(expected.items())
