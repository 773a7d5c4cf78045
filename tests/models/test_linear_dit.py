"""The whole network: against a float64 transcription, and its promises."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from linearsr_jax.codecs import PixelCodec
from linearsr_jax.diffusion.flow import PREDICTIONS
from linearsr_jax.models.embeddings import Condition, LRStem, timestep_features
from linearsr_jax.models.linear_dit import REMAT_POLICIES, LinearDiT
from linearsr_jax.models.presets import get_preset
from tests.models.test_blocks import (
    close,
    float64,
    np_block,
    np_layer_norm,
    np_rms_norm,
    np_silu,
    random_like,
)

BATCH, GRID, CHANNELS = 2, (3, 5), 7
WIDTH, HEADS, CROSS_HEADS, TOKENS, FEATURES = 12, 3, 2, 4, 9
SIZES = {
    "latent_channels": CHANNELS,
    "width": WIDTH,
    "depth": 3,
    "heads": HEADS,
    "cross_heads": CROSS_HEADS,
    "expanded": 10,
    "condition_features": FEATURES,
    "tag_count": 0,
    "stem_widths": (4, 6, 5),
    "stem_strides": (1, 1, 2),
}


def make_inputs(grid=GRID, factor=2):
    rng = np.random.default_rng(2)
    latents = rng.standard_normal((BATCH, *grid, CHANNELS))
    image_lr = rng.uniform(-1, 1, (BATCH, factor * grid[0], factor * grid[1], 3))
    condition = rng.standard_normal((BATCH, TOKENS, FEATURES))
    sigma = np.array([0.25, 0.75])
    arrays = (latents, sigma, image_lr, condition)
    mask = np.array([[True, False, True, True], [True, True, False, False]])
    return *(a.astype(np.float32) for a in arrays), mask


def random_params(model, inputs, scale=0.3):
    abstract = jax.eval_shape(model.init, jax.random.key(0), *inputs[:3])
    return random_like(abstract["params"], scale=scale)


def apply_model(model, params, latents, sigma, image_lr, tokens=None, mask=None):
    condition = None if tokens is None else Condition(tokens, mask)
    return model.apply({"params": params}, latents, sigma, image_lr, condition)


@pytest.fixture(scope="module")
def tiny():
    """(apply(params, *inputs), params, inputs); all sizes differ, nothing is zero."""
    model, inputs = LinearDiT(**SIZES), make_inputs()
    params = random_params(model, inputs)
    return jax.jit(lambda p, *x: apply_model(model, p, *x)), params, inputs


def np_conv(x, kernel, bias, stride):
    """3x3, one pixel of zeros around, every stride-th position from the first."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    out = np.zeros((x.shape[0], height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            window = padded[:, i * stride : i * stride + 3, j * stride : j * stride + 3]
            out[:, i, j] = np.einsum("bhwc,hwcd->bd", window, kernel) + bias
    return out


def np_dense(x, p):
    return x @ p["kernel"] + p["bias"]


def np_time_features(sigma):
    k = np.arange(128)
    angle = 1000.0 * sigma[:, None] * np.exp(-np.log(10000.0) * k / 128)
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def np_gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def np_network(p, latents, sigma, image_lr, condition, mask):
    stem, strides = image_lr, SIZES["stem_strides"]
    for i, stride in enumerate(strides):
        stem = np_conv(stem, p["stem"][f"kernel_{i}"], p["stem"][f"bias_{i}"], stride)
        stem = np_silu(stem) if i < 2 else stem
    x = np.concatenate([latents, stem], axis=-1)
    x = np_dense(x.reshape(len(x), -1, x.shape[-1]), p["patch_embed"])
    time = p["time_embed"]
    e = np_dense(np_time_features(sigma), time["Dense_0"])
    e = np_dense(np_silu(e), time["Dense_1"])
    t6 = np_dense(np_silu(e), time["blocks"]).reshape(-1, 6, WIDTH)
    caption = p["condition"]
    c = np_gelu_tanh(np_dense(condition, caption["Dense_0"]))
    c = np_rms_norm(np_dense(c, caption["Dense_1"]), caption["norm"]["weight"])
    for layer in range(SIZES["depth"]):
        x = np_block(
            x,
            t6,
            c,
            mask,
            jax.tree.map(lambda a, layer=layer: a[layer], p["blocks"]),
            heads=HEADS,
            cross_heads=CROSS_HEADS,
            grid=GRID,
        )
    shift, scale = (p["scale_shift_table"][i] + e for i in range(2))
    x = np_layer_norm(x) * (1 + scale[:, None]) + shift[:, None]
    return np_dense(x, p["head"]).reshape(latents.shape)


def test_equals_sanas_network(tiny):
    apply, params, inputs = tiny
    *arrays, mask = inputs
    expected = np_network(float64(params), *float64(arrays), mask)
    close(apply(params, *inputs), expected, tolerance=3e-5)


