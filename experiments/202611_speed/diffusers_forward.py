"""Times diffusers' SanaTransformer2DModel, compiled by torch, with random weights.

python diffusers_forward.py PRESET SIZE ...

Sizes are output pixels a side; 300 tokens, batch one, bfloat16. Prints one JSON object.
"""

import json
import statistics
import sys
import time

import diffusers
import torch

from linearsr_jax.models.presets import get_preset

TOKENS = 300
ROUNDS = 20


def make_network(preset_name: str, device: str) -> torch.nn.Module:
    """The network of a SANA preset, without LR image."""
    preset = get_preset(preset_name)
    network = diffusers.SanaTransformer2DModel(
        in_channels=preset.latent_channels,
        out_channels=preset.latent_channels,
        num_attention_heads=preset.heads,
        attention_head_dim=preset.width // preset.heads,
        num_layers=preset.depth,
        num_cross_attention_heads=preset.cross_heads,
        cross_attention_head_dim=preset.width // preset.cross_heads,
        cross_attention_dim=preset.width,
        caption_channels=preset.condition_features,
        mlp_ratio=preset.mlp_ratio,
        qk_norm="rms_norm_across_heads" if preset.qk_norm else None,
        interpolation_scale=None,
    )
    return network.to(device, torch.bfloat16).eval()


@torch.inference_mode()
def main(preset_name: str, sizes: list[int]) -> None:
    """Medians after one call that compiles and some that warm up."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    network = torch.compile(make_network(preset_name, device))
    preset, rows = get_preset(preset_name), []
    for size in sizes:
        side = size // preset.codec_factor
        like = {"device": device, "dtype": torch.bfloat16}
        latents = torch.randn(1, preset.latent_channels, side, side, **like)
        text = torch.randn(1, TOKENS, preset.condition_features, **like)
        timestep = torch.full((1,), 500.0, device=device)
        seconds = []
        for _ in range(ROUNDS + 3):
            wait()
            start = time.perf_counter()
            network(latents, encoder_hidden_states=text, timestep=timestep)
            wait()
            seconds.append(time.perf_counter() - start)
        rows.append({"size": size, "ms": 1e3 * statistics.median(seconds[3:])})
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    print(json.dumps({"preset": preset_name, "device": name, **versions, "rows": rows}))


if __name__ == "__main__":
    main(sys.argv[1], [int(size) for size in sys.argv[2:]])
