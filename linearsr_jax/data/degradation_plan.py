"""Draws all parameters of a degradation before any of it is computed.

A plan contains only numbers. `degradations` carries it out in numpy;
`device_degradations` does so in JAX, from the arrays that `pack` makes of the plan.
"""

import dataclasses

import numpy as np

from linearsr_jax.data import blur_kernels
from linearsr_jax.data.blur_kernels import Kernel
from linearsr_jax.data.degradation_params import Range, RealEsrganParams

RESIZE_MODES = ("area", "bilinear", "bicubic")
# Side of the largest kernel of a lens in pixels.
MAX_LENS = 31


@dataclasses.dataclass(frozen=True)
class Noise:
    """Gaussian or Poisson noise.

    Attributes:
      is_gaussian: True for Gaussian noise, False for Poisson noise.
      is_gray: whether R, G and B get the same noise.
      level: sigma in units of 1/255, or the factor on the Poisson noise.
    """

    is_gaussian: bool
    is_gray: bool
    level: float


@dataclasses.dataclass(frozen=True)
class Round:
    """The operations of a round up to its noise, in this order.

    Attributes:
      quality: JPEG quality that ends the previous round; None in the first round.
      kernel: blur kernel; None for no blur.
      scale: factor of the resize, relative to the HR size in the first round and to
        the final LR size in the second.
      mode: interpolation of the resize, one of RESIZE_MODES.
      noise: noise added after the resize.
    """

    quality: int | None
    kernel: Kernel | None
    scale: float
    mode: str
    noise: Noise


@dataclasses.dataclass(frozen=True)
class Last:
    """The operations after the second noise.

    Attributes:
      kernel: sinc kernel; None for no filter.
      quality: JPEG quality.
      mode: interpolation of the resize to the final size, one of RESIZE_MODES.
      is_jpeg_last: True for resize, sinc, JPEG; False for JPEG, resize, sinc.
    """

    kernel: Kernel | None
    quality: int
    mode: str
    is_jpeg_last: bool


@dataclasses.dataclass(frozen=True)
class DegradationPlan:
    """All parameters of one degraded image.

    Attributes:
      is_bicubic: whether the plain bicubic image replaces everything below.
      first, second, last: the three parts, in order.
      noise_seed: seed of the noise itself, 0 <= noise_seed < 2**32.
    """

    is_bicubic: bool
    first: Round
    second: Round
    last: Last
    noise_seed: int


def _draw_scale(
    probs: tuple[float, float, float], limits: Range, rng: np.random.Generator
) -> float:
    kind = rng.choice(3, p=probs)
    if kind == 0:
        return rng.uniform(1.0, limits[1])
    return rng.uniform(limits[0], 1.0) if kind == 1 else 1.0


def _draw_mode(rng: np.random.Generator) -> str:
    return RESIZE_MODES[rng.integers(len(RESIZE_MODES))]


def _draw_noise(
    gaussian_prob: float,
    gray_prob: float,
    sigma_range: Range,
    poisson_range: Range,
    rng: np.random.Generator,
) -> Noise:
    is_gaussian = rng.random() < gaussian_prob
    is_gray = rng.random() < gray_prob
    limits = sigma_range if is_gaussian else poisson_range
    return Noise(is_gaussian, is_gray, rng.uniform(*limits))


def _draw_quality(limits: tuple[int, int], rng: np.random.Generator) -> int:
    return int(rng.integers(limits[0], limits[1], endpoint=True))


def draw_first(params: RealEsrganParams, rng: np.random.Generator) -> Round:
    """Draws the first round.

    Each part has a function of its own, so that a caller may draw noise from the same
    generator in between.
    """
    return Round(
        quality=None,
        kernel=blur_kernels.draw_blur(params, 1, rng),
        scale=_draw_scale(params.resize_probs1, params.resize_range1, rng),
        mode=_draw_mode(rng),
        noise=_draw_noise(
            params.gaussian_prob1,
            params.gray_noise_prob1,
            params.noise_sigma1,
            params.poisson_scale1,
            rng,
        ),
    )


