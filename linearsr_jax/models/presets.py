"""The named model sizes (docs/design.md).

A preset has everything needed to build the network and to interpret its output. The
config.json of a released model contains all fields of the preset but not its name, so a
preset may change without changing the meaning of older folders.
"""

import dataclasses
import math
from typing import Any

from linearsr_jax.core.scale import SCALE
from linearsr_jax.models.linear_dit import LinearDiT

# Size of `tagging.vocabulary`, which is RAM's.
TAG_COUNT = 4585


@dataclasses.dataclass(frozen=True)
class Preset:
    """One model size.

    Attributes:
      width, depth, heads, cross_heads: sizes of the transformer.
      mlp_ratio: Mix-FFN's channels after the gate over the width.
      condition_features: size of a condition token.
      tag_count: tags with a learned embedding; 0 for models that take features.
      codec: name in `codecs.CODECS`.
      codec_factor, latent_channels: sizes of the codec.
      prediction: name in `diffusion.flow.PREDICTIONS`.
      stem_widths: channels of the LR stem's first convolutions.
      stem_blocks: residual blocks of two convolutions that follow in the stem.
      shift: flow shift of the noise levels training draws.
      sampling_shift: flow shift of the sampler's grid.
      unshifted_start: unshifted noise level of a sampler's first step.
      solver: name in `diffusion.samplers.SOLVERS`.
      default_steps: default number of sampler steps.
      qk_norm: whether queries and keys have an RMS norm.
      zero_init: whether the head and the cross-attention outputs start at zero.
      floor_timestep: see `LinearDiT`; SANA's weights know whole timesteps only.
      position_extent: see `LinearDiT`.
      attention_floor: see `LinearDiT`; 0 in the paper.
    """

    width: int
    depth: int
    heads: int
    cross_heads: int
    mlp_ratio: float
    condition_features: int
    codec: str
    codec_factor: int
    latent_channels: int
    prediction: str
    stem_widths: tuple[int, int, int]
    shift: float
    sampling_shift: float
    unshifted_start: float
    solver: str
    default_steps: int
    tag_count: int = 0
    qk_norm: bool = False
    zero_init: bool = False
    floor_timestep: bool = False
    position_extent: float | None = None
    attention_floor: float = 0.0
    stem_blocks: int = 0

    def make_model(self, **kwargs: Any) -> LinearDiT:
        """Builds the network.

        Args:
          **kwargs: how it is computed: `LinearDiT`'s dtype, remat, scan_unroll
            and implementation.
        """
        strided = round(math.log2(self.codec_factor // SCALE))
        return LinearDiT(
            latent_channels=self.latent_channels,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            cross_heads=self.cross_heads,
            expanded=int(self.mlp_ratio * self.width),
            condition_features=self.condition_features,
            tag_count=self.tag_count,
            stem_widths=self.stem_widths,
            stem_strides=(1,) * (3 - strided) + (2,) * strided,
            stem_blocks=self.stem_blocks,
            qk_norm=self.qk_norm,
            zero_init=self.zero_init,
            floor_timestep=self.floor_timestep,
            position_extent=self.position_extent,
            attention_floor=self.attention_floor,
            **kwargs,
        )


def _pixel(
    width: int, depth: int, head_size: int, stem: tuple[int, int, int], **kwargs
) -> Preset:
    heads = width // head_size
    return Preset(
        width=width,
        depth=depth,
        heads=heads,
        cross_heads=heads,
        tag_count=TAG_COUNT,
        codec="pixel",
        codec_factor=SCALE,
        latent_channels=3 * SCALE**2,
        prediction="preconditioned_x0",
        stem_widths=stem,
        shift=3.0,
        sampling_shift=3.0,
        solver="dpm_solver_pp",
        default_steps=1,
        # Exactly pure noise: the network's one-step answer then owes nothing to it.
        unshifted_start=1.0,
        zero_init=True,
        **kwargs,
    )


def sana_preset(width: int, depth: int, cross_heads: int, **changes: Any) -> Preset:
    """Makes the preset of a SANA network.

    Args:
      width, depth, cross_heads: sizes of the transformer.
      **changes: fields that differ from those of SANA 1.0 at 1024 pixels.
    """
    preset = Preset(
        width=width,
        depth=depth,
        heads=width // 32,
        cross_heads=cross_heads,
        mlp_ratio=2.5,
        condition_features=2304,
        codec="dc_ae",
        codec_factor=32,
        latent_channels=32,
        prediction="velocity",
        # The paper does not give the widths; as many channels out as the latents.
        stem_widths=(64, 128, 32),
        shift=3.0,
        sampling_shift=3.0,
        unshifted_start=0.999,
        solver="dpm_solver_pp",
        default_steps=20,
        floor_timestep=True,
    )
    return dataclasses.replace(preset, **changes)


PRESETS: dict[str, Preset] = {
    "debug": _pixel(32, 2, 16, (16, 16, 16), mlp_ratio=2.0, condition_features=16),
    "nano": _pixel(
        64, 4, 32, (96, 96, 64), mlp_ratio=2.0, condition_features=64, stem_blocks=6
    ),
    "small": _pixel(
        384, 14, 32, (128, 128, 128), mlp_ratio=2.5, condition_features=256
    ),
    "600m": sana_preset(1152, 28, 16),
    "1600m": sana_preset(2240, 20, 20),
    # SANA 1.5.
    "1600m_qk": sana_preset(2240, 20, 20, qk_norm=True),
}


def get_preset(name: str) -> Preset:
    """Looks up a preset.

    Raises:
      ValueError: naming the presets there are.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