class TestTimeFeatures:
    def test_cosines_come_first(self):
        features = timestep_features(jnp.zeros(3))
        assert features.shape == (3, 256)
        np.testing.assert_array_equal(features[:, :128], 1.0)
        np.testing.assert_array_equal(features[:, 128:], 0.0)

    def test_equal_the_formula(self):
        sigma = np.array([0.0, 0.0625, 0.5, 1.0])
        actual = timestep_features(sigma.astype(np.float32))
        # Angles go to 1000, and float32 frequencies have a relative error of 1e-7.
        np.testing.assert_allclose(actual, np_time_features(sigma), atol=3e-4)

    def test_stay_float32(self):
        assert timestep_features(jnp.ones(2, jnp.bfloat16)).dtype == jnp.float32


class TestStem:
    @pytest.mark.parametrize(
        ("strides", "size", "expected"),
        [
            ((1, 1, 1), (5, 7), (5, 7)),
            ((1, 2, 2), (8, 12), (2, 3)),
            ((2, 2, 2), (16, 24), (2, 3)),
            ((2, 2, 2), (9, 16), (2, 2)),
        ],
    )
    def test_lands_on_the_grid(self, strides, size, expected):
        stem = LRStem((4, 6, 5), strides, jnp.float32)
        shape = jax.eval_shape(
            lambda: stem.init_with_output(jax.random.key(0), jnp.zeros((2, *size, 3)))
        )[0].shape
        assert shape == (2, *expected, 5)

    def test_a_wrong_lr_size_is_refused(self, tiny):
        apply, params, (latents, sigma, image_lr, *_) = tiny
        with pytest.raises(ValueError, match=r"\(3, 5\) grid.*\(2, 5\)"):
            apply(params, latents, sigma, image_lr[:, :4])


class TestCondition:
    def test_none_equals_an_all_false_mask(self, tiny):
        apply, params, (latents, sigma, image_lr, condition, mask) = tiny
        without = apply(params, latents, sigma, image_lr)
        masked = apply(params, latents, sigma, image_lr, condition, mask & False)
        np.testing.assert_array_equal(masked, without)
        with_tags = apply(params, latents, sigma, image_lr, condition, mask)
        assert np.abs(with_tags - without).max() > 0.01

    def test_masked_tokens_have_no_influence(self, tiny):
        apply, params, (*rest, condition, mask) = tiny
        changed = np.where(mask[..., None], condition, 100.0)
        np.testing.assert_array_equal(
            apply(params, *rest, changed, mask), apply(params, *rest, condition, mask)
        )

    def test_order_of_tokens_does_not_matter(self, tiny):
        apply, params, (*rest, condition, mask) = tiny
        order = [2, 0, 3, 1]
        close(
            apply(params, *rest, condition[:, order], mask[:, order]),
            np.asarray(apply(params, *rest, condition, mask)),
        )

    def test_tags_are_rows_of_a_table(self):
        """As the features that the rows are; without, there is no table."""
        model, inputs = LinearDiT(**SIZES | {"tag_count": 5}), make_inputs()
        *images, _, mask = inputs
        params = random_params(model, inputs)
        tags = np.array([[4, 0, 2, 2], [1, 3, 0, 4]], np.int32)
        features = params["tags"]["table"][tags]
        outputs = [
            apply_model(model, params, *images, x, mask) for x in (tags, features)
        ]
        np.testing.assert_array_equal(*outputs)
        without = LinearDiT(**SIZES)
        del params["tags"]
        again = apply_model(without, params, *images, features, mask)
        np.testing.assert_array_equal(again, outputs[0])
        with pytest.raises(ValueError, match="takes condition features, and no tags"):
            apply_model(without, params, *images, tags, mask)


def test_samples_are_separate(tiny):
    apply, params, inputs = tiny
    out = apply(params, *inputs)
    for i in range(4):
        changed = [x.copy() for x in inputs]
        changed[i][0] = changed[i][0] * 0.5 + 0.1
        again = apply(params, *changed)
        np.testing.assert_array_equal(again[1], out[1])
        assert np.abs(again[0] - out[0]).max() > 1e-3


@pytest.mark.parametrize("remove_attention", [False, True])
def test_attention_is_what_reaches_far(tiny, remove_attention):
    """Three blocks' convolutions reach three pixels; the corners are 5 apart."""
    _, params, _ = tiny
    grid = (6, 6)
    latents, sigma, image_lr, *_ = make_inputs(grid)
    model = LinearDiT(**SIZES)
    if remove_attention:
        attention = jax.tree.map(lambda x: 0 * x, params["blocks"]["attention"])
        blocks = {**params["blocks"], "attention": attention}
        params = {**params, "blocks": blocks}
    run = jax.jit(lambda x: model.apply({"params": params}, x, sigma, image_lr))
    changed = latents.copy()
    changed[:, 0, 0] += 1.0
    difference = np.abs(run(changed) - run(latents)).max(axis=(0, 3))
    reached = np.zeros(grid, bool)
    reached[:4, :4] = True
    np.testing.assert_array_equal(difference > 0, reached | (not remove_attention))
    assert np.all(difference[:2, :2] > 1e-3)


