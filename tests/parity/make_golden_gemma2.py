"""Makes golden/gemma2.safetensors: a small random Gemma 2 and what it computes.

    pip install torch==2.13.0 transformers==5.23.0
    python -m tests.parity.make_golden_gemma2

The weights are bfloat16 numbers, so that float32 and bfloat16 compute with the same
ones and the file stays small.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save
from transformers import Gemma2Config, Gemma2Model

# tests.gemma2_testing reads the file that is made here.
GOLDEN = Path(__file__).parent / "golden" / "gemma2.safetensors"
# Both kinds of layer, more tokens than the window, a width without a whole root, and
# logits up to several times the cap.
SIZES = {
    "vocab_size": 40,
    "hidden_size": 20,
    "intermediate_size": 28,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "query_pre_attn_scalar": 5,
    "attn_logit_softcapping": 2.0,
    "sliding_window": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
}
LENGTHS = (13, 6, 1)


def make_twin(seed=0, **changes):
    """transformers' model, every parameter random, the norms' too."""
    config = Gemma2Config(**{**SIZES, **changes}, attn_implementation="eager")
    twin = Gemma2Model(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                draw *= 0.3
            elif "embed" not in name:
                draw *= 2 / parameter.shape[1] ** 0.5
            parameter.copy_(draw.bfloat16())
    return twin


def make_inputs(config, lengths=LENGTHS, seed=1):
    """Tokens that begin with BOS and end in padding, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    tokens = torch.randint(3, config.vocab_size, shape, generator=generator)
    tokens[:, 0] = config.bos_token_id
    mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    return torch.where(mask, tokens, config.pad_token_id), mask


def run(twin, tokens, mask):
    """Features, float32, of all places, the padding's too."""
    with torch.no_grad():
        output = twin(input_ids=tokens, attention_mask=mask.long(), use_cache=False)
    return output.last_hidden_state.float()


def main():
    """Runs the twin in both types and writes the file."""
    twin = make_twin()
    tokens, mask = make_inputs(twin.config)
    weights = {
        f"weights.{name}": value.bfloat16().contiguous()
        for name, value in twin.state_dict().items()
    }
    outputs = {
        "features": run(twin, tokens, mask),
        "features_bfloat16": run(twin.bfloat16(), tokens, mask),
    }
    GOLDEN.parent.mkdir(exist_ok=True)
    metadata = {
        "source": "transformers 5.23.0",
        "config": json.dumps(twin.config.to_dict()),
    }
    arrays = weights | outputs | {"tokens": tokens.int(), "mask": mask}
    GOLDEN.write_bytes(save(arrays, metadata))


if __name__ == "__main__":
    main()
