"""DC-AE: its sizes, its bands, and its way into and out of folders.

What it computes is compared with diffusers in tests/parity.
"""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from kernels_pallas.testing import GPU, lower
from linearsr_jax.codecs import (
    CODECS,
    CodecError,
    DcAeCodec,
    describe_codec,
    load_codec,
)
from linearsr_jax.codecs.dc_ae_bands import decoder_halo, map_bands
from linearsr_jax.codecs.dc_ae_blocks import (
    Conv,
    Down,
    MultiscaleAttention,
    Up,
    depthwise_conv,
)
from linearsr_jax.codecs.dc_ae_network import (
    DcAeConfig,
    Decoder,
    init_params,
    parameter_shapes,
)

# One stage of each kind: factor 4, and a convolution stage at full size.
TINY = DcAeConfig(
    widths=(4, 8, 8),
    encoder_depths=(1, 1, 1),
    decoder_depths=(2, 1, 1),
    first_attention=2,
    head_size=4,
    latent_channels=4,
)


def random_like(tree, seed=0):
    """Random values everywhere: zero biases and unit norms would hide mistakes."""
    leaves, treedef = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    drawn = [
        rng.normal(0, 1 / math.sqrt(max(1, x.size // x.shape[-1])), x.shape)
        for x in leaves
    ]
    return jax.tree.unflatten(treedef, [x.astype(np.float32) for x in drawn])


@pytest.fixture(scope="module")
def codec():
    params = jax.eval_shape(lambda key: init_params(TINY, key), jax.random.key(0))
    return DcAeCodec(random_like(params), TINY)


def test_exact_number_of_parameters():
    """The figures of diffusers' AutoencoderDC (dc-ae-f32c32-sana-1.1)."""
    totals = {"encoder": 0, "decoder": 0}
    for name, shape in parameter_shapes(DcAeConfig()).items():
        totals[name.partition(".")[0]] += math.prod(shape)
    assert totals == {"encoder": 153_027_104, "decoder": 159_223_171}
    assert sum(totals.values()) == 312_250_275


def test_is_listed_with_its_sizes():
    codec = CODECS["dc_ae"](params=None)
    assert (codec.factor, codec.channels) == (32, 32)
    assert codec.config.scaling_factor == 0.41407


def test_bfloat16_computes_float32_out():
    config = DcAeConfig()
    params = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    codec = DcAeCodec(params, config, jnp.bfloat16)
    image = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    latents = jax.eval_shape(lambda c, x: c.encode(x, None), codec, image)
    assert (latents.shape, latents.dtype) == ((2, 2, 3, 32), jnp.float32)
    again = jax.eval_shape(lambda c, x: c.decode(x, None), codec, latents)
    assert (again.shape, again.dtype) == (image.shape, jnp.float32)


def test_the_decoder_asks_for_an_implementation():
    config = DcAeConfig((64,), (1,), (1,), first_attention=0, latent_channels=32)
    params = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    codec = DcAeCodec(params, config, jnp.bfloat16, implementation="gpu")
    latents = jax.ShapeDtypeStruct((1, 8, 8, 32), jnp.float32)
    text = lower(lambda c, x: c.decode(x, None), GPU, codec, latents)
    # State and output of the attention, and the gated convolution.
    assert text.count("custom_call @mosaic_gpu") == 3


def test_every_large_kernel_has_one_axis_to_split():
    boxed = jax.eval_shape(
        lambda key: init_params(DcAeConfig(), key, boxed=True), jax.random.key(0)
    )
    for leaf in jax.tree.leaves(boxed, is_leaf=lambda x: hasattr(x, "names")):
        if leaf.value.size > 10**5:
            assert leaf.names.count("embed") == 1, leaf
            assert leaf.value.shape[leaf.names.index("embed")] % 128 == 0, leaf


def test_sides_that_do_not_fill_latent_pixels(codec):
    with pytest.raises(ValueError, match=r"10x8; .* multiples of 4"):
        codec.encode(jnp.zeros((1, 8, 10, 3)), None)


def test_weights_are_arguments_not_constants(codec):
    """As constants, 312 M parameters would be part of the program."""
    latents = jnp.zeros((1, 2, 3, 4))
    lowered = jax.jit(lambda c, x: c.decode(x, None)).lower(codec, latents)
    weights = len(jax.tree.leaves(codec.params["decoder"]))
    # The encoder's are not used and not kept.
    entry = lowered.as_text().partition("@main(")[2].partition(") ->")[0]
    assert entry.count("tensor<") == weights + 1


# --- layers, against loops in float64 ---------------------------------------------


def conv_by_loops(x, kernel, stride):
    padded = np.pad(x.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    rows, columns = x.shape[0] // stride, x.shape[1] // stride
    out = np.zeros((rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            window = padded[stride * i : stride * i + 3, stride * j : stride * j + 3]
            out[i, j] = np.einsum("rci,rcio->o", window, kernel)
    return out


def apply_random(module, x, seed=1):
    params = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    unboxed = jax.tree.map(
        lambda leaf: leaf.value, params, is_leaf=lambda leaf: hasattr(leaf, "names")
    )
    params = random_like(unboxed, seed)
    return params, np.asarray(module.apply({"params": params}, x))


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution(stride):
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 3)).astype(np.float32)
    params, actual = apply_random(Conv(5, jnp.float32, stride), x)
    expected = conv_by_loops(x[0], params["kernel"], stride) + params["bias"]
    np.testing.assert_allclose(actual[0], expected, atol=1e-5)


def test_shortcut_down():
    """Channel o: the mean of G channels of 4 c + 2 row + column, counted through."""
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype(np.float32)
    params, actual = apply_random(Down(8, jnp.float32), x)
    expected = conv_by_loops(x[0], params["conv"]["kernel"], 2)
    expected += params["conv"]["bias"]
    for o in range(8):
        for unshuffled in range(3 * o, 3 * o + 3):
            c, dy, dx = unshuffled // 4, unshuffled // 2 % 2, unshuffled % 2
            expected[:, :, o] += x[0, dy::2, dx::2, c] / 3
    np.testing.assert_allclose(actual[0], expected, atol=1e-5)


def test_shortcut_up():
    """Output channel o at (row, column) is repeated channel 4 o + 2 row + column."""
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 8)).astype(np.float32)
    params, actual = apply_random(Up(4, jnp.float32), x)
    nearest = x[0].repeat(2, axis=0).repeat(2, axis=1)
    expected = conv_by_loops(nearest, params["conv"]["kernel"], 1)
    expected += params["conv"]["bias"]
    for o in range(4):
        for dy in range(2):
            for dx in range(2):
                source = (4 * o + 2 * dy + dx) // 2
                expected[dy::2, dx::2, o] += x[0, :, :, source]
    np.testing.assert_allclose(actual[0], expected, atol=1e-5)


def test_depthwise_convolution():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 4, 7, 3)).astype(np.float32)
    kernel = rng.normal(size=(5, 5, 3)).astype(np.float32)
    padded = np.pad(x[0].astype(np.float64), ((2, 2), (2, 2), (0, 0)))
    expected = [
        [np.sum(padded[i : i + 5, j : j + 5] * kernel, axis=(0, 1)) for j in range(7)]
        for i in range(4)
    ]
    np.testing.assert_allclose(depthwise_conv(x, kernel)[0], expected, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(1, 2), (3, 5)])
