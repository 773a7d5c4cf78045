"""The block against an independent float64 transcription of SANA's, and its parts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearsr_jax.models import blocks
from linearsr_jax.models.blocks import Block, CrossAttention, MixFFN
from linearsr_jax.models.layers import Dense, RMSNorm, modulated_layer_norm

# All different: batch, grid, width, heads x size, cross heads x size, E, tokens.
BATCH, GRID, WIDTH = 2, (3, 5), 12
HEADS, CROSS_HEADS, EXPANDED, TOKENS = 3, 2, 10, 4
N = GRID[0] * GRID[1]


def random_like(params, seed=0, scale=0.5):
    """The same tree, unboxed, with random values: nothing zero, nothing one."""
    leaves, tree = jax.tree.flatten(nn.meta.unbox(params))
    rng = np.random.default_rng(seed)
    values = [scale * rng.standard_normal(x.shape).astype(np.float32) for x in leaves]
    return jax.tree.unflatten(tree, values)


def np_silu(x):
    return x / (1 + np.exp(-x))


def np_rms_norm(x, weight, eps=1e-5):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * weight


def np_layer_norm(x, eps=1e-6):
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps)


def np_linear_attention(n, p, heads):
    """SANA's pad trick: a column of ones on v brings the denominator along."""
    width = n.shape[-1]
    size = width // heads
    w = p["qkv"]["kernel"]
    q, k, v = n @ w[:, :width], n @ w[:, width : 2 * width], n @ w[:, 2 * width :]
    if "q_norm" in p:
        q = np_rms_norm(q, p["q_norm"]["weight"])
        k = np_rms_norm(k, p["k_norm"]["weight"])
    mixed = np.zeros_like(v)
    for b in range(n.shape[0]):
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            query, key = np.maximum(q[b, :, part], 0), np.maximum(k[b, :, part], 0)
            padded = np.concatenate([v[b, :, part], np.ones((n.shape[1], 1))], axis=1)
            out = query @ (padded.T @ key).T  # [N, size + 1]
            mixed[b, :, part] = out[:, :size] / (out[:, size:] + 1e-15)
    return mixed @ p["out"]["kernel"] + p["out"]["bias"]


def np_cross_attention(x, c, keep, p, heads):
    """Softmax over the condition tokens, padded ones dropped."""
    width = x.shape[-1]
    size = width // heads
    q = x @ p["q"]["kernel"] + p["q"]["bias"]
    w, bias = p["kv"]["kernel"], p["kv"]["bias"]
    k = c @ w[:, :width] + bias[:width]
    v = c @ w[:, width:] + bias[width:]
    if "q_norm" in p:
        q = np_rms_norm(q, p["q_norm"]["weight"])
        k = np_rms_norm(k, p["k_norm"]["weight"])
    mixed = np.zeros_like(x)
    for b in range(x.shape[0]):
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            logits = q[b, :, part] @ k[b, keep[b], part].T / np.sqrt(size)
            weight = np.exp(logits - logits.max(axis=1, keepdims=True))
            weight /= weight.sum(axis=1, keepdims=True)
            mixed[b, :, part] = weight @ v[b, keep[b], part]
    return mixed @ p["out"]["kernel"] + p["out"]["bias"]


def np_mix_ffn(n, p, grid):
    """GLUMBConv: expand, SiLU, depthwise 3x3 on zeros outside, gate, project."""
    y = np_silu(n @ p["expand"]["kernel"] + p["expand"]["bias"])
    y = y.reshape(n.shape[0], *grid, -1)
    padded = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.zeros_like(y) + p["bias"]
    for i in range(grid[0]):
        for j in range(grid[1]):
            window = padded[:, i : i + 3, j : j + 3]
            out[:, i, j] += np.einsum("bhwc,hwc->bc", window, p["kernel"])
    half = out.shape[-1] // 2
    value, gate = out[..., :half], out[..., half:]
    return (value * np_silu(gate)).reshape(*n.shape[:2], half) @ p["project"]["kernel"]


def np_block(x, t6, c, keep, p, *, heads, cross_heads, grid):
    """SANA's block; rows of the modulation: shift, scale, gate, then the same."""
    m = p["scale_shift_table"] + t6  # [B, 6, D]
    shift1, scale1, gate1, shift2, scale2, gate2 = (m[:, i : i + 1] for i in range(6))
    n = np_layer_norm(x) * (1 + scale1) + shift1
    x = x + gate1 * np_linear_attention(n, p["attention"], heads)
    if c is not None:
        x = x + np_cross_attention(x, c, keep, p["cross_attention"], cross_heads)
    n = np_layer_norm(x) * (1 + scale2) + shift2
    return x + gate2 * np_mix_ffn(n, p["ffn"], grid)


