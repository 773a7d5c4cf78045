"""CAME against a float64 transcription of its formulas, one tensor at a time."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearsr_jax.models.linear_dit import is_stacked
from linearsr_jax.training.came import Factored, scale_by_came

B1, B2, B3 = 0.9, 0.999, 0.9999
EPS1, EPS2, CLIP = 1e-30, 1e-16, 1.0
LAYERS = 3
# All sizes differ, but for the axis of layers. The second level repeats the name of
# the first: only there is it the stack of blocks.
SHAPES = {
    "blocks": {
        "dense": {"kernel": (LAYERS, 5, 7), "bias": (LAYERS, 9)},
        "depthwise": (LAYERS, 3, 3, 8),
        "table": (LAYERS, 6, 4),
    },
    "time_embed": {"blocks": {"kernel": (11, 10), "bias": (12,)}},
    "stem": (3, 3, 2, 13),
    "pointwise": (1, 1, 14, 15),
    "table": (2, 16),
}
FACTORED = {(5, 7), (6, 4), (11, 10), (1, 1, 14, 15), (2, 16)}


def transcription(gradients):
    """Updates of one tensor from its gradients, step by step (FLOW.md, section 2)."""
    shape = gradients[0].shape
    matrix = (shape[-2], shape[-1]) if shape in FACTORED else None
    r = c = v = m = rs = cs = 0.0
    for g in gradients:
        g = g.astype(np.float64).reshape(matrix or shape)
        q = g**2 + EPS1
        if matrix:
            r = B2 * r + (1 - B2) * q.mean(axis=1)
            c = B2 * c + (1 - B2) * q.mean(axis=0)
            u = np.outer((r / r.mean()) ** -0.5, c**-0.5) * g
        else:
            v = B2 * v + (1 - B2) * q
            u = v**-0.5 * g
        u = u / max(1.0, np.sqrt(np.mean(u**2)) / CLIP)
        m = B1 * m + (1 - B1) * u
        update = m
        if matrix:
            s = (u - m) ** 2 + EPS2
            rs = B3 * rs + (1 - B3) * s.mean(axis=1)
            cs = B3 * cs + (1 - B3) * s.mean(axis=0)
            update = np.outer((rs / rs.mean()) ** -0.5, cs**-0.5) * m
        yield update.reshape(shape)


def make_tree(make):
    return jax.tree.map(make, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


@pytest.fixture(scope="module")
def gradients():
    """Six steps; the scales make some updates larger and some smaller than the clip."""
    rng = np.random.default_rng(0)
    trees = [
        make_tree(lambda shape, s=s: (s * rng.standard_normal(shape)).astype("f4"))
        for s in (1.0, 30.0, 1e-3, 0.1, 5.0, 0.3)
    ]
    # Layers of very different size: clipping all of them together would show.
    for tree in trees:
        tree["blocks"] = jax.tree.map(
            lambda g: (
                g * (100.0 ** np.arange(3, dtype="f4")).reshape(-1, *[1] * (g.ndim - 1))
            ),
            tree["blocks"],
        )
    return trees


@pytest.fixture(scope="module")
def came():
    return scale_by_came(B1, B2, B3, is_stacked=is_stacked)


def run(came, gradients):
    state = came.init(gradients[0])
    update = jax.jit(came.update)
    for tree in gradients:
        updates, state = update(tree, state)
        yield updates, state


def tensors(tree):
    """Each layer's tensors, unstacked, by name."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path)
        if name.startswith("['blocks']"):
            for layer in range(LAYERS):
                yield f"{name}, layer {layer}", leaf[layer]
        else:
            yield name, leaf


def test_equals_the_transcription(came, gradients):
    by_name = [dict(tensors(tree)) for tree in gradients]
    expected = {
        name: list(transcription([tree[name] for tree in by_name]))
        for name in by_name[0]
    }
    for step, (updates, _) in enumerate(run(came, gradients)):
        for name, actual in tensors(updates):
            np.testing.assert_allclose(
                actual,
                expected[name][step],
                rtol=2e-5,
                atol=2e-6 * np.abs(expected[name][step]).max(),
                err_msg=f"{name}, step {step}",
            )


def test_clips_to_root_mean_square_one(came, gradients):
    # From a start at zero, u is about sqrt(1 / (1 - b2)) = 32 times too long.
    _, state = next(run(came, gradients))
    for name, mean in tensors(state.mean):
        rms = np.sqrt(np.mean(np.square(mean / (1 - B1))))
        np.testing.assert_allclose(rms, 1.0, rtol=1e-5, err_msg=name)


def test_matrices_keep_vectors(came, gradients):
    state = came.init(gradients[0])
    dense = state.square["blocks"]["dense"]
    assert [x.shape for x in dense["kernel"]] == [(LAYERS, 5), (LAYERS, 7)]
    assert dense["bias"].shape == (LAYERS, 9)
    assert state.residual["blocks"]["dense"]["bias"] == ()
    assert state.square["blocks"]["depthwise"].shape == (LAYERS, 3, 3, 8)
    assert isinstance(state.residual["blocks"]["table"], Factored)


def test_dead_gradients_give_no_update(came, gradients):
    zeros = jax.tree.map(jnp.zeros_like, gradients[0])
    partly = jax.tree.map(
        lambda g: g.at[..., 0].set(0.0), jax.tree.map(jnp.asarray, gradients[1])
    )
    for trees in ([zeros] * 2, [partly] * 3):
        for updates, _ in run(came, trees):
            for name, update in tensors(updates):
                assert np.all(np.isfinite(update)), name
                assert np.all(update[..., 0] == 0.0), name


def test_boxed_parameters_give_a_boxed_state(came):
    def box(shape, names):
        return nn.LogicallyPartitioned(jnp.zeros(shape), names)

    params = {"blocks": {"kernel": box((2, 3, 4), ("layers", "embed", "mlp"))}}
    state = jax.eval_shape(came.init, params)
    kernel = state.square["blocks"]["kernel"]
    assert kernel.row.names == ("layers", "embed")
    assert kernel.column.names == ("layers", "mlp")
    assert (kernel.row.value.shape, kernel.column.value.shape) == ((2, 3), (2, 4))
    assert state.mean["blocks"]["kernel"].names == ("layers", "embed", "mlp")
