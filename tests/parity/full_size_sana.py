"""Compares the whole SANA-1.6B with diffusers', random weights, one forward pass.

    pip install diffusers==0.42.1 torch==2.13.0
    python -m tests.parity.full_size_sana make FOLDER          # 6.4 GB
    linearsr convert --from sana FOLDER --codec DC_AE --to MODEL
    python -m tests.parity.full_size_sana theirs FOLDER
    python -m tests.parity.full_size_sana ours MODEL

float32, latents of a 512 x 512 image (256 tokens), 300 caption tokens. Not a test:
each side needs 8 GB of memory and minutes; so they run one after the other.
"""

import argparse
from pathlib import Path

import numpy as np

OUTPUT = "full_size.npz"


def make_inputs() -> dict[str, np.ndarray]:
    """One sample's arrays; latents are NHWC."""
    rng = np.random.default_rng(0)
    return {
        "latents": rng.standard_normal((1, 16, 16, 32)).astype(np.float32),
        "timestep": np.array([749.0], np.float32),
        "condition": rng.standard_normal((1, 300, 2304)).astype(np.float32),
        "mask": np.arange(300)[None] < 77,
    }


def make(folder: Path) -> None:
    """Writes random weights as diffusers does, in shards."""
    import torch
    from diffusers import SanaTransformer2DModel

    torch.manual_seed(0)
    model = SanaTransformer2DModel()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 and "norm" not in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder, max_shard_size="3GB")


def run_theirs(folder: Path) -> None:
    """Runs diffusers' network and leaves its output beside the weights."""
    import torch
    from diffusers import SanaTransformer2DModel

    inputs = {name: torch.from_numpy(value) for name, value in make_inputs().items()}
    model = SanaTransformer2DModel.from_pretrained(folder)
    with torch.no_grad():
        output = model(
            inputs["latents"].permute(0, 3, 1, 2),
            encoder_hidden_states=inputs["condition"],
            encoder_attention_mask=inputs["mask"].long(),
            timestep=inputs["timestep"],
        ).sample
    np.savez(folder.parent / OUTPUT, output=output.permute(0, 2, 3, 1).numpy())


def run_ours(folder: Path) -> None:
    """Runs ours and prints how far it is from theirs."""
    import jax

    from linearsr_jax.pretrained.model_folder import load_pretrained

    inputs = make_inputs()
    model = load_pretrained(folder)
    output = jax.jit(model.preset.make_model().apply)(
        {"params": model.experts[0]},
        inputs["latents"],
        (inputs["timestep"] + 0.5) / 1000,
        np.zeros((1, 128, 128, 3), np.float32),
        inputs["condition"],
        inputs["mask"],
    )
    expected = np.load(folder.parent / OUTPUT)["output"].astype(np.float64)
    error = np.abs(output - expected)
    print(f"largest |output| {np.max(np.abs(expected)):.4f}")
    print(f"largest error over it {np.max(error) / np.max(np.abs(expected)):.2e}")
    print(f"rms error over rms {np.std(error) / np.std(expected):.2e}")


def main() -> None:
    """Runs one of the three steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["make", "theirs", "ours"])
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    {"make": make, "theirs": run_theirs, "ours": run_ours}[args.step](args.folder)


if __name__ == "__main__":
    main()