def float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def close(actual, expected, tolerance=1e-5):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), expected, rtol=0, atol=tolerance * scale
    )


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((BATCH, N, WIDTH))
    t6 = rng.standard_normal((BATCH, 6, WIDTH))
    condition = rng.standard_normal((BATCH, TOKENS, WIDTH))
    mask = np.array([[True, False, True, True], [True, True, False, False]])
    return *(a.astype(np.float32) for a in (x, t6, condition)), mask


def make_block(qk_norm, *, floor=0.0):
    return Block(
        width=WIDTH,
        heads=HEADS,
        cross_heads=CROSS_HEADS,
        expanded=EXPANDED,
        qk_norm=qk_norm,
        cross_zero_init=False,
        attention_floor=floor,
        dtype=jnp.float32,
        implementation=None,
    )


def init_random(module, *args, method=None):
    abstract = jax.eval_shape(
        lambda key: module.init(key, *args, method=method), jax.random.key(0)
    )
    return random_like(abstract["params"])


def attend(module, x, condition, mask):
    return module(x, module.keys_and_values(condition), mask)


def run_block(block, x, t6, condition, mask):
    memory = None if condition is None else block.keys_and_values(condition)
    return block(x, t6, memory, mask, GRID)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("with_condition", [True, False])
def test_equals_sanas_block(inputs, qk_norm, with_condition):
    x, t6, condition, mask = inputs
    block = make_block(qk_norm)
    params = init_random(block, x, t6, condition, mask, method=run_block)
    names = {"qkv", "out"} | ({"q_norm", "k_norm"} if qk_norm else set())
    assert set(params["attention"]) == names
    if not with_condition:
        condition = mask = None
    actual = jax.jit(
        lambda p: block.apply({"params": p}, x, t6, condition, mask, method=run_block)
    )(params)
    expected = np_block(
        *(None if a is None else np.asarray(a, np.float64) for a in (x, t6, condition)),
        mask,
        float64(params),
        heads=HEADS,
        cross_heads=CROSS_HEADS,
        grid=GRID,
    )
    close(actual, expected)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize(("rows", "tokens"), [(2, 8), (3, 7), (5, 35)])
def test_large_images_in_bands_equal_the_whole(qk_norm, rows, tokens, monkeypatch):
    """Bands that divide the image and bands that do not; a band that is all tokens."""
    height, width = 7, 5
    rng = np.random.default_rng(3)
    x = rng.standard_normal((BATCH, height * width, WIDTH)).astype(np.float32)
    t6 = rng.standard_normal((BATCH, 6, WIDTH)).astype(np.float32)
    block = make_block(qk_norm, floor=1e-3)
    params = init_random(block, x, t6, None, None, (height, width))

    def count_loops():
        run = jax.jit(
            lambda p: block.apply({"params": p}, x, t6, None, None, (height, width))
        )
        return run(params), run.lower(params).as_text().count("stablehlo.while")

    whole, loops = count_loops()
    assert loops == 0
    monkeypatch.setattr(blocks, "BAND_ROWS", rows)
    monkeypatch.setattr(blocks, "LEAST_ROWS_IN_BANDS", height)
    monkeypatch.setattr(blocks, "BAND_TOKENS", tokens)
    monkeypatch.setattr(blocks, "LEAST_TOKENS_IN_BANDS", height * width)
    actual, loops = count_loops()
    assert loops == 3  # The state, the attention's output, Mix-FFN.
    close(actual, np.asarray(whole, np.float64), 2e-6)


def test_floor_reaches_the_attention(inputs):
    x, t6, *_ = inputs
    plain, floored = make_block(False), make_block(False, floor=0.5)
    abstract = jax.eval_shape(
        lambda: plain.init(jax.random.key(0), x, t6, None, None, GRID)
    )
    params = {"params": random_like(abstract["params"])}
    outputs = [b.apply(params, x, t6, None, None, GRID) for b in (plain, floored)]
    assert np.abs(outputs[0] - outputs[1]).max() > 0.01


def test_zero_modulation_is_the_identity(inputs):
    """Both gates are part of the modulation; cross-attention has none."""
    x, t6, *_ = inputs
    block = make_block(False)
    abstract = jax.eval_shape(
        lambda: block.init(jax.random.key(0), x, t6, None, None, GRID)
    )
    params = random_like(abstract["params"])
    params["scale_shift_table"] *= 0
    out = block.apply({"params": params}, x, 0 * t6, None, None, GRID)
    np.testing.assert_array_equal(out, x)


@pytest.fixture(scope="module")
def run(inputs):
    """A cross-attention with random parameters: (condition, mask) -> output."""
    x, _, condition, mask = inputs
    module = CrossAttention(WIDTH, CROSS_HEADS, False, False, jnp.float32)
    params = init_random(module, x, condition, mask, method=attend)
    return jax.jit(
        lambda c, m: module.apply({"params": params}, x, c, m, method=attend)
    )


