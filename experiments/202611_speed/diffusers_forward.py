"""Times diffusers' SanaTransformer2DModel, compiled by torch, with random weights.

python diffusers_forward.py PRESET SIZE

SIZE is output pixels a side; 300 tokens, batch one, bfloat16. Prints one JSON object.
One size a process: torch would compile a second one for any size.
"""

import json
import sys

import diffusers
import torch

from kernels_pallas import bench_lib
from linearsr_jax.models.presets import get_preset

TOKENS = 300


def make_network(preset_name: str, device: str) -> torch.nn.Module:
    """The network of a SANA preset, without LR image."""
    preset = get_preset(preset_name)
    # On the device at once: drawing 1.6 billion weights on a CPU takes a minute.
    with torch.device(device):
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
    return network.to(torch.bfloat16).eval()


@torch.inference_mode()
def main(preset_name: str, size: int) -> None:
    """Times it as `kernels_pallas.bench_lib` times ours."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = torch.compile(make_network(preset_name, device), dynamic=False)
    preset = get_preset(preset_name)
    side = size // preset.codec_factor
    like = {"device": device, "dtype": torch.bfloat16}
    latents = torch.randn(1, preset.latent_channels, side, side, **like)
    text = torch.randn(1, TOKENS, preset.condition_features, **like)
    timestep = torch.full((1,), 500.0, device=device)

    def run():
        return network(latents, encoder_hidden_states=text, timestep=timestep)

    def wait(_):
        if device == "cuda":
            torch.cuda.synchronize()

    row = {"preset": preset_name, "size": size, "torch": torch.__version__}
    row |= {"diffusers": diffusers.__version__}
    row |= {"ms": 1e3 * bench_lib.best_seconds(run, wait)}
    row |= {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    print(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
