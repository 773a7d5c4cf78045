"""Degrades a batch of images at random on the training devices, in jax.numpy.

The parameters of each image come from a plan drawn and packed on the host
(`degradation_plan`, `camera`); this module does with it what `degradations.apply_plan`
and `camera.apply_camera` do. Every image passes through all of it, and what its plan
does not have is the identity or is not chosen.
Between the two resizes the images of a batch differ in size, so each lies in the
top-left corner of a buffer of the largest size. Resizes are products with matrices
that are zero beyond the image; blurs reflect at the image's own border by gathering.

Differs from the numpy form in the bits of the noise, which come from JAX keys, in JPEG
(`device_jpeg`), and in rounding.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from linearsr_jax.core.array_types import Array, Float, Int, UInt8
from linearsr_jax.core.rng import stream_key
from linearsr_jax.core.scale import SCALE
from linearsr_jax.data import degradations
from linearsr_jax.data.degradation_params import RealEsrganParams
from linearsr_jax.data.degradation_plan import RESIZE_MODES
from linearsr_jax.data.device_jpeg import jpeg

Plan = dict[str, Array]

# Accelerators multiply float32 in fewer bits unless told otherwise.
_EXACT = jax.lax.Precision.HIGHEST


def degrade_on_device(
    images_hr: UInt8[Array, "B H W 3"],
    plan: Plan,
    *,
    params: RealEsrganParams,
    factor: int = SCALE,
) -> UInt8[Array, "B y x 3"]:
    """Degrades each image by its plan; a pure function, to be jitted.

    The result depends neither on the image's place in the batch nor on the others.

    Args:
      images_hr: HR images, RGB; H and W are multiples of factor.
      plan: stacked results of `degradation_plan.pack` for this size and factor.
      params: the ranges that the plan was drawn from, or of several the one whose
        resizes go furthest; they bound the buffers.
      factor: HR size over LR size.

    Returns:
      LR images; y = H / factor and x = W / factor.
    """
    degrade = functools.partial(_degrade, params=params, factor=factor)
    return jax.vmap(degrade)(images_hr, plan)


def prepare_batch(
    batch: dict[str, Any], *, params: RealEsrganParams, factor: int = SCALE
) -> dict[str, Array]:
    """Replaces a batch's plan by the image_lr it makes; see `degrade_on_device`."""
    rest = dict(batch)
    image_lr = degrade_on_device(
        batch["image_hr"], rest.pop("plan"), params=params, factor=factor
    )
    return {**rest, "image_lr": image_lr}