def test_attention_is_the_quadratic_form(height, width):
    """The N x N scores of each head, heads cut from 3 K consecutive channels."""
    size, channels = 4, 8
    x = np.random.default_rng(0).normal(size=(1, height, width, channels))
    x = x.astype(np.float32)
    params, actual = apply_random(MultiscaleAttention(channels, size, jnp.float32), x)
    tokens = x[0].reshape(-1, channels).astype(np.float64)
    p = tokens @ params["qkv"]["kernel"]
    m = np.asarray(
        depthwise_conv(
            p.reshape(1, height, width, -1).astype(np.float32),
            params["multiscale_depthwise"],
        )
    ).reshape(p.shape)
    groups = range(3 * channels // size)
    m = np.concatenate(
        [
            m[:, g * size : (g + 1) * size] @ params["multiscale_grouped"][g]
            for g in groups
        ],
        axis=1,
    )
    both = np.concatenate([p, m], axis=1)
    heads = []
    for first in range(0, both.shape[1], 3 * size):
        q, k, v = np.split(both[:, first : first + 3 * size], 3, axis=1)
        scores = np.maximum(q, 0) @ np.maximum(k, 0).T
        heads.append(scores @ v / (scores.sum(1, keepdims=True) + 1e-15))
    out = np.concatenate(heads, axis=1) @ params["out"]["kernel"]
    out /= np.sqrt(np.mean(out**2, axis=1, keepdims=True) + 1e-5)
    out = out * params["norm"]["weight"] + params["norm"]["bias"]
    np.testing.assert_allclose(actual[0].reshape(out.shape), out, atol=2e-5)


# --- bands ------------------------------------------------------------------------


def test_halo_of_the_real_decoder():
    """50 pixels are 6.25 rows of /8: seven."""
    assert decoder_halo(DcAeConfig().decoder_depths[:3]) == 7


def test_halo_is_exactly_what_reaches():
    """One row changed, and the rows of output that change with it."""
    decoder = Decoder(TINY)
    params = jax.eval_shape(decoder.init, jax.random.key(0), jnp.zeros((1, 1, 1, 4)))[
        "params"
    ]
    params = random_like(
        jax.tree.map(
            lambda leaf: leaf.value, params, is_leaf=lambda leaf: hasattr(leaf, "names")
        )
    )
    halo = decoder_halo(TINY.decoder_depths[:2])
    x = np.random.default_rng(0).normal(size=(1, 31, 3, 8)).astype(np.float32)
    changed = x.copy()
    changed[:, 15] += 10 * np.random.default_rng(1).normal(size=(3, 8))

    def run(rows):
        return decoder.apply({"params": params}, rows, method="tail")

    moved = np.any(np.asarray(run(x) != run(changed)), axis=(0, 2, 3))
    # Four pixels of output to a row of input.
    rows = np.flatnonzero(moved) // 4
    assert (rows.min(), rows.max()) == (15 - halo, 15 + halo)


@pytest.mark.parametrize("height", [5, 11, 12, 30])
@pytest.mark.parametrize("rows", [1, 4, 7])
def test_bands_of_a_convolution(height, rows):
    """Reach 2, twofold: also where the image is a little above one window."""
    x = np.random.default_rng(0).normal(size=(1, height, 3, 2)).astype(np.float32)

    def blur(rows):
        padded = jnp.pad(rows, ((0, 0), (2, 2), (0, 0), (0, 0)))
        total = sum(padded[:, i : i + rows.shape[1]] for i in range(5))
        return jnp.repeat(total, 2, axis=1)

    np.testing.assert_array_equal(map_bands(blur, x, rows=rows, halo=2), blur(x))


@pytest.mark.parametrize(("height", "width"), [(9, 3), (24, 2)])
def test_banded_decode_is_the_whole_one(codec, height, width):
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(1, height, width, 4)).astype(np.float32)
    whole = jax.jit(codec.decode)(latents, None)
    # One row of latents at a time, the least there is.
    banded = jax.jit(codec.replace(band_pixels=1).decode)(latents, None)
    assert whole.shape == (1, 4 * height, 4 * width, 3)
    error = np.max(np.abs(whole - banded)) / np.max(np.abs(whole))
    assert error < 1e-5


