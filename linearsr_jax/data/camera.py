"""What a lens, a sensor and its processing do to a picture, in numpy and Pillow.

Light passes the lens, which blurs it; photosites sum it up and count photons; the
processing smooths a little what it reads, and the file is a JPEG. `degrade` does that
once, in this order, to a crop that stands for the scene:

  1. lens: none, a Gaussian, an oriented Gaussian or the disc of a lens out of focus, in
     HR pixels;
  2. photosites: the mean of factor x factor HR pixels, or the antialiased cubic of a
     picture that was shrunk afterwards;
  3. sensor: noise whose variance is a line in the linear light (photons and reading);
  4. processing: a Gaussian on the LR grid, which also makes the noise of neighbours
     alike, as demosaicing and denoising do;
  5. JPEG, mild.

Unlike `degradations.degrade` it has no second round, no resizing to odd sizes and no
ringing: real photographs are softer than that one's and far less noisy.
`device_degradations` does the same in JAX, from the arrays of `pack_camera`.
"""

import dataclasses
import math

import numpy as np

from linearsr_jax.data import blur_kernels, degradations
from linearsr_jax.data.degradation_params import CameraParams
from linearsr_jax.data.degradation_plan import (
    MAX_LENS,
    DegradationPlan,
    Last,
    Noise,
    Round,
    pack,
    padded,
)

# A Gaussian's half-width is 3 sigma, and this in pixels at most.
_MAX_HALF = MAX_LENS // 2
# Samples a side of a pixel that the disc's edge is averaged over.
_DISC_SAMPLES = 8
# Stands in the arrays of a camera's plan for the rounds that it does not have.
_UNUSED = Round(100, None, 1.0, "area", Noise(True, False, 0.0))


@dataclasses.dataclass(frozen=True)
class CameraPlan:
    """All that is drawn for an image but the noise itself.

    Attributes:
      lens: kernel on the HR grid, None for none.
      is_area: photosites, else the antialiased cubic.
      shot, read: variance of the noise is shot x + read at linear light x in [0, 1];
        both 0 for none.
      smoothing: sigma in LR pixels, 0 for none.
      quality: quality of the JPEG, None for none.
    """

    lens: np.ndarray | None
    is_area: bool
    shot: float
    read: float
    smoothing: float
    quality: int | None


def disc_kernel(radius: float) -> np.ndarray:
    """Makes a disc of constant brightness: a point that is out of focus.

    Args:
      radius: radius in pixels, more than 0; pixels on the edge have the share that
        is inside.

    Returns:
      float32 (k, k), k odd, sum 1.
    """
    half = max(1, math.ceil(radius - 0.5))
    fine = (np.arange((2 * half + 1) * _DISC_SAMPLES) + 0.5) / _DISC_SAMPLES
    fine -= half + 0.5
    inside = np.hypot(fine[:, None], fine) <= radius
    side = 2 * half + 1
    shares = inside.reshape(side, _DISC_SAMPLES, side, _DISC_SAMPLES).mean((1, 3))
    if not shares.any():
        shares[half, half] = 1.0
    return (shares / shares.sum()).astype(np.float32)


def gaussian_kernel(
    sigma_x: float, sigma_y: float, rotation: float = 0.0
) -> np.ndarray:
    """Makes a Gaussian of `blur_kernels.shaped_kernel`, as large as it has to be."""
    half = min(_MAX_HALF, max(1, math.ceil(3 * max(sigma_x, sigma_y))))
    size = 2 * half + 1
    return blur_kernels.shaped_kernel("gaussian", size, sigma_x, sigma_y, rotation)


def to_linear(image: np.ndarray) -> np.ndarray:
    """Converts sRGB in [0, 1] to linear light (IEC 61966-2-1)."""
    return np.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)


def to_srgb(light: np.ndarray) -> np.ndarray:
    """Inverts `to_linear`."""
    light = np.clip(light, 0, 1)
    return np.where(
        light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055
    )


def draw_camera(params: CameraParams, rng: np.random.Generator) -> CameraPlan:
    """Draws all parameters of one image."""
    lens = _draw_lens(params, rng)
    is_area = bool(rng.random() < params.area_prob)
    shot = read = 0.0
    if rng.random() < params.noise_prob:
        log_shot = rng.uniform(*np.log(params.shot))
        slope, offset, spread = params.log_read
        shot = math.exp(log_shot)
        read = math.exp(rng.normal(slope * log_shot + offset, spread))
    smoothing = 0.0
    if rng.random() < params.smoothing_prob:
        smoothing = rng.uniform(*params.smoothing)
    quality = None
    if rng.random() < params.jpeg_prob:
        quality = int(rng.integers(*params.jpeg_quality, endpoint=True))
    return CameraPlan(lens, is_area, shot, read, smoothing, quality)


