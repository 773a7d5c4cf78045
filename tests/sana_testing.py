"""A small SANA as diffusers saves it, and a codec for it, without torch."""

import json
from pathlib import Path

import numpy as np
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from linearsr_jax.codecs import DcAeCodec, describe_codec
from linearsr_jax.codecs.dc_ae_network import DcAeConfig, parameter_shapes

GOLDEN = Path(__file__).parent / "parity" / "golden" / "sana.safetensors"
# Those of make_golden_sana.py, which needs torch to be imported.
CONFIG = {
    "_class_name": "SanaTransformer2DModel",
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "num_layers": 2,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 16,
    "cross_attention_dim": 32,
    "caption_channels": 12,
    "sample_size": 16,
}
TWINS = {
    "plain": {},
    "qk": {"qk_norm": "rms_norm_across_heads"},
    "position": {"interpolation_scale": 2.0},
}
CODEC_CONFIG = DcAeConfig(
    widths=(2, 2, 2, 4, 4, 4),
    encoder_depths=(1,) * 6,
    decoder_depths=(1,) * 6,
    head_size=2,
    latent_channels=4,
)


def golden_weights(twin: str = "plain") -> dict[str, np.ndarray]:
    """The golden file's weights under diffusers' names, float32."""
    weights = {
        name.removeprefix("weights."): np.asarray(value, np.float32)
        for name, value in load_file(GOLDEN).items()
        if name.startswith("weights.")
    }
    if not TWINS[twin].get("qk_norm"):
        weights = {k: v for k, v in weights.items() if ".norm_" not in k}
    return weights


def save_diffusers(
    folder: Path, weights: dict[str, np.ndarray], twin: str = "plain", **changes
) -> Path:
    """Writes a transformer folder: weights and config.json with changes."""
    folder.mkdir(parents=True)
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    config = json.dumps(CONFIG | TWINS[twin] | changes)
    (folder / "config.json").write_text(config)
    return folder


def save_codec(folder: Path, config: DcAeConfig = CODEC_CONFIG) -> Path:
    """Writes a random DC-AE as `linearsr convert --from dc-ae` does."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    params = {
        name: 0.2 * rng.standard_normal(shape, np.float32)
        for name, shape in parameter_shapes(config).items()
    }
    codec = DcAeCodec(traverse_util.unflatten_dict(params, sep="."), config)
    codec.save_weights(folder)
    description = {"codec": describe_codec(codec)}
    (folder / "config.json").write_text(json.dumps(description))
    return folder
