"""Low-resolution images from high-resolution crops, in numpy and Pillow.

`bicubic` is the classical protocol. `degrade` is the second-order random
degradation of Real-ESRGAN (Wang et al., 2021, sec. 3; the order of operations
and the ranges follow its training code, options/train_realesrgan_x4plus.yml),
written anew for numpy. The blur kernels are in `blur_kernels`.

Differs from Real-ESRGAN in:
  - JPEG is libjpeg's through Pillow, at integer qualities, not a differentiable
    approximation at real ones.
  - Every sample draws its own parameters; the original shares resize modes and
    scales over a batch and mixes samples in a queue.
  - `no_degradation_prob` (StableSR and later) gives the bicubic image, because
    here the LR image always has 1/factor of the size.
Resizing is as torch's F.interpolate, which the original uses: bilinear and
bicubic (a = -0.75) are not antialiased, so aliasing is among the degradations.
"""

import dataclasses
import io
import math

import numpy as np
from PIL import Image

from linearsr_jax.data import blur_kernels

RESIZE_MODES = ("area", "bilinear", "bicubic")
# Of torchvision's rgb_to_grayscale, which the original uses for gray noise.
_GRAY_WEIGHTS = np.array([0.2989, 0.587, 0.114], np.float32)

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class RealEsrganParams:
    """Ranges and probabilities of the second-order degradation.

    Names ending in 1 and 2 belong to the first and second round. Ranges are
    (low, high), drawn uniformly. Without defaults: what the field varies.

    Attributes:
      sigma1, sigma2: standard deviation of blur kernels in pixels.
      beta_generalized, beta_plateau: shape exponents, below and above 1 with
        probability 1/2 each.
      resize_range1, resize_range2: scale factors, (low, 1) for down and (1, high)
        for up; the second is relative to the final LR size.
      noise_sigma1, noise_sigma2: Gaussian noise in units of 1/255.
      poisson_scale1, poisson_scale2: factor on the Poisson noise.
      jpeg_quality1, jpeg_quality2: JPEG quality, integers, both ends included.
      second_blur_prob: probability of the second blur.
      no_degradation_prob: probability of the plain bicubic image.
      kernel_probs: of iso, aniso, generalized iso, generalized aniso, plateau
        iso, plateau aniso kernels.
      kernel_sizes: sides of kernels in pixels, odd, equally probable.
      sinc_prob1, sinc_prob2, final_sinc_prob: probability of a sinc kernel.
      resize_probs1, resize_probs2: of up, down, keep.
      gaussian_prob1, gaussian_prob2: probability of Gaussian, else Poisson noise.
      gray_noise_prob1, gray_noise_prob2: probability of the same noise in R, G, B.
    """

    sigma1: Range
    sigma2: Range
    beta_generalized: Range
    beta_plateau: Range
    resize_range1: Range
    resize_range2: Range
    noise_sigma1: Range
    noise_sigma2: Range
    poisson_scale1: Range
    poisson_scale2: Range
    jpeg_quality1: tuple[int, int]
    jpeg_quality2: tuple[int, int]
    second_blur_prob: float
    no_degradation_prob: float
    kernel_probs: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    kernel_sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)
    sinc_prob1: float = 0.1
    sinc_prob2: float = 0.1
    final_sinc_prob: float = 0.8
    resize_probs1: tuple[float, float, float] = (0.2, 0.7, 0.1)
    resize_probs2: tuple[float, float, float] = (0.3, 0.4, 0.3)
    gaussian_prob1: float = 0.5
    gaussian_prob2: float = 0.5
    gray_noise_prob1: float = 0.4
    gray_noise_prob2: float = 0.4


# StableSR, AdcSR, PiSA-SR (params.yml) and the field's DIV2K-Val test set.
LIGHT = RealEsrganParams(
    sigma1=(0.2, 1.5),
    sigma2=(0.2, 1.0),
    beta_generalized=(0.5, 2.0),
    beta_plateau=(1.0, 1.5),
    resize_range1=(0.3, 1.5),
    resize_range2=(0.6, 1.2),
    noise_sigma1=(1.0, 15.0),
    noise_sigma2=(1.0, 12.0),
    poisson_scale1=(0.05, 2.0),
    poisson_scale2=(0.05, 1.0),
    jpeg_quality1=(60, 95),
    jpeg_quality2=(60, 100),
    second_blur_prob=0.5,
    no_degradation_prob=0.01,
)


def _check_image(image_hr: np.ndarray, factor: int):
    if image_hr.dtype != np.uint8 or image_hr.ndim != 3 or image_hr.shape[2] != 3:
        raise ValueError(
            f"image_hr must be uint8 (H, W, 3), got {image_hr.dtype} {image_hr.shape}."
        )
    if factor < 1 or image_hr.shape[0] % factor or image_hr.shape[1] % factor:
        raise ValueError(
            f"image_hr of height {image_hr.shape[0]} and width {image_hr.shape[1]} "
            f"cannot be divided by {factor}; crop it to a multiple first."
        )


def bicubic(image_hr: np.ndarray, factor: int = 4) -> np.ndarray:
    """Downscales by an antialiased cubic (a = -0.5), the classical LR image.

    Equals MATLAB's imresize up to rounding, but for the two outermost pixels: there
    MATLAB mirrors the image, Pillow leaves out what is beyond.

    Args:
      image_hr: uint8 (H, W, 3); H and W are multiples of factor.
      factor: how many times smaller the result is.

    Returns:
      uint8 (H / factor, W / factor, 3).

    Raises:
      ValueError: another dtype or shape.
    """
    _check_image(image_hr, factor)
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
      scale: size_out / size_in before rounding sizes to integers, by default
        after; sets the sampling grid of the last two modes.

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


