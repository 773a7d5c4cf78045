"""Draws Real-ESRGAN's random blur kernels, and blurs with them.

Real-ESRGAN (Wang et al., 2021, sec. 3.1 and 3.3; families and their parameters
as in BasicSR's degradations) uses Gaussian, generalized Gaussian and plateau
kernels, each isotropic or oriented, and sinc kernels. A kernel is a float32 array
(k, k) with odd k and sum 1.
"""

import dataclasses
import functools
import math

import numpy as np
import scipy.fft
import scipy.special

from linearsr_jax.data.degradation_params import RealEsrganParams

# Side of the largest kernel in pixels; on the device all kernels are padded to it.
MAX_SIZE = 21
# In the order of RealEsrganParams.kernel_probs: (shape, is_isotropic).
FAMILIES = (
    ("gaussian", True),
    ("gaussian", False),
    ("generalized", True),
    ("generalized", False),
    ("plateau", True),
    ("plateau", False),
)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """The parameters of a kernel; `render` computes its pixels.

    Attributes:
      shape: "sinc" or one of FAMILIES.
      size: side in pixels, odd.
      cutoff: see `sinc_kernel`; used by sinc kernels only.
      sigma_x, sigma_y, rotation, beta: see `shaped_kernel`; used by all others.
    """

    shape: str
    size: int
    cutoff: float = 0.0
    sigma_x: float = 0.0
    sigma_y: float = 0.0
    rotation: float = 0.0
    beta: float = 1.0

    def render(self) -> np.ndarray:
        """Computes the kernel: float32 (size, size) with sum 1."""
        if self.shape == "sinc":
            return sinc_kernel(self.cutoff, self.size)
        return shaped_kernel(
            self.shape, self.size, self.sigma_x, self.sigma_y, self.rotation, self.beta
        )


def sinc_kernel(cutoff: float, size: int) -> np.ndarray:
    """Computes the circular low-pass filter cutoff J1(cutoff r) / (2 pi r), normalized.

    Args:
      cutoff: cut-off frequency in radians per pixel, 0 < cutoff <= pi.
      size: side in pixels, odd, at most 25.
    """
    half = size // 2
    # Compute one quadrant with its axes; the other three are its mirror images.
    axis = np.arange(half + 1)
    radius = np.hypot(axis[:, None], axis)
    radius[0, 0] = 1.0
    quadrant = cutoff * scipy.special.j1(cutoff * radius) / (2 * np.pi * radius)
    quadrant[0, 0] = cutoff**2 / (4 * np.pi)
    kernel = np.pad(quadrant, ((half, 0), (half, 0)), mode="reflect")
    return (kernel / kernel.sum()).astype(np.float32)


def shaped_kernel(
    shape: str,
    size: int,
    sigma_x: float,
    sigma_y: float,
    rotation: float = 0.0,
    beta: float = 1.0,
) -> np.ndarray:
    """Computes a bell-shaped kernel from m = r^T C^-1 r, with covariance C.

    Args:
      shape: "gaussian" exp(-m/2), "generalized" exp(-m^beta / 2) or "plateau"
        1 / (1 + m^beta).
      size: side in pixels, odd.
      sigma_x: standard deviation along the first axis of the ellipse, pixels.
      sigma_y: standard deviation along the second axis, pixels.
      rotation: angle between the first axis and the row direction, radians.
      beta: exponent; "gaussian" ignores it.

    Raises:
      ValueError: unknown shape.
    """
    axis = np.arange(size) - size // 2
    x, y = axis[None, :], axis[:, None]
    along = x * math.cos(rotation) + y * math.sin(rotation)
    across = y * math.cos(rotation) - x * math.sin(rotation)
    m = (along / sigma_x) ** 2 + (across / sigma_y) ** 2
    if shape == "gaussian":
        kernel = np.exp(-0.5 * m)
    elif shape == "generalized":
        kernel = np.exp(-0.5 * m**beta)
    elif shape == "plateau":
        kernel = 1 / (1 + m**beta)
    else:
        raise ValueError(f"unknown kernel shape {shape!r}.")
    return (kernel / kernel.sum()).astype(np.float32)