class TestCrossAttention:
    def test_masked_tokens_have_no_influence(self, inputs, run):
        *_, condition, mask = inputs
        out = run(condition, mask)
        changed = np.where(mask[..., None], condition, 1e3 * condition + 7)
        np.testing.assert_array_equal(run(changed, mask), out)
        # While a token that is there has.
        changed = condition.copy()
        changed[:, 0] += 1
        assert np.abs(run(changed, mask) - out).max() > 0.01

    def test_order_of_tokens_does_not_matter(self, inputs, run):
        *_, condition, mask = inputs
        order = [2, 0, 3, 1]
        close(
            run(condition[:, order], mask[:, order]), np.asarray(run(condition, mask))
        )

    def test_a_sample_without_tokens_gets_exactly_zero(self, inputs, run):
        *_, condition, mask = inputs
        mask = mask.copy()
        mask[0] = False
        out = run(condition, mask)
        np.testing.assert_array_equal(out[0], 0.0)
        assert np.all(np.any(np.asarray(out[1]) != 0, axis=-1))

    def test_a_sample_without_tokens_has_finite_gradients(self, inputs, run):
        *_, condition, mask = inputs
        mask = np.zeros_like(mask)
        gradient = jax.grad(lambda c: jnp.sum(run(c, mask) ** 2))(condition)
        np.testing.assert_array_equal(gradient, 0.0)

    @pytest.mark.parametrize("zero_init", [True, False])
    def test_zero_init_is_of_the_output(self, inputs, zero_init):
        x, _, condition, mask = inputs
        module = CrossAttention(WIDTH, CROSS_HEADS, False, zero_init, jnp.float32)
        arguments = x, condition, mask
        variables = module.init(jax.random.key(0), *arguments, method=attend)
        out = module.apply(variables, *arguments, method=attend)
        assert np.any(np.asarray(out) != 0) != zero_init


def test_mix_ffn_reaches_one_pixel(inputs):
    """Its convolution sees the neighbours on the grid, rows first, and no others."""
    x, *_ = inputs
    module = MixFFN(WIDTH, EXPANDED, jnp.float32, None)
    abstract = jax.eval_shape(lambda: module.init(jax.random.key(0), x, GRID))
    params = random_like(abstract["params"])
    run = jax.jit(lambda x: module.apply({"params": params}, x, GRID))
    changed = x.copy()
    changed[:, 1 * GRID[1] + 4] += 1  # row 1, last column
    touched = np.any(np.asarray(run(changed) != run(x)), axis=(0, 2)).reshape(GRID)
    expected = np.zeros(GRID, bool)
    expected[0:3, 3:5] = True
    np.testing.assert_array_equal(touched, expected)


class TestLayers:
    def test_rms_norm(self):
        x = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)
        weight = np.arange(1.0, 6.0, dtype=np.float32)
        out = RMSNorm().apply({"params": {"weight": weight}}, x)
        close(out, np_rms_norm(x.astype(np.float64), weight), 1e-6)
        # eps 1e-5 is inside the root: values of 1e-3 are held down by it.
        out = RMSNorm().apply({"params": {"weight": weight}}, 1e-3 * x)
        close(out, np_rms_norm(1e-3 * x.astype(np.float64), weight), 1e-6)

    def test_modulated_layer_norm(self):
        rng = np.random.default_rng(0)
        x = 3.0 + rng.standard_normal((2, 4, 5)).astype(np.float32)
        shift, scale = rng.standard_normal((2, 2, 5)).astype(np.float32)
        out = modulated_layer_norm(x, shift, scale)
        expected = np_layer_norm(x.astype(np.float64))
        close(out, expected * (1 + scale[:, None]) + shift[:, None])

    def test_norms_of_bfloat16_are_computed_in_float32(self):
        """A mean of 100 would drown the rest in bfloat16's 8 bits."""
        rng = np.random.default_rng(0)
        x = jnp.asarray(100 + 8 * rng.standard_normal((2, 4, 64)), jnp.bfloat16)
        zero = jnp.zeros((2, 64), jnp.bfloat16)
        out = modulated_layer_norm(x, zero, zero)
        assert out.dtype == jnp.bfloat16
        close(out, np_layer_norm(np.asarray(x, np.float64)), 2**-8)

    def test_dense_is_a_product_over_the_last_axis(self):
        x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
        module = Dense(7, (None, None), jnp.float32)
        params = init_random(module, x)
        close(
            module.apply({"params": params}, x),
            float64(x) @ float64(params["kernel"]) + params["bias"],
            1e-6,
        )