def test_bands_bound_the_memory(codec):
    """A taller image costs its own pixels more, and no more activations."""
    decoder = Decoder(TINY)
    pixel = 4 * 3

    def temporaries(height, rows):
        def tail(params, x):
            def run(window):
                return decoder.apply({"params": params}, window, method="tail")

            return map_bands(run, x, rows=rows, halo=3)

        x = jax.ShapeDtypeStruct((1, height, 64, 8), jnp.float32)
        compiled = jax.jit(tail).lower(codec.params["decoder"], x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole = temporaries(256, 256)
    banded, shorter = temporaries(256, 10), temporaries(64, 10)
    assert banded < whole / 2
    pixels = (256 - 64) * 4 * 64 * 4
    assert banded - shorter <= 2 * pixels * pixel


# --- folders ----------------------------------------------------------------------


@pytest.fixture
def folder(codec, tmp_path):
    assert codec.save_weights(tmp_path) == ["codec.safetensors"]
    text = json.dumps({"codec": describe_codec(codec)})
    (tmp_path / "config.json").write_text(text)
    return tmp_path


def test_round_trip_through_a_folder(codec, folder):
    again = load_codec("dc_ae", folder)
    assert again.config == codec.config
    jax.tree.map(np.testing.assert_array_equal, again.params, codec.params)


def test_weights_are_asked_for():
    with pytest.raises(
        CodecError, match=r"linearsr convert --from dc-ae.*codec_folder"
    ):
        load_codec("dc_ae", "")


def test_a_folder_of_nothing(tmp_path):
    with pytest.raises(CodecError, match=r"config\.json: no codec is described"):
        load_codec("dc_ae", tmp_path)


def test_weights_for_a_codec_without(folder):
    with pytest.raises(CodecError, match="describes codec dc_ae, and pixel is needed"):
        load_codec("pixel", folder)


@pytest.mark.parametrize("fields", [{"depth": 3}, {"widths": [4]}])
def test_settings_that_do_not_fit(folder, fields):
    (folder / "config.json").write_text(
        json.dumps({"codec": {"name": "dc_ae", **fields}})
    )
    with pytest.raises(CodecError, match=r"config\.json: unusable"):
        load_codec("dc_ae", folder)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_tensors_that_do_not_fit(codec, folder, change):
    path = folder / "codec.safetensors"
    arrays = load_file(path)
    if change == "missing":
        del arrays["encoder.conv_in.bias"]
    elif change == "unknown":
        arrays["encoder.extra"] = np.zeros(3, np.float32)
    else:
        arrays["encoder.conv_in.bias"] = np.zeros(3, np.float32)
    save_file(arrays, path)
    with pytest.raises(
        CodecError, match=r"1 tensors .*: encoder\.(conv_in\.bias|extra)"
    ):
        load_codec("dc_ae", folder)


def test_truncated_weights(folder):
    path = folder / "codec.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CodecError, match=r"codec\.safetensors"):
        load_codec("dc_ae", folder)


def test_names_are_those_of_the_parameters(codec):
    flat = traverse_util.flatten_dict(codec.params, sep=".")
    assert {name: x.shape for name, x in flat.items()} == parameter_shapes(TINY)