def _degrade(image_hr, plan, *, params, factor):
    height, width = image_hr.shape[:2]
    size_hr = (height, width)
    size_lr = (height // factor, width // factor)
    size1, size2 = plan["sizes"]
    buffer1 = _largest(size_hr, params.resize_range1)
    buffer2 = _largest(size_lr, params.resize_range2)
    levels = jnp.moveaxis(image_hr, -1, 0).astype(jnp.float32)
    is_camera = plan["is_camera"]
    lensed = _blur(levels / 255, size_hr, plan["lens"])
    cubic = bicubic(jnp.where(is_camera, _to_levels(lensed), levels), size_lr)

    image = _blur(levels / 255, size_hr, plan["kernels"][0])
    image = _resize(image, size_hr, size1, buffer1, plan, 0)
    image = _add_noise(image, size1, plan, 0)
    image = _jpeg(image, size1, plan["qualities"][0])

    image = _blur(image, size1, plan["kernels"][1])
    image = _resize(image, size1, size2, buffer2, plan, 1)
    image = _add_noise(image, size2, plan, 1)

    is_jpeg_last, quality = plan["is_jpeg_last"], plan["qualities"][1]
    image = jnp.where(is_jpeg_last, image, _jpeg(image, size2, quality))
    image = _resize(image, size2, size_lr, size_lr, plan, 2)
    image = jnp.where(is_camera, _expose(lensed, cubic, plan, factor), image)
    image = _blur(image, size_lr, plan["kernels"][2])
    image = jnp.where(is_jpeg_last, _jpeg(image, size_lr, quality), image)

    degraded = jnp.where(plan["is_bicubic"], cubic, _to_levels(image))
    return jnp.moveaxis(degraded, 0, -1).astype(jnp.uint8)


def _largest(size, limits):
    return tuple(math.ceil(side * max(1.0, limits[1])) for side in size)


def _to_levels(image):
    return jnp.rint(jnp.clip(image, 0, 1) * 255)


def _jpeg(image, size, quality):
    return jpeg(_to_levels(image), *size, quality) / 255


def _expose(lensed, cubic, plan, factor):
    """Makes of a lens's image what the sensor reads, up to `camera`'s smoothing."""
    _, rows, columns = cubic.shape
    area = lensed.reshape(3, rows, factor, columns, factor).mean((2, 4))
    image = jnp.where(plan["is_area"], area, cubic / 255)
    key = stream_key(plan["noise_seed"], "degradation", 2)
    return sensor_noise(image, plan["sensor"], jax.random.normal(key, image.shape))


def sensor_noise(
    image: Float[Array, "3 H W"],
    sensor: Float[Array, "2"],
    normal: Float[Array, "3 H W"],
) -> Float[Array, "3 H W"]:
    """Adds noise as `camera.sensor_noise` does, from unit normal draws.

    Args:
      image: sRGB in [0, 1], up to rounding.
      sensor: shot and read, at least 0.
      normal: unit normal draws.

    Returns:
      sRGB in [0, 1]; the image up to rounding where shot and read are 0.
    """
    # Less than no light would make the root below NaN.
    image = jnp.maximum(image, 0)
    light = jnp.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
    light += jnp.sqrt(sensor[0] * light + sensor[1]) * normal
    light = jnp.clip(light, 0, 1)
    return jnp.where(
        light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055
    )


def _blur(
    image: Float[Array, "3 H W"],
    size: Int[Array, "2"] | tuple[int, int],
    kernel: Float[Array, "k k"],
) -> Float[Array, "3 H W"]:
    """Blurs the image in the buffer's corner as `blur_kernels.blur` does."""
    rows, columns = image.shape[1:]
    half = kernel.shape[0] // 2
    for axis in (0, 1):
        count = scipy.fft.next_fast_len(image.shape[1 + axis] + 2 * half, real=True)
        period = jnp.maximum(2 * size[axis] - 2, 1)
        index = (jnp.arange(count) - half) % period
        index = jnp.minimum(index, period - index)
        image = jnp.take(image, index, axis=1 + axis, mode="clip")
    shape = image.shape[1:]
    spectrum = jnp.fft.rfft2(image) * jnp.fft.rfft2(kernel[::-1, ::-1], shape)
    full = jnp.fft.irfft2(spectrum, shape)
    return full[:, 2 * half : 2 * half + rows, 2 * half : 2 * half + columns]


def resize_matrix(
    size_in: Int[Array, ""] | int,
    size_out: Int[Array, ""] | int,
    step: Float[Array, ""],
    mode: Int[Array, ""],
    buffer_in: int,
    buffer_out: int,
) -> Float[Array, "buffer_out buffer_in"]:
    """Makes `degradations.resize_matrix` in the corner of a larger matrix.

    Args:
      size_in, size_out: lengths before and after; may be traced.
      step: input pixels per output pixel; sets the grid of the cubic and linear modes.
      mode: index of RESIZE_MODES.
      buffer_in, buffer_out: lengths of the buffers.

    Returns:
      The matrix. Columns from size_in on are zero in the first size_out rows; the
      other rows are finite and have no meaning.
    """
    out, column = jnp.arange(buffer_out)[:, None], jnp.arange(buffer_in)
    start = out * size_in // size_out
    stop = -(-(out + 1) * size_in // size_out)
    area = jnp.where((column >= start) & (column < stop), 1 / (stop - start), 0.0)

    centre = (out + 0.5) * step - 0.5
    is_linear = mode == RESIZE_MODES.index("bilinear")
    tapped = jnp.zeros_like(area)
    for offset in range(-1, 3):
        tap = jnp.floor(centre) + offset
        distance = jnp.abs(centre - tap)
        near = (1.25 * distance - 2.25) * distance**2 + 1
        far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
        cubic = jnp.where(distance <= 1, near, far)
        weight = jnp.where(is_linear, jnp.maximum(1 - distance, 0), cubic)
        # Taps beyond the image repeat its edge.
        tapped += jnp.where(column == jnp.clip(tap, 0, size_in - 1), weight, 0.0)
    return jnp.where(mode == RESIZE_MODES.index("area"), area, tapped)


def _resize(image, size_in, size_out, buffer_out, plan, number):
    matrices = [
        resize_matrix(
            size_in[axis],
            size_out[axis],
            plan["steps"][number, axis],
            plan["modes"][number],
            image.shape[1 + axis],
            buffer_out[axis],
        )
        for axis in (0, 1)
    ]
    return jnp.einsum(
        "oi,cij,pj->cop", matrices[0], image, matrices[1], precision=_EXACT
    )


def _add_noise(image, size, plan, number):
    key = stream_key(plan["noise_seed"], "degradation", number)
    level, is_gray = plan["noise_levels"][number], plan["is_gray"][number]
    normal = jax.random.normal(key, image.shape)
    normal = jnp.where(is_gray, normal[:1], normal)
    noise = jnp.where(
        plan["is_gaussian"][number],
        normal * (level / 255),
        poisson_noise(image, size, level, is_gray, normal),
    )
    return jnp.clip(image + noise, 0, 1)


def poisson_noise(
    image: Float[Array, "3 H W"],
    size: Int[Array, "2"],
    scale: Float[Array, ""],
    is_gray: Array,
    normal: Float[Array, "3 H W"],
) -> Float[Array, "3 H W"]:
    """Computes the noise that `degradations.poisson_noise` adds, from normal draws.

    Args:
      image: RGB in [0, 1], in the corner of a buffer.
      size: (height, width) of the image.
      scale: factor on the noise.
      is_gray: whether R, G and B get the same noise; `normal` then repeats too.
      normal: unit normal draws.
    """
    luma = jnp.tensordot(degradations.GRAY_WEIGHTS, image, 1, precision=_EXACT)
    levels = _to_levels(jnp.where(is_gray, luma, image))
    rows, columns = (jnp.arange(n) for n in image.shape[1:])
    is_inside = (rows < size[0])[:, None] & (columns < size[1])
    # 256 marks positions outside the image.
    indices = jnp.where(is_inside, levels, 256).astype(jnp.int32)
    is_present = jnp.zeros(256, bool).at[indices].set(True, mode="drop")
    powers = 2 ** jnp.arange(9)
    photons = powers[jnp.searchsorted(powers, jnp.sum(is_present))]
    clean = levels / 255
    return scale * (poisson_from_normal(normal, clean * photons) / photons - clean)


def poisson_from_normal(
    normal: Float[Array, "*shape"], mean: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Turns unit normal draws into Poisson draws at the same quantiles.

    Below a mean of 10 it adds up probabilities. Above, it expands the quantile function
    (Giles, 2016, Algorithm 955, sec. 2.2), with mean and variance right to 0.1 %. It
    has no loops of random length; on CPU it is twenty times faster than
    jax.random.poisson.
    """
    root = jnp.sqrt(jnp.maximum(mean, 1.0))
    quantile = mean + root * normal + (2 + normal**2) / 6
    quantile -= (2 * normal + normal**3) / (72 * root)
    uniform = jax.scipy.stats.norm.cdf(normal)

    probability = cumulative = jnp.exp(-mean)
    count = jnp.zeros_like(mean)
    for k in range(1, 40):
        count += uniform > cumulative
        probability *= mean / k
        cumulative += probability
    return jnp.where(mean < 10, count, jnp.maximum(jnp.floor(quantile), 0))


def bicubic(levels, size):
    """Reduces as `degradations.bicubic` does: across, rounded, then down."""
    for axis, subscripts in ((1, "oj,cij->cio"), (0, "oi,cij->coj")):
        matrix = _antialiased_cubic(levels.shape[1 + axis], size[axis])
        levels = jnp.einsum(subscripts, matrix, levels, precision=_EXACT)
        levels = jnp.clip(jnp.floor(levels + 0.5), 0, 255)
    return levels


def _antialiased_cubic(size_in, size_out):
    factor = size_in / size_out
    centre = (np.arange(size_out)[:, None] + 0.5) * factor - 0.5
    x = np.abs(centre - np.arange(size_in)) / factor
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x <= 1, near, np.where(x < 2, far, 0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
