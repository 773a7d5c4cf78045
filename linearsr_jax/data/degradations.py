"""Makes low-resolution images from high-resolution crops, in numpy and Pillow.

`bicubic` is the classical protocol. `degrade` is the second-order random
degradation of Real-ESRGAN (Wang et al., 2021, sec. 3; the order of operations
follows its training code), written anew for numpy. `degradation_plan` draws its
parameters from the ranges in `degradation_params`; `blur_kernels` computes the
kernels.

Differs from Real-ESRGAN in:
  - JPEG is that of libjpeg through Pillow, at integer qualities; the original uses a
    differentiable approximation at real-valued ones.
  - Every sample draws its own parameters; the original shares resize modes and
    scales over a batch and mixes samples in a queue.
  - `no_degradation_prob` (StableSR and later) gives the bicubic image, because
    our LR image always has 1/factor of the size. For the same reason nothing is
    enlarged back to the HR size, which diffusion models of the field do.
  - A first resize that keeps the size in pixels is skipped, even where the scale
    drawn is not exactly 1 (about one image in a hundred; a shift below one pixel).
  - The HR image is not sharpened, as in OSEDiff; Real-ESRGAN and SeeSR sharpen it.
Resizing follows torch's F.interpolate, as the original does: bilinear and
bicubic (a = -0.75) are not antialiased, so aliasing is one of the degradations.
"""

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from linearsr_jax.core.scale import SCALE
from linearsr_jax.data import blur_kernels
from linearsr_jax.data.degradation_params import RealEsrganParams
from linearsr_jax.data.degradation_plan import (
    RESIZE_MODES,
    DegradationPlan,
    Last,
    Round,
    draw_first,
    draw_last,
    draw_second,
    scaled_size,
)

# From torchvision's rgb_to_grayscale, which the original uses for gray noise.
GRAY_WEIGHTS = np.array([0.2989, 0.587, 0.114], np.float32)


def check_image(image_hr: np.ndarray, factor: int) -> None:
    """Refuses what is no uint8 RGB image of whole LR pixels.

    Raises:
      ValueError: another dtype or shape.
    """
    if image_hr.dtype != np.uint8 or image_hr.ndim != 3 or image_hr.shape[2] != 3:
        raise ValueError(
            f"image_hr must be uint8 (H, W, 3), got {image_hr.dtype} {image_hr.shape}."
        )
    if factor < 1 or image_hr.shape[0] % factor or image_hr.shape[1] % factor:
        raise ValueError(
            f"image_hr of height {image_hr.shape[0]} and width {image_hr.shape[1]} "
            f"cannot be divided by {factor}; crop it to a multiple first."
        )