def _draw_lens(params, rng):
    kind = rng.choice(4, p=params.lens_probs)
    if kind == 0:
        return None
    if kind == 1:
        sigma = rng.uniform(*params.sigma)
        return gaussian_kernel(sigma, sigma)
    if kind == 2:
        sigma_x, sigma_y = rng.uniform(*params.sigma_oriented, size=2)
        return gaussian_kernel(sigma_x, sigma_y, rng.uniform(-np.pi, np.pi))
    return disc_kernel(rng.uniform(*params.disc_radius))


def pack_camera(
    plan: CameraPlan, noise_seed: int, size_hr: tuple[int, int], factor: int
) -> dict[str, np.ndarray]:
    """Packs a plan as `degradation_plan.pack` does, to be stacked with its results.

    Args:
      plan: its smoothing needs a kernel of 21 pixels at most: sigma up to 3.3.
      noise_seed: seed of the noise itself, 0 <= noise_seed < 2**32.
      size_hr: (height, width) in pixels, multiples of factor.
      factor: HR size over LR size.

    Returns:
      The same arrays; of the rounds, is_camera True leaves only the last kernel, the
      last quality and is_jpeg_last, which is whether there is a JPEG. Its own are lens
      (31, 31), the identity where there is none; is_area; sensor (2,): shot, read.
    """
    is_jpeg = plan.quality is not None
    last = Last(None, plan.quality if is_jpeg else 100, "area", is_jpeg)
    rounds = DegradationPlan(False, _UNUSED, _UNUSED, last, noise_seed)
    packed = pack(rounds, size_hr, factor)
    if plan.smoothing:
        kernel = gaussian_kernel(plan.smoothing, plan.smoothing)
        packed["kernels"][2] = padded(kernel, blur_kernels.MAX_SIZE)
    return packed | {
        "is_camera": np.array(True),
        "lens": padded(plan.lens, MAX_LENS),
        "is_area": np.array(plan.is_area),
        "sensor": np.array([plan.shot, plan.read], np.float32),
    }


def sensor_noise(
    image: np.ndarray, shot: float, read: float, rng: np.random.Generator
) -> np.ndarray:
    """Adds normal noise of variance shot x + read to the linear light x of an image.

    The normal form of the Poisson-Gaussian model (Foi et al., 2008).

    Args:
      image: float32 (3, H, W), sRGB in [0, 1].
      shot, read: at least 0.
      rng: source of the noise.

    Returns:
      float32 (3, H, W), clipped to [0, 1].
    """
    light = to_linear(image)
    noise = rng.standard_normal(image.shape, np.float32)
    return to_srgb(light + np.sqrt(shot * light + read) * noise).astype(np.float32)


def apply_camera(
    image_hr: np.ndarray, plan: CameraPlan, factor: int, rng: np.random.Generator
) -> np.ndarray:
    """Does what is planned; arguments and result as `degrade`."""
    degradations.check_image(image_hr, factor)
    image = degradations.to_float(image_hr)
    if plan.lens is not None:
        image = blur_kernels.blur(image, plan.lens)
    if plan.is_area:
        rows, columns = (size // factor for size in image.shape[1:])
        image = image.reshape(3, rows, factor, columns, factor).mean((2, 4))
    else:
        levels = degradations.to_uint8(image)
        image = degradations.to_float(degradations.bicubic(levels, factor))
    if plan.shot or plan.read:
        image = sensor_noise(image, plan.shot, plan.read, rng)
    if plan.smoothing:
        kernel = gaussian_kernel(plan.smoothing, plan.smoothing)
        image = blur_kernels.blur(image, kernel)
    if plan.quality is not None:
        image = degradations.jpeg(image, plan.quality)
    return degradations.to_uint8(image)


def degrade(
    image_hr: np.ndarray,
    params: CameraParams,
    factor: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Makes the LR image that a camera would have taken.

    Args:
      image_hr: uint8 (H, W, 3); H and W are multiples of factor.
      params: ranges and probabilities, for example CAMERA.
      factor: how many times smaller the result is.
      rng: source of every draw; the result is a function of its state.

    Returns:
      uint8 (H / factor, W / factor, 3).

    Raises:
      ValueError: another dtype or shape.
    """
    return apply_camera(image_hr, draw_camera(params, rng), factor, rng)
