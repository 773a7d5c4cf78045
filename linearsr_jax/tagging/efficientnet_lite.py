"""EfficientNet-Lite0, a small ImageNet classifier.

Tan and Le, "EfficientNet" (ICML 2019, arXiv 1905.11946). The Lite variants come from
TensorFlow (tensorflow/tpu, models/official/efficientnet/lite): ReLU6, no
squeeze-and-excitation, and a stem and head of fixed width.

Differs from them: the converter has folded each batch norm into the convolution before
it, and there are no dropped paths, because this is for inference only.
"""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from linearsr_jax.core.array_types import Array, Float

SIZE = 224
CLASSES = 1000


class Group(NamedTuple):
    """A group of consecutive blocks; the first one changes stride and width."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    width: int


STEM_WIDTH = 32
FEATURES = 1280
GROUPS = (
    Group(1, 3, 1, 1, 16),
    Group(2, 3, 2, 6, 24),
    Group(2, 5, 2, 6, 40),
    Group(3, 3, 2, 6, 80),
    Group(3, 5, 1, 6, 112),
    Group(4, 5, 2, 6, 192),
    Group(1, 3, 1, 6, 320),
)


class Conv(nn.Module):
    """A convolution with bias and TensorFlow's "SAME": odd padding comes last.

    Attributes:
      features: number of output channels.
      kernel: side of the kernel in pixels.
      stride: stride of both axes.
      is_depthwise: whether each channel is convolved on its own.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    is_depthwise: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """Applies the convolution."""
        return nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            self.stride,
            "SAME",
            feature_group_count=x.shape[-1] if self.is_depthwise else 1,
            # By default accelerators round to bfloat16 or TF32, which changes scores.
            precision=jax.lax.Precision.HIGHEST,
            name="conv",
        )(x)


class Block(nn.Module):
    """Inverted residual block: widens, convolves each channel, narrows, and adds x.

    Attributes:
      group: sizes.
      stride: stride of the convolution.
    """

    group: Group
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """Applies the block; x is added only where the shapes agree."""
        group = self.group
        hidden = x.shape[-1] * group.expansion
        y = x
        if group.expansion > 1:
            y = nn.relu6(Conv(hidden, name="expand")(y))
        depthwise = Conv(hidden, group.kernel, self.stride, True, name="depthwise")
        y = nn.relu6(depthwise(y))
        y = Conv(group.width, name="project")(y)
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(nn.Module):
    """Turns an image into features, and into logits of ImageNet's 1000 classes."""

    @nn.compact
    def __call__(
        self, image: Float[Array, "B 224 224 3"]
    ) -> tuple[Float[Array, "B 1280"], Float[Array, "B 1000"]]:
        """Applies the network.

        Args:
          image: RGB in [0, 255].

        Returns:
          Features, which are not negative, and logits.
        """
        x = (image - 127) / 128
        x = nn.relu6(Conv(STEM_WIDTH, 3, 2, name="stem")(x))
        for index, (group, stride) in enumerate(blocks()):
            x = Block(group, stride, name=f"block_{index}")(x)
        x = nn.relu6(Conv(FEATURES, name="head")(x))
        x = jnp.mean(x, axis=(1, 2))
        high = jax.lax.Precision.HIGHEST
        return x, nn.Dense(CLASSES, precision=high, name="fc")(x)


def blocks() -> list[tuple[Group, int]]:
    """Lists every block in order, with its stride."""
    return [
        (group, group.stride if repeat == 0 else 1)
        for group in GROUPS
        for repeat in range(group.repeats)
    ]


def parameter_shapes() -> Mapping[str, tuple[int, ...]]:
    """Returns the names and shapes of the parameters, as in the weights file."""
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    abstract = jax.eval_shape(EfficientNetLite0().init, jax.random.key(0), image)
    flat = traverse_util.flatten_dict(abstract["params"], sep=".")
    return {name: tuple(value.shape) for name, value in flat.items()}
