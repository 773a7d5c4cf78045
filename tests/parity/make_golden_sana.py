"""Makes golden/sana.safetensors: small random SANA transformers and what they compute.

    pip install diffusers==0.42.1 torch==2.13.0
    python -m tests.parity.make_golden_sana

The twins have the real ones' structure at small width, and share their weights, which
are float16 numbers so that the file stays small; they compute in float32.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SanaTransformer2DModel,
)
from safetensors.numpy import save

GOLDEN = Path(__file__).parent / "golden" / "sana.safetensors"
CONFIG: dict[str, Any] = {
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
# SANA 1.0, SANA 1.5 and SANA at 4K (extent 16 / 2).
TWINS: dict[str, dict[str, Any]] = {
    "plain": {},
    "qk": {"qk_norm": "rms_norm_across_heads"},
    "position": {"interpolation_scale": 2.0},
}
# Height and width; the last is the grid that the position embedding was made for.
GRIDS = ((4, 6), (5, 3), (16, 16))
DPM_STEPS, EULER_STEPS = 20, 6


def make_twin(name: str, seed: int = 0, **changes: Any) -> SanaTransformer2DModel:
    """A twin, every parameter random: also biases, tables and the norms' weights.

    Equal names have equal weights in all of them.
    """
    twin = SanaTransformer2DModel(**CONFIG | TWINS[name] | changes).eval()
    with torch.no_grad():
        for key, parameter in twin.named_parameters():
            draw = torch.from_numpy(draw_weights(key, tuple(parameter.shape), seed))
            parameter.copy_(draw.half())
    return twin


def draw_weights(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Random values of a tensor: of norms around 1, of others of unit gain."""
    rng = np.random.default_rng([seed, *name.encode()])
    draw = rng.standard_normal(shape).astype(np.float32)
    if name.endswith("scale_shift_table"):
        return 0.5 * draw
    if any(part in name for part in ("to_q.", "to_k.", "caption_projection.linear_2.")):
        # So small that the eps of the norms behind them shows.
        draw *= 0.03
    if len(shape) > 1:
        return draw / np.float32(np.prod(shape[1:]) ** 0.5)
    return 0.2 * draw + (1.0 if "norm" in name else 0.0)


def make_inputs(height: int, width: int) -> dict[str, torch.Tensor]:
    """Two samples: latents, whole timesteps, caption tokens and their mask."""
    generator = torch.Generator().manual_seed(height)
    shape = (2, CONFIG["in_channels"], height, width)
    return {
        "latents": torch.randn(shape, generator=generator),
        "timestep": torch.tensor([3.0, 874.0]),
        "condition": torch.randn(
            (2, 7, CONFIG["caption_channels"]), generator=generator
        ),
        "mask": torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1, 1]]),
    }


def run_twin(twin: SanaTransformer2DModel, inputs: dict[str, torch.Tensor]):
    """What diffusers' pipeline asks of the network."""
    with torch.no_grad():
        return twin(
            inputs["latents"],
            encoder_hidden_states=inputs["condition"],
            encoder_attention_mask=inputs["mask"],
            timestep=inputs["timestep"],
        ).sample


def sample(twin: SanaTransformer2DModel, scheduler: Any, steps: int):
    """Walks the first sample's latents from noise to clean, as diffusers' pipeline."""
    inputs = {name: value[:1] for name, value in make_inputs(*GRIDS[0]).items()}
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        inputs["timestep"] = timestep[None]
        velocity = run_twin(twin, inputs)
        inputs["latents"] = scheduler.step(
            velocity, timestep, inputs["latents"]
        ).prev_sample
    return inputs["latents"]


def make_dpm(shift: float = 3.0) -> DPMSolverMultistepScheduler:
    """The scheduler of SANA's pipeline."""
    return DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift
    )


def to_nhwc(x: torch.Tensor) -> np.ndarray:
    """A batch of torch's as one of ours."""
    return np.ascontiguousarray(x.detach().permute(0, 2, 3, 1).numpy())


def main() -> None:
    """Runs every twin on every grid, and the two samplers."""
    qk = make_twin("qk")
    arrays = {
        f"weights.{name}": value.half().numpy()
        for name, value in qk.state_dict().items()
    }
    for case, grid in enumerate(GRIDS):
        inputs = make_inputs(*grid)
        for name, value in inputs.items():
            is_image = value.ndim == 4
            arrays[f"{case}.{name}"] = to_nhwc(value) if is_image else value.numpy()
        for name in TWINS:
            arrays[f"{case}.{name}"] = to_nhwc(run_twin(make_twin(name), inputs))
    dpm = make_dpm()
    arrays["dpm.latents"] = to_nhwc(sample(qk, dpm, DPM_STEPS))
    arrays["dpm.timesteps"] = dpm.timesteps.numpy()
    euler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    arrays["euler.latents"] = to_nhwc(sample(qk, euler, EULER_STEPS))
    arrays["euler.sigmas"] = euler.sigmas.numpy()
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_bytes(save(arrays, metadata={"source": "diffusers 0.42.1"}))


if __name__ == "__main__":
    main()