def draw_second(params: RealEsrganParams, rng: np.random.Generator) -> Round:
    """Draws the second round."""
    quality = _draw_quality(params.jpeg_quality1, rng)
    is_blurred = rng.random() < params.second_blur_prob
    return Round(
        quality=quality,
        kernel=blur_kernels.draw_blur(params, 2, rng) if is_blurred else None,
        scale=_draw_scale(params.resize_probs2, params.resize_range2, rng),
        mode=_draw_mode(rng),
        noise=_draw_noise(
            params.gaussian_prob2,
            params.gray_noise_prob2,
            params.noise_sigma2,
            params.poisson_scale2,
            rng,
        ),
    )


def draw_last(params: RealEsrganParams, rng: np.random.Generator) -> Last:
    """Draws the last part."""
    return Last(
        kernel=blur_kernels.draw_final_sinc(params, rng),
        quality=_draw_quality(params.jpeg_quality2, rng),
        mode=_draw_mode(rng),
        is_jpeg_last=bool(rng.random() < 0.5),
    )


def draw_plan(params: RealEsrganParams, rng: np.random.Generator) -> DegradationPlan:
    """Draws all parameters of one image."""
    is_bicubic = bool(rng.random() < params.no_degradation_prob)
    first = draw_first(params, rng)
    second = draw_second(params, rng)
    last = draw_last(params, rng)
    noise_seed = int(rng.integers(2**32))
    return DegradationPlan(is_bicubic, first, second, last, noise_seed)


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Returns the (height, width) after a resize by scale, each at least 1."""
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def pack(
    plan: DegradationPlan, size_hr: tuple[int, int], factor: int
) -> dict[str, np.ndarray]:
    """Packs a plan into small arrays of fixed shapes, for stacking and for a device.

    Args:
      plan: the plan for an image of size_hr.
      size_hr: (height, width) in pixels, multiples of factor.
      factor: HR size over LR size.

    Returns:
      Arrays of these shapes; where there are two or three values, in order of use:
      is_bicubic (), is_jpeg_last () and noise_seed () uint32;
      kernels (3, 21, 21), the identity where there is no blur;
      sizes (2, 2): (height, width) after the first and the second resize;
      steps (3, 2): pixels before a resize per pixel after it, down and across;
      modes (3,): of the resizes, indices of RESIZE_MODES;
      is_gaussian (2,), is_gray (2,), noise_levels (2,); qualities (2,);
      is_camera (), lens (31, 31), is_area (), sensor (2,): see `camera.pack_camera`.
    """
    size_lr = (size_hr[0] // factor, size_hr[1] // factor)
    sizes = [
        size_hr,
        scaled_size(size_hr, plan.first.scale),
        scaled_size(size_lr, plan.second.scale),
        size_lr,
    ]
    steps = np.divide(sizes[:-1], sizes[1:])
    if sizes[0] != sizes[1]:
        # As in `degradations.resize_matrix`, the scale that was drawn sets the grid.
        steps[0] = 1 / plan.first.scale
    parts = (plan.first, plan.second, plan.last)
    kernels = [None if p.kernel is None else p.kernel.render() for p in parts]
    noises = (plan.first.noise, plan.second.noise)
    return {
        "is_bicubic": np.array(plan.is_bicubic),
        "is_jpeg_last": np.array(plan.last.is_jpeg_last),
        "noise_seed": np.array(plan.noise_seed, np.uint32),
        "kernels": np.stack([padded(k, blur_kernels.MAX_SIZE) for k in kernels]),
        "sizes": np.array(sizes[1:3], np.int32),
        "steps": steps.astype(np.float32),
        "modes": np.array([RESIZE_MODES.index(p.mode) for p in parts], np.int32),
        "is_gaussian": np.array([noise.is_gaussian for noise in noises]),
        "is_gray": np.array([noise.is_gray for noise in noises]),
        "noise_levels": np.array([noise.level for noise in noises], np.float32),
        "qualities": np.array([plan.second.quality, plan.last.quality], np.int32),
        "is_camera": np.array(False),
        "lens": padded(None, MAX_LENS),
        "is_area": np.array(False),
        "sensor": np.zeros(2, np.float32),
    }


def padded(kernel: np.ndarray | None, size: int) -> np.ndarray:
    """Pads a kernel, by default the identity, with zeros to float32 (size, size)."""
    pixels = np.ones((1, 1), np.float32) if kernel is None else kernel
    return np.pad(pixels, (size - len(pixels)) // 2)
