"""Makes golden/ram.safetensors: a small random RAM and what it computes.

    pip install torch==2.13.0 transformers==5.23.0
    python -m tests.parity.make_golden_ram

The twin is put together from transformers: its Swin, and the cross-attention layer
of its BLIP, from whose code RAM's head was made. The weights carry RAM's names and
are float16 numbers, so that the file stays small; it computes in float64.
"""

import numpy as np
import torch
from safetensors.numpy import save
from transformers import BlipTextConfig, SwinModel
from transformers import SwinConfig as TwinConfig
from transformers.models.blip.modeling_blip_text import (
    BlipTextAttention,
    BlipTextIntermediate,
    BlipTextOutput,
)

from tests.parity.test_ram import CONFIG, GOLDEN

# Their name, below a block of Swin, and RAM's.
_BLOCK = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.o_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


class HeadLayer(torch.nn.Module):
    """A layer of BLIP's text encoder without its self-attention."""

    def __init__(self, config):
        super().__init__()
        self.crossattention = BlipTextAttention(config, is_cross_attention=True)
        self.intermediate = BlipTextIntermediate(config)
        self.output = BlipTextOutput(config)

    def forward(self, x, image):
        x = self.crossattention(x, encoder_hidden_states=image)[0]
        return self.output(self.intermediate(x), x)


class Twin(torch.nn.Module):
    """RAM by its specification."""

    def __init__(self):
        super().__init__()
        trunk = CONFIG.trunk
        self.trunk = SwinModel(
            TwinConfig(
                image_size=trunk.image_size,
                patch_size=trunk.patch,
                embed_dim=trunk.width,
                depths=list(trunk.depths),
                num_heads=list(trunk.heads),
                window_size=trunk.window,
                mlp_ratio=4.0,
                layer_norm_eps=1e-5,
                drop_path_rate=0.0,
            )
        )
        text = BlipTextConfig(
            hidden_size=CONFIG.width,
            encoder_hidden_size=CONFIG.embedding,
            intermediate_size=CONFIG.hidden,
            num_attention_heads=CONFIG.heads,
            layer_norm_eps=1e-12,
            hidden_act="gelu",
            attn_implementation="eager",
        )
        self.image_proj = torch.nn.Linear(trunk.last_width, CONFIG.embedding)
        self.label_embed = torch.nn.Parameter(
            torch.zeros(CONFIG.tags, CONFIG.embedding)
        )
        self.wordvec_proj = torch.nn.Linear(CONFIG.embedding, CONFIG.width)
        self.layers = torch.nn.ModuleList(HeadLayer(text) for _ in range(CONFIG.layers))
        self.fc = torch.nn.Linear(CONFIG.width, 1)

    def forward(self, image):
        tokens = self.trunk(image).last_hidden_state
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        image = self.image_proj(tokens)
        x = torch.relu(self.wordvec_proj(self.label_embed)).expand(len(image), -1, -1)
        for layer in self.layers:
            x = layer(x, image)
        return tokens, image, self.fc(x)[..., 0]


def make_twin(seed=0):
    """The twin, every parameter random: also biases, norms and tables."""
    twin = Twin().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1 and "bias_table" not in name:
                draw /= parameter[0].numel() ** 0.5
            elif parameter.ndim == 1:
                is_scale = "norm" in name.lower() and name.endswith("weight")
                draw = 0.2 * draw + (1.0 if is_scale else 0.0)
            parameter.copy_(draw.half())
    return twin.double()


def ram_weights(twin):
    """The twin's parameters by RAM's names."""
    theirs = {name: value.detach() for name, value in twin.named_parameters()}
    ours = {}

    def move(old, new):
        for part in ("weight", "bias"):
            if f"{old}.{part}" in theirs:
                ours[f"{new}.{part}"] = theirs.pop(f"{old}.{part}")

    move(
        "trunk.embeddings.patch_embeddings.projection",
        "visual_encoder.patch_embed.proj",
    )
    move("trunk.embeddings.norm", "visual_encoder.patch_embed.norm")
    move("trunk.layernorm", "visual_encoder.norm")
    for stage, depth in enumerate(CONFIG.trunk.depths):
        for block in range(depth):
            old = f"trunk.encoder.layers.{stage}.blocks.{block}"
            new = f"visual_encoder.layers.{stage}.blocks.{block}"
            table = "relative_position_bias_table"
            place = f"{old}.attention.relative_position_bias.{table}"
            ours[f"{new}.attn.{table}"] = theirs.pop(place)
            for part in ("weight", "bias"):
                ours[f"{new}.attn.qkv.{part}"] = torch.cat(
                    [
                        theirs.pop(f"{old}.attention.{name}_proj.{part}")
                        for name in "qkv"
                    ]
                )
            for name, target in _BLOCK.items():
                move(f"{old}.{name}", f"{new}.{target}")
        for name in ("norm", "reduction"):
            move(
                f"trunk.encoder.layers.{stage}.downsample.{name}",
                f"visual_encoder.layers.{stage}.downsample.{name}",
            )
    for name in list(theirs):
        new = name
        if name.startswith("layers."):
            new = name.replace("layers.", "tagging_head.encoder.layer.", 1)
        ours[new] = theirs.pop(name)
    return ours


def main():
    """Runs the twin on an image and writes the file."""
    twin = make_twin()
    side = CONFIG.trunk.image_size
    image = np.random.default_rng(1).standard_normal((1, side, side, 3), np.float32)
    with torch.no_grad():
        inputs = torch.from_numpy(image).double().permute(0, 3, 1, 2)
        tokens, embeddings, logits = twin(inputs)
    arrays = {
        f"weights.{name}": value.half().numpy()
        for name, value in ram_weights(twin).items()
    }
    outputs = {"tokens": tokens, "embeddings": embeddings, "logits": logits}
    arrays |= {name: value.float().numpy() for name, value in outputs.items()}
    arrays["image"] = image
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_bytes(save(arrays, metadata={"source": "transformers 5.23.0"}))


if __name__ == "__main__":
    main()
