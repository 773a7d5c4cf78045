"""The network's parameters as bits: the same features, little memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from linearsr_jax.text_encoder.gemma2 import (
    Gemma2,
    Gemma2Config,
    as_bits,
    parameter_shapes,
)

# Wide against the tokens, so that kernels are most of what is held.
CONFIG = Gemma2Config(
    vocabulary=8, width=64, hidden=256, layers=8, heads=4, kv_heads=2, head_size=16
)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    flat = {
        name: (rng.standard_normal(shape) / 8).astype(jnp.bfloat16)
        for name, shape in parameter_shapes(CONFIG).items()
    }
    return traverse_util.unflatten_dict(flat, sep=".")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_bits_give_the_same_features_in_little_memory(params, dtype):
    tokens = np.int32([[2, 3, 4, 5]])
    bits = {"params": as_bits(params)}
    compiled = jax.jit(Gemma2(CONFIG, dtype).apply).lower(bits, tokens, tokens > 0)
    compiled = compiled.compile()
    kernels = [x for x in jax.tree.leaves(bits) if x.dtype == np.uint16]
    assert len(kernels) == 7
    # Two layers' kernels in float32, of eight.
    limit = sum(4 * kernel.size for kernel in kernels) / 4
    assert compiled.memory_analysis().temp_size_in_bytes < limit
    run = jax.jit(Gemma2(CONFIG, dtype).apply)
    expected = run({"params": params}, tokens, tokens > 0)
    np.testing.assert_array_equal(
        np.float32(compiled(bits, tokens, tokens > 0)), np.float32(expected)
    )


@pytest.mark.parametrize(
    "changes",
    [{"heads": 3}, {"head_size": 5}, {"pad": 8}, {"layers": 0}, {"width": 2.0}],
)
def test_sizes_that_do_not_fit(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        Gemma2Config(**{**CONFIG.to_dict(), **changes})
