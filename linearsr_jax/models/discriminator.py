"""A U-Net that says of each pixel how real it looks, and spectral normalisation.

After Real-ESRGAN (Wang et al., 2021, sec. 3.3): a U-Net with skip connections whose
inner kernels are divided by their largest singular value (Miyato et al., 2018), so that
its gradients stay bounded. Differs in size, for CPUs: it starts from 2x2 pixels side by
side instead of the pixels, has two halvings instead of three, and halves by products of
2x2 pixels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from linearsr_jax.core.array_types import Array, Float, Key, PyTree
from linearsr_jax.core.convolution import convolve

_SLOPE = 0.2
# As Real-ESRGAN: not the kernels at the image and at the logits.
_NOT_NORMALIZED = ("first", "last")


def space_to_depth(
    x: Float[Array, "B H W C"],
) -> Float[Array, "B H//2 W//2 4*C"]:
    """Puts 2x2 pixels side by side in the channels."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // 2, width // 2, 4 * channels)


def _twice(x):
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


class UNetDiscriminator(nn.Module):
    """Logits of being real, four for each 2x2 pixels.

    Attributes:
      width: channels of the first level; twice and four times as many further down.
    """

    width: int

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B h w 4"]:
        """Judges images in [-1, 1] with sides that are multiples of 8; h, w: half."""

        def convolve(x, name, times=1, side=3):
            x = _conv(times * self.width, side, name)(x)
            return nn.leaky_relu(x, _SLOPE)

        first = convolve(space_to_depth(image), "first")
        second = convolve(space_to_depth(first), "down_1", 2, 1)
        second = convolve(second, "level_1", 2)
        third = convolve(space_to_depth(second), "down_2", 4, 1)
        third = convolve(third, "level_2", 4)
        second = second + _twice(convolve(third, "up_1", 2, 1))
        second = convolve(second, "merge_1", 2)
        first = first + _twice(convolve(second, "up_0", 1, 1))
        first = convolve(first, "merge_0")
        return _conv(4, 3, "last")(first)


def _conv(features, side, name):
    def convolution(x, kernel, *_, **__):
        return convolve(x, kernel, 1, side // 2)

    return nn.Conv(features, (side, side), conv_general_dilated=convolution, name=name)


def _matrices(params: PyTree) -> dict[tuple[str, ...], Float[Array, "_ _"]]:
    """Collects the kernels that are normalised, as matrices from inputs to outputs."""
    flat = traverse_util.flatten_dict(params)
    return {
        path: kernel.reshape(-1, kernel.shape[-1])
        for path, kernel in flat.items()
        if path[-1] == "kernel" and path[0] not in _NOT_NORMALIZED
    }


def _unit(x):
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)


def random_directions(key: Key[Array, ""], params: PyTree) -> PyTree:
    """Draws where the search for each kernel's first singular vector starts."""
    return {
        "/".join(path): _unit(
            jax.random.normal(jax.random.fold_in(key, number), matrix.shape[1:])
        )
        for number, (path, matrix) in enumerate(sorted(_matrices(params).items()))
    }


def turn_directions(params: PyTree, directions: PyTree) -> PyTree:
    """Takes one step of the power iteration, on the side of the outputs."""
    return {
        "/".join(path): _unit(matrix.T @ (matrix @ directions["/".join(path)]))
        for path, matrix in _matrices(params).items()
    }


def normalize_spectrum(params: PyTree, directions: PyTree) -> PyTree:
    """Divides kernels by their largest singular value, as far as it is known.

    Args:
      params: parameters of `UNetDiscriminator`.
      directions: the first singular vectors on the side of the outputs; constants to
        the gradient.
    """
    flat = traverse_util.flatten_dict(params)
    for path, matrix in _matrices(params).items():
        length = jnp.linalg.norm(matrix @ directions["/".join(path)])
        flat[path] = flat[path] / length
    return traverse_util.unflatten_dict(flat)