def _draw_beta(limits: tuple[float, float], rng: np.random.Generator) -> float:
    # Half of the draws fall on either side of 1, however unequal the sides are.
    if rng.random() < 0.5:
        return rng.uniform(limits[0], 1.0)
    return rng.uniform(1.0, limits[1])


def draw_blur(params: RealEsrganParams, stage: int, rng: np.random.Generator) -> Kernel:
    """Draws the blur kernel of a round.

    Args:
      params: ranges and probabilities.
      stage: the round, 1 or 2.
      rng: source of every draw.
    """
    sinc_prob = params.sinc_prob1 if stage == 1 else params.sinc_prob2
    sigma_range = params.sigma1 if stage == 1 else params.sigma2
    size = int(rng.choice(params.kernel_sizes))
    if rng.random() < sinc_prob:
        # Small kernels cannot hold the ringing of a low cutoff.
        lowest = np.pi / 3 if size < 13 else np.pi / 5
        return Kernel("sinc", size, cutoff=rng.uniform(lowest, np.pi))
    shape, is_isotropic = FAMILIES[rng.choice(len(FAMILIES), p=params.kernel_probs)]
    sigma_x = sigma_y = rng.uniform(*sigma_range)
    rotation = 0.0
    if not is_isotropic:
        sigma_y = rng.uniform(*sigma_range)
        rotation = rng.uniform(-np.pi, np.pi)
    beta = 1.0
    if shape == "generalized":
        beta = _draw_beta(params.beta_generalized, rng)
    elif shape == "plateau":
        beta = _draw_beta(params.beta_plateau, rng)
    return Kernel(
        shape, size, sigma_x=sigma_x, sigma_y=sigma_y, rotation=rotation, beta=beta
    )


def draw_final_sinc(
    params: RealEsrganParams, rng: np.random.Generator
) -> Kernel | None:
    """Draws the sinc kernel of the last step, or None for no filter."""
    if rng.random() >= params.final_sinc_prob:
        return None
    size = int(rng.choice(params.kernel_sizes))
    return Kernel("sinc", size, cutoff=rng.uniform(np.pi / 3, np.pi))


@functools.lru_cache(maxsize=1024)
def reflect_indices(size: int, pad: int, size_padded: int) -> np.ndarray:
    """Returns indices that reflect an axis of `size` into one of size_padded.

    The axis begins `pad` places before the image.
    """
    period = max(1, 2 * size - 2)
    index = (np.arange(size_padded) - pad) % period
    return np.where(index < size, index, period - index)


def blur(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlates each channel with a kernel; edges are reflected.

    Uses FFTs, which for a 21x21 kernel on 128x128 pixels are several times faster
    than summing shifted copies.

    Args:
      image: float32 (C, H, W).
      kernel: float32 (k, k), k odd.

    Returns:
      float32 (C, H, W).
    """
    height, width = image.shape[1:]
    half = kernel.shape[0] // 2
    # From size + 2 half on, what wraps around never reaches the result.
    shape = [
        scipy.fft.next_fast_len(side + 2 * half, real=True) for side in (height, width)
    ]
    rows = reflect_indices(height, half, shape[0])
    columns = reflect_indices(width, half, shape[1])
    # Each row is transformed once, before reflection repeats it, and on the way back
    # only where the image is.
    spectrum = np.fft.rfft(np.take(image, columns, axis=2), axis=2)
    spectrum = np.fft.fft(np.take(spectrum, rows, axis=1), axis=1)
    # Correlation is convolution with the kernel turned by 180 degrees.
    spectrum *= np.fft.rfft2(kernel[::-1, ::-1], shape)
    inside = np.fft.ifft(spectrum, axis=1)[:, 2 * half : 2 * half + height]
    full = np.fft.irfft(inside, shape[1], axis=2)
    return full[:, :, 2 * half : 2 * half + width]