def test_remat_changes_nothing():
    # A floor, because the gradients of nearly dead rows magnify rounding.
    sizes, inputs = {**SIZES, "depth": 2, "attention_floor": 0.3}, make_inputs()[:3]
    params = random_params(LinearDiT(**sizes), inputs)

    def loss_and_grad(remat):
        model = LinearDiT(**sizes, remat=remat)

        def loss(params):
            return jnp.mean(model.apply({"params": params}, *inputs) ** 2)

        return jax.jit(jax.value_and_grad(loss))(params)

    plain = loss_and_grad("none")
    for policy in REMAT_POLICIES.keys() - {"none"}:
        for expected, actual in zip(
            jax.tree.leaves(plain), jax.tree.leaves(loss_and_grad(policy)), strict=True
        ):
            close(actual, np.asarray(expected, np.float64), tolerance=1e-4)
    assert np.all([np.any(x != 0) for x in jax.tree.leaves(plain[1]["blocks"]["ffn"])])


def test_remat_does_not_change_the_parameters():
    trees = [
        jax.eval_shape(
            LinearDiT(**SIZES, remat=remat).init,
            jax.random.key(0),
            *make_inputs()[:3],
        )
        for remat in ("none", "blocks")
    ]
    assert jax.tree.structure(trees[0]) == jax.tree.structure(trees[1])


def test_bfloat16_computes_close_and_returns_float32(tiny):
    """With a floor: without one, heads this small have nearly dead rows."""
    _, params, inputs = tiny
    out, expected = (
        jax.jit(
            functools.partial(
                apply_model, LinearDiT(**SIZES, attention_floor=0.3, dtype=dtype)
            )
        )(params, *inputs)
        for dtype in (jnp.bfloat16, jnp.float32)
    )
    assert out.dtype == jnp.float32
    # Three layers of 2^-8 roundings through a few sums each.
    close(out, np.asarray(expected, np.float64), tolerance=0.05)
    # And it was computed in bfloat16.
    assert np.abs(out - expected).max() > 1e-3


@pytest.fixture(scope="module")
def untrained():
    """The LR image, and one step of the freshly initialised debug preset on it."""
    preset, codec = get_preset("debug"), PixelCodec()
    model, prediction = preset.make_model(), PREDICTIONS[preset.prediction]
    rng = np.random.default_rng(0)
    # Away from black and white, where Pillow clips between its two passes as well.
    image_lr = rng.integers(64, 192, (5, 7, 3), dtype=np.uint8)
    scaled = jnp.asarray(image_lr[None] / 127.5 - 1.0, jnp.float32)
    noise = jax.random.normal(jax.random.key(1), (1, 5, 7, 48))
    sigma = jnp.ones(1)

    @jax.jit
    def upscale(key):
        variables = nn.meta.unbox(model.init(key, noise, sigma, scaled))
        seen = prediction.network_input(noise, sigma)
        output = model.apply(variables, seen, sigma, scaled)
        return codec.decode(prediction.x0_hat(noise, output, sigma), scaled)

    # This generator compiles three times faster than the default one.
    return image_lr, scaled, upscale(jax.random.key(0, impl="unsafe_rbg"))


class TestUntrainedPixelPreset:
    def test_returns_the_bicubic_image_exactly(self, untrained):
        _, scaled, image = untrained
        expected = jax.jit(
            lambda x: jax.image.resize(
                x, (1, 20, 28, 3), "cubic", precision=jax.lax.Precision.HIGHEST
            )
        )(scaled)
        np.testing.assert_array_equal(image, expected)

    def test_which_is_pillows_within_one_level(self, untrained):
        image_lr, _, image = untrained
        pixels = np.round((image[0] + 1) * 127.5)
        pillow = Image.fromarray(image_lr).resize((28, 20), Image.Resampling.BICUBIC)
        assert np.abs(pixels - np.asarray(pillow, np.float64)).max() <= 1


@pytest.mark.parametrize("implementation", ["gpu", "tpu"])
def test_parameters_do_not_depend_on_the_implementation(implementation):
    """Kernels take neither the small image of init_params nor float32."""
    key = jax.random.key(0)
    kernels = LinearDiT(**SIZES, implementation=implementation).init_params(key)
    plain = LinearDiT(**SIZES).init_params(key)
    jax.tree.map(np.testing.assert_array_equal, kernels, plain)
