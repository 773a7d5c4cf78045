"""A small DC-AE through training, a model folder and the upscaler."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from configs import debug
from linearsr_jax.cli.info import describe
from linearsr_jax.codecs import CodecError, DcAeCodec
from linearsr_jax.codecs.dc_ae_network import DcAeConfig, init_params
from linearsr_jax.codecs.loading import CONFIG_FILE
from linearsr_jax.inference.sampling import make_upscale
from linearsr_jax.inference.upscaler import Upscaler
from linearsr_jax.models.presets import PRESETS, get_preset
from linearsr_jax.pretrained.model_folder import PretrainedError, load_pretrained
from linearsr_jax.training.loop import train_and_evaluate

# Factor 8: LR sides must fill two pixels.
TINY = DcAeConfig(
    widths=(4, 4, 8, 8),
    encoder_depths=(1, 1, 1, 1),
    decoder_depths=(1, 1, 1, 1),
    first_attention=2,
    head_size=4,
    latent_channels=4,
)
PRESET = dataclasses.replace(
    get_preset("debug"),
    codec="dc_ae",
    codec_factor=8,
    latent_channels=4,
    prediction="velocity",
    unshifted_start=0.999,
)


@pytest.fixture(scope="module")
def codec():
    init = jax.jit(lambda key: init_params(TINY, key))
    return DcAeCodec(jax.device_get(init(jax.random.key(0))), TINY)


@pytest.fixture(scope="module")
def trained(codec, tmp_path_factory):
    """A run of two steps, and the workdir it left."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "codec").mkdir()
    codec.save_weights(folder / "codec")
    description = {"codec": {"name": "dc_ae", **TINY.to_dict()}}
    (folder / "codec" / CONFIG_FILE).write_text(json.dumps(description))
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for index in range(2):
        pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{index}.png")
    config = debug.get_config()
    with config.unlocked():
        config.preset = "tiny_dc_ae"
        config.steps, config.batch_size = 2, 8
        config.optimizer.warmup_steps = config.optimizer.decay_steps = 1
        config.codec_folder = str(folder / "codec")
        config.data.folder = config.val.folder = str(folder / "photos")
        config.data.crop_size = config.val.crop_size = 32
        config.data.scale_range = (1.0, 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny_dc_ae", PRESET)
        train_and_evaluate(config, folder / "run")
        with config.unlocked():
            config.codec_folder = ""
        with pytest.raises(CodecError, match="has weights of its own and none"):
            train_and_evaluate(config, folder / "other")
    return folder


def test_the_run_left_a_whole_model(trained, codec):
    """Weights of the codec and all; nothing of where they lay."""
    folder = trained / "run" / "model"
    model = load_pretrained(folder)
    jax.tree.map(np.testing.assert_array_equal, model.codec.params, codec.params)
    assert model.codec.config == TINY
    assert "codec.safetensors" in (folder / "SHA256SUMS").read_text()
    assert str(trained) not in (folder / "config.json").read_text()
    assert describe(str(folder))["model"]["codec"]["name"] == "dc_ae"


@pytest.mark.parametrize("shape", [(6, 8, 3), (5, 7, 3), (1, 1, 3), (3, 4)])
def test_any_size_is_upscaled(trained, shape):
    """The upscaler pads the LR image; the codec would refuse it."""
    upscaler = Upscaler.from_pretrained(trained / "run" / "model")
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    result = upscaler(image, steps=2)
    assert result.shape == (4 * shape[0], 4 * shape[1], *shape[2:])
    np.testing.assert_array_equal(result, upscaler(image, steps=2))


def test_weights_of_the_codec_are_not_compiled_in(trained):
    model = load_pretrained(trained / "run" / "model")
    upscale = jax.jit(make_upscale(PRESET.make_model(), PRESET, steps=1))
    image = np.zeros((4, 4, 3), np.uint8)
    noise = np.zeros((2, 2, 4), np.float32)
    text = upscale.lower(model.experts, model.codec, image, noise).as_text()
    largest = max(x.size for x in jax.tree.leaves(model.codec.params["decoder"]))
    # A constant of n float32 numbers is 8 n letters of hexadecimal.
    assert max(map(len, text.splitlines())) < 20_000 + 8 * largest
    inputs = text.partition("@main(")[2].partition(") ->")[0].count("tensor<")
    assert inputs > len(jax.tree.leaves(model.codec.params["decoder"]))


def test_a_damaged_codec_is_named(trained, tmp_path):
    source = trained / "run" / "model"
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    arrays = load_file(tmp_path / "codec.safetensors")
    del arrays["encoder.conv_in.bias"]
    save_file(arrays, tmp_path / "codec.safetensors")
    with pytest.raises(PretrainedError, match=r"codec\.safetensors: does not match"):
        load_pretrained(tmp_path)
    lines = (tmp_path / "SHA256SUMS").read_text().splitlines(keepends=True)
    kept = [line for line in lines if "codec" not in line]
    (tmp_path / "SHA256SUMS").write_text("".join(kept))
    with pytest.raises(PretrainedError, match=r"codec\.safetensors: 1 tensors missing"):
        load_pretrained(tmp_path)
