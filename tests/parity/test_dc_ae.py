"""DC-AE computes what diffusers' AutoencoderDC does: whole, by stage, by module."""

from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from linearsr_jax.codecs.dc_ae import DcAeCodec
from linearsr_jax.codecs.dc_ae_blocks import (
    AttentionBlock,
    Down,
    GatedConv,
    MultiscaleAttention,
    ResBlock,
    Up,
)
from linearsr_jax.codecs.dc_ae_network import DcAeConfig, Decoder, Encoder
from linearsr_jax.convert.dc_ae import convert
from tests.parity.comparing import relative_error

GOLDEN = Path(__file__).parent / "golden" / "dc_ae.safetensors"
# As in make_golden_dc_ae.py, which needs torch to be imported.
CONFIG = DcAeConfig(
    widths=(4, 8, 16, 16, 32, 32),
    encoder_depths=(1, 2, 1, 2, 1, 1),
    decoder_depths=(2, 1, 1, 2, 1, 1),
    head_size=8,
    latent_channels=4,
)
CASES = (0, 1)
MODULE_TOLERANCE = 1e-5
WHOLE_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def codec(golden, tmp_path_factory):
    """The twin's weights, through the converter as a user would."""
    folder = tmp_path_factory.mktemp("dc_ae")
    weights = {
        name.removeprefix("weights."): value
        for name, value in golden.items()
        if name.startswith("weights.")
    }
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    convert(folder, folder / "ours", CONFIG)
    return DcAeCodec.load(CONFIG.to_dict(), folder / "ours")


def test_codec_encodes(golden, codec):
    """diffusers leaves the scaling to the pipeline."""
    actual = jax.jit(codec.encode)(golden["1.image"], None)
    expected = golden["1.encoded"] * 0.41407
    assert relative_error(actual, expected) < WHOLE_TOLERANCE


def test_codec_decodes(golden, codec):
    actual = jax.jit(codec.decode)(golden["1.latents"] * 0.41407, None)
    assert relative_error(actual, golden["1.decoded"]) < WHOLE_TOLERANCE


@pytest.mark.parametrize(
    ("part", "start", "end"),
    [("encoder", "image", "encoded"), ("decoder", "latents", "decoded")],
)
def test_every_stage(golden, codec, part, start, end):
    network = {"encoder": Encoder, "decoder": Decoder}[part](CONFIG)

    @jax.jit
    def run(params, x):
        return network.apply({"params": params}, x, capture_intermediates=True)

    output, recorded = run(codec.params[part], golden[f"0.{start}"])
    assert relative_error(output, golden[f"0.{end}"]) < WHOLE_TOLERANCE
    for index in range(6):
        actual = recorded["intermediates"][f"stages_{index}"]["__call__"][0]
        expected = golden[f"0.stages.{part}.{index}"]
        assert relative_error(actual, expected) < MODULE_TOLERANCE, index


def our_modules(part):
    """(our path, diffusers' path, our function of params and x) of every module."""
    is_encoder = part == "encoder"
    depths = CONFIG.encoder_depths if is_encoder else CONFIG.decoder_depths
    for stage, (width, depth) in enumerate(zip(CONFIG.widths, depths, strict=True)):
        ours = f"{part}.stages_{stage}"
        theirs = f"{part}.{'down' if is_encoder else 'up'}_blocks.{stage}"
        first = 0 if is_encoder or stage == 5 else 1
        if not is_encoder and first:
            yield f"{ours}.up", f"{theirs}.0", Up(width, np.float32), False
        for block in range(depth):
            ours_block = f"{ours}.block_{block}"
            theirs_block = f"{theirs}.{first + block}"
            if stage < 3:
                yield ours_block, theirs_block, ResBlock(width, np.float32), False
                continue
            attention = MultiscaleAttention(width, 8, np.float32)
            yield f"{ours_block}.attention", f"{theirs_block}.attn", attention, True
            gated = GatedConv(width, np.float32)
            yield f"{ours_block}.gated_conv", f"{theirs_block}.conv_out", gated, True
            yield ours_block, theirs_block, AttentionBlock(width, 8, np.float32), False
        if is_encoder and stage < 5:
            down = Down(CONFIG.widths[stage + 1], np.float32)
            yield f"{ours}.down", f"{theirs}.{depth}", down, False


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("case", CASES)
def test_every_module_against_diffusers(golden, codec, part, case):
    pytest.importorskip("diffusers", reason="extra `parity` is not installed")
    import torch

    from tests.parity.make_golden_dc_ae import make_twin, to_nhwc

    twin = make_twin()
    calls = {}

    def record(name):
        def hook(_module, inputs, output):
            calls[name] = (to_nhwc(inputs[0]), to_nhwc(output))

        return hook

    names = dict(twin.named_modules())
    for _, theirs, _, _ in our_modules(part):
        names[theirs].register_forward_hook(record(theirs))
    start = golden[f"{case}.image" if part == "encoder" else f"{case}.latents"]
    with torch.no_grad():
        getattr(twin, part)(torch.from_numpy(start).permute(0, 3, 1, 2))

    @jax.jit
    def run(params, inputs):
        return {
            ours: module.apply({"params": below(params, ours)}, inputs[ours])
            for ours, _, module, _ in our_modules(part)
        }

    inputs = {ours: calls[theirs][0] for ours, theirs, _, _ in our_modules(part)}
    outputs = run(codec.params, inputs)
    errors = {}
    for ours, theirs, _, is_residual in our_modules(part):
        y = inputs[ours] + outputs[ours] if is_residual else outputs[ours]
        errors[ours] = relative_error(y, calls[theirs][1])
    assert max(errors.values()) < MODULE_TOLERANCE, errors


def below(params, path):
    for name in path.split("."):
        params = params[name]
    return params
