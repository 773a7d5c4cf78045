"""Makes golden/dc_ae.safetensors: a small random AutoencoderDC and what it computes.

    pip install diffusers==0.42.1 torch==2.13.0
    python -m tests.parity.make_golden_dc_ae

The twin has the real one's structure at small width. Its weights are float16 numbers,
so that the file stays small; it computes in float32.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC
from safetensors.numpy import save

from linearsr_jax.codecs.dc_ae_network import DcAeConfig

GOLDEN = Path(__file__).parent / "golden" / "dc_ae.safetensors"
CONFIG = DcAeConfig(
    widths=(4, 8, 16, 16, 32, 32),
    encoder_depths=(1, 2, 1, 2, 1, 1),
    decoder_depths=(2, 1, 1, 2, 1, 1),
    head_size=8,
    latent_channels=4,
)
# Height and width. Of the first, attention is quadratic in diffusers at /32 and /16
# (2 and 8 tokens, head size 8) and linear at /8; of the second linear everywhere.
SIZES = ((32, 64), (64, 160))


def make_twin(seed: int = 0) -> AutoencoderDC:
    """The twin, every parameter random: also biases and the norms' weights."""
    attention_from = CONFIG.first_attention
    stages = len(CONFIG.widths)
    blocks = ("ResBlock",) * attention_from + ("EfficientViTBlock",) * (
        stages - attention_from
    )
    scales = ((),) * attention_from + ((5,),) * (stages - attention_from)
    twin = AutoencoderDC(
        latent_channels=CONFIG.latent_channels,
        attention_head_dim=CONFIG.head_size,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=CONFIG.widths,
        decoder_block_out_channels=CONFIG.widths,
        encoder_layers_per_block=CONFIG.encoder_depths,
        decoder_layers_per_block=CONFIG.decoder_depths,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        downsample_block_type="Conv",
        upsample_block_type="interpolate",
        scaling_factor=CONFIG.scaling_factor,
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                draw /= parameter[0].numel() ** 0.5
            else:
                draw = 0.2 * draw + (1.0 if name.endswith("weight") else 0.0)
            parameter.copy_(draw.half())
    return twin


def to_nhwc(x: torch.Tensor) -> np.ndarray:
    """A batch of torch's as one of ours."""
    return np.ascontiguousarray(x.detach().permute(0, 2, 3, 1).numpy())


def main() -> None:
    """Runs the twin on every size and writes the file."""
    twin = make_twin()
    arrays = {
        f"weights.{name}": value.half().numpy()
        for name, value in twin.state_dict().items()
    }
    stages = {}

    def recorder(name):
        return lambda _module, _inputs, output: stages.update({name: to_nhwc(output)})

    for index in range(len(CONFIG.widths)):
        twin.encoder.down_blocks[index].register_forward_hook(
            recorder(f"encoder.{index}")
        )
        twin.decoder.up_blocks[index].register_forward_hook(
            recorder(f"decoder.{index}")
        )
    generator = torch.Generator().manual_seed(1)
    for case, (height, width) in enumerate(SIZES):
        image = torch.rand((1, 3, height, width), generator=generator) * 2 - 1
        shape = (1, CONFIG.latent_channels, height // 32, width // 32)
        latents = torch.randn(shape, generator=generator)
        with torch.no_grad():
            arrays[f"{case}.image"] = to_nhwc(image)
            arrays[f"{case}.encoded"] = to_nhwc(twin.encode(image).latent)
            arrays[f"{case}.latents"] = to_nhwc(latents)
            arrays[f"{case}.decoded"] = to_nhwc(twin.decode(latents).sample)
        if case == 0:
            arrays |= {f"0.stages.{name}": value for name, value in stages.items()}
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_bytes(save(arrays, metadata={"source": "diffusers 0.42.1"}))


if __name__ == "__main__":
    main()