def _draw_scale(
    probs: tuple[float, float, float], limits: Range, rng: np.random.Generator
) -> float:
    kind = rng.choice(3, p=probs)
    if kind == 0:
        return rng.uniform(1.0, limits[1])
    return rng.uniform(limits[0], 1.0) if kind == 1 else 1.0


def _draw_mode(rng: np.random.Generator) -> str:
    return RESIZE_MODES[rng.integers(len(RESIZE_MODES))]


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

    As the original: the photon count of white is the number of different 8-bit
    values in the image rounded up to a power of two, so flat images are noisier.
    Gray noise is drawn for the luma and is the same in the three channels.
    """
    clean = np.tensordot(_GRAY_WEIGHTS, image, 1)[None] if is_gray else image
    levels = np.clip(np.rint(clean * 255), 0, 255).astype(np.uint8)
    count = np.count_nonzero(np.bincount(levels.ravel(), minlength=256))
    photons = 2.0 ** math.ceil(math.log2(count))
    clean = levels / 255.0
    noise = rng.poisson(clean * photons) / photons - clean
    return np.clip(image + (scale * noise).astype(np.float32), 0, 1)


def _add_noise(
    image: np.ndarray,
    gaussian_prob: float,
    gray_prob: float,
    sigma_range: Range,
    poisson_range: Range,
    rng: np.random.Generator,
) -> np.ndarray:
    is_gaussian = rng.random() < gaussian_prob
    is_gray = rng.random() < gray_prob
    if is_gaussian:
        return gaussian_noise(image, rng.uniform(*sigma_range), is_gray, rng)
    return poisson_noise(image, rng.uniform(*poisson_range), is_gray, rng)


def _to_uint8(image: np.ndarray) -> np.ndarray:
    """Float (3, H, W) in [0, 1] to uint8 (H, W, 3), clipped and rounded."""
    levels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))


def _to_float(image: np.ndarray) -> np.ndarray:
    """Inverse of `_to_uint8`; float32."""
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    return planes.astype(np.float32) / np.float32(255)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Compresses and decompresses float (3, H, W) in [0, 1]; 4:2:0 chroma."""
    stream = io.BytesIO()
    Image.fromarray(_to_uint8(image)).save(
        stream, "JPEG", quality=int(quality), subsampling="4:2:0"
    )
    with Image.open(stream) as decoded:
        return _to_float(np.asarray(decoded))


def _draw_quality(limits: tuple[int, int], rng: np.random.Generator) -> int:
    return int(rng.integers(limits[0], limits[1], endpoint=True))


def degrade(
    image_hr: np.ndarray,
    params: RealEsrganParams,
    factor: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Makes a realistically bad LR image: two rounds of blur to JPEG, then sinc.

    Blur, resize, noise, JPEG; blur, resize, noise; then with probability 1/2 each
    {resize, sinc, JPEG} or {JPEG, resize, sinc} (Real-ESRGAN, sec. 3.4).

    Args:
      image_hr: uint8 (H, W, 3); H and W are multiples of factor.
      params: ranges and probabilities, for example LIGHT.
      factor: how many times smaller the result is.
      rng: source of every draw; the result is a function of its state.

    Returns:
      uint8 (H / factor, W / factor, 3).

    Raises:
      ValueError: another dtype or shape.
    """
    _check_image(image_hr, factor)
    if rng.random() < params.no_degradation_prob:
        return bicubic(image_hr, factor)
    height, width = image_hr.shape[:2]
    size_lr = (height // factor, width // factor)
    image = _to_float(image_hr)

    # First round.
    kernel = blur_kernels.draw_blur(params, 1, rng)
    image = blur_kernels.blur(image, kernel)
    scale = _draw_scale(params.resize_probs1, params.resize_range1, rng)
    size = (max(1, int(height * scale)), max(1, int(width * scale)))
    image = _resize(image, size, _draw_mode(rng), scale)
    image = _add_noise(
        image,
        params.gaussian_prob1,
        params.gray_noise_prob1,
        params.noise_sigma1,
        params.poisson_scale1,
        rng,
    )
    image = jpeg(image, _draw_quality(params.jpeg_quality1, rng))

    # Second round.
    if rng.random() < params.second_blur_prob:
        image = blur_kernels.blur(image, blur_kernels.draw_blur(params, 2, rng))
    scale = _draw_scale(params.resize_probs2, params.resize_range2, rng)
    size = (max(1, int(size_lr[0] * scale)), max(1, int(size_lr[1] * scale)))
    image = _resize(image, size, _draw_mode(rng))
    image = _add_noise(
        image,
        params.gaussian_prob2,
        params.gray_noise_prob2,
        params.noise_sigma2,
        params.poisson_scale2,
        rng,
    )

    # Sinc (ringing, overshoot) and the last JPEG, in either order.
    kernel = blur_kernels.draw_final_sinc(params, rng)
    quality = _draw_quality(params.jpeg_quality2, rng)
    mode = _draw_mode(rng)
    is_jpeg_last = rng.random() < 0.5
    if not is_jpeg_last:
        image = jpeg(image, quality)
    image = _resize(image, size_lr, mode)
    if kernel is not None:
        image = blur_kernels.blur(image, kernel)
    if is_jpeg_last:
        image = jpeg(image, quality)
    return _to_uint8(image)