def bicubic(image_hr: np.ndarray, factor: int = SCALE) -> np.ndarray:
    """Reduces an image by an antialiased cubic (a = -0.5): the classical LR image.

    Equals MATLAB's imresize up to rounding, except for the two outermost pixels, where
    MATLAB mirrors the image and Pillow leaves out what lies beyond it.

    Args:
      image_hr: uint8 (H, W, 3); H and W are multiples of factor.
      factor: how many times smaller the result is.

    Returns:
      uint8 (H / factor, W / factor, 3).

    Raises:
      ValueError: image_hr has another dtype or shape.
    """
    check_image(image_hr, factor)
    height, width = image_hr.shape[:2]
    small = Image.fromarray(image_hr).resize(
        (width // factor, height // factor), Image.Resampling.BICUBIC
    )
    return np.array(small)


def resize_matrix(
    size_in: int, size_out: int, mode: str, scale: float | None = None
) -> np.ndarray:
    """Returns the float32 (size_out, size_in) matrix that resizes one axis.

    Equals torch's F.interpolate(align_corners=False, antialias=False), edges
    repeated. Crops are small, so a dense product is faster than gathering taps.

    Args:
      size_in: length before.
      size_out: length after.
      mode: "area" (mean over the bin, bins overlap where sizes do not divide),
        "bilinear" or "bicubic" (a = -0.75).
      scale: size_out / size_in before the sizes were rounded; sets the sampling
        grid of the last two modes. By default the ratio of the rounded sizes.

    Raises:
      ValueError: unknown mode.
    """
    out = np.arange(size_out)
    if mode == "area":
        start = out * size_in // size_out
        stop = -(-(out + 1) * size_in // size_out)
        columns = np.arange(size_in)
        inside = (columns >= start[:, None]) & (columns < stop[:, None])
        return (inside / (stop - start)[:, None]).astype(np.float32)
    scale = size_out / size_in if scale is None else scale
    centre = (out + 0.5) / scale - 0.5
    if mode == "bilinear":
        # torch moves points left of the first pixel onto it; repeating the edge
        # does the same.
        offsets = np.arange(2)
    elif mode == "bicubic":
        offsets = np.arange(-1, 3)
    else:
        raise ValueError(f"mode must be one of {RESIZE_MODES}, got {mode!r}.")
    taps = np.floor(centre).astype(int)[:, None] + offsets
    distance = np.abs(centre[:, None] - taps)
    if mode == "bilinear":
        weights = 1 - distance
    else:
        near = (1.25 * distance - 2.25) * distance**2 + 1
        far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
        weights = np.where(distance <= 1, near, far)
    matrix = np.zeros((size_out, size_in), np.float32)
    rows = np.broadcast_to(out[:, None], taps.shape)
    np.add.at(matrix, (rows, np.clip(taps, 0, size_in - 1)), weights)
    return matrix


def _resize(
    image: np.ndarray, size: tuple[int, int], mode: str, scale: float | None = None
) -> np.ndarray:
    """Resizes float32 (3, H, W) to (3, *size)."""
    if image.shape[1:] == size:
        return image
    rows = resize_matrix(image.shape[1], size[0], mode, scale)
    columns = resize_matrix(image.shape[2], size[1], mode, scale)
    return rows @ image @ columns.T


def gaussian_noise(
    image: np.ndarray, sigma: float, is_gray: bool, rng: np.random.Generator
) -> np.ndarray:
    """Adds normal noise to float32 (3, H, W) in [0, 1]; sigma in units of 1/255.

    Gray noise is the same in the three channels. The result is clipped to [0, 1].
    """
    shape = (1, *image.shape[1:]) if is_gray else image.shape
    noise = rng.standard_normal(shape, np.float32) * np.float32(sigma / 255)
    return np.clip(image + noise, 0, 1)


def poisson_noise(
    image: np.ndarray, scale: float, is_gray: bool, rng: np.random.Generator
) -> np.ndarray:
    """Adds scaled Poisson noise to float32 (3, H, W) in [0, 1]; clips to [0, 1].

    As in the original, the photon count of white is the number of distinct 8-bit
    values in the image, rounded up to a power of two, so flat images are noisier.
    Gray noise is drawn for the luma and is the same in the three channels.
    """
    clean = np.tensordot(GRAY_WEIGHTS, image, 1)[None] if is_gray else image
    levels = np.clip(np.rint(clean * 255), 0, 255).astype(np.uint8)
    count = np.count_nonzero(np.bincount(levels.ravel(), minlength=256))
    photons = 2.0 ** math.ceil(math.log2(count))
    clean = levels / 255.0
    noise = rng.poisson(clean * photons) / photons - clean
    return np.clip(image + (scale * noise).astype(np.float32), 0, 1)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Converts float (3, H, W) in [0, 1] to uint8 (H, W, 3), clipped and rounded."""
    levels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))


def to_float(image: np.ndarray) -> np.ndarray:
    """Inverts `to_uint8`; returns float32."""
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    return planes.astype(np.float32) / np.float32(255)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Compresses and decompresses float (3, H, W) in [0, 1], with 4:2:0 chroma."""
    stream = io.BytesIO()
    Image.fromarray(to_uint8(image)).save(
        stream, "JPEG", quality=int(quality), subsampling="4:2:0"
    )
    with Image.open(stream) as decoded:
        return to_float(np.asarray(decoded))


def _apply_round(
    image: np.ndarray,
    plan: Round,
    size: tuple[int, int],
    grid_scale: float | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """Applies a round to float32 (3, H, W), after the JPEG of the round before."""
    if plan.quality is not None:
        image = jpeg(image, plan.quality)
    if plan.kernel is not None:
        image = blur_kernels.blur(image, plan.kernel.render())
    image = _resize(image, size, plan.mode, grid_scale)
    add_noise = gaussian_noise if plan.noise.is_gaussian else poisson_noise
    return add_noise(image, plan.noise.level, plan.noise.is_gray, rng)


def _apply_last(image: np.ndarray, plan: Last, size: tuple[int, int]) -> np.ndarray:
    """Applies the sinc filter (ringing) and the last JPEG in either order; to uint8."""
    if not plan.is_jpeg_last:
        image = jpeg(image, plan.quality)
    image = _resize(image, size, plan.mode)
    if plan.kernel is not None:
        image = blur_kernels.blur(image, plan.kernel.render())
    if plan.is_jpeg_last:
        image = jpeg(image, plan.quality)
    return to_uint8(image)


def _apply_parts(
    image_hr: np.ndarray,
    factor: int,
    rng: np.random.Generator,
    get_first: Callable[[], Round],
    get_second: Callable[[], Round],
    get_last: Callable[[], Last],
) -> np.ndarray:
    """Applies the parts; asks for each once the noise before it has been drawn."""
    image = to_float(image_hr)
    size_hr = image.shape[1:]
    size_lr = (size_hr[0] // factor, size_hr[1] // factor)
    first = get_first()
    size = scaled_size(size_hr, first.scale)
    image = _apply_round(image, first, size, first.scale, rng)
    second = get_second()
    size = scaled_size(size_lr, second.scale)
    image = _apply_round(image, second, size, None, rng)
    return _apply_last(image, get_last(), size_lr)


def degrade(
    image_hr: np.ndarray,
    params: RealEsrganParams,
    factor: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Makes a realistically damaged LR image.

    The order is blur, resize, noise, JPEG; blur, resize, noise; then, with probability
    1/2 each, {resize, sinc, JPEG} or {JPEG, resize, sinc} (Real-ESRGAN, sec. 3.4).

    Args:
      image_hr: uint8 (H, W, 3); H and W are multiples of factor.
      params: ranges and probabilities, for example LIGHT.
      factor: how many times smaller the result is.
      rng: source of every draw; the result is a function of its state.

    Returns:
      uint8 (H / factor, W / factor, 3).

    Raises:
      ValueError: image_hr has another dtype or shape.
    """
    check_image(image_hr, factor)
    if rng.random() < params.no_degradation_prob:
        return bicubic(image_hr, factor)
    return _apply_parts(
        image_hr,
        factor,
        rng,
        lambda: draw_first(params, rng),
        lambda: draw_second(params, rng),
        lambda: draw_last(params, rng),
    )


def apply_plan(image_hr: np.ndarray, plan: DegradationPlan, factor: int) -> np.ndarray:
    """Degrades an image by a plan; see `degrade`.

    The noise is drawn from the plan's noise_seed.
    """
    check_image(image_hr, factor)
    if plan.is_bicubic:
        return bicubic(image_hr, factor)
    return _apply_parts(
        image_hr,
        factor,
        np.random.default_rng(plan.noise_seed),
        lambda: plan.first,
        lambda: plan.second,
        lambda: plan.last,
    )
