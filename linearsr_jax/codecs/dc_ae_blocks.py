"""The blocks of DC-AE: residual, EfficientViT, down- and upsampling; NHWC.

Chen et al., "Deep Compression Autoencoder" (ICLR 2025, arXiv 2410.10733), in the
variant that SANA uses. Every convolution is zero-padded and keeps the size.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from kernels_pallas import glu_depthwise_conv, linear_attention
from linearsr_jax.core.array_types import Array, Float
from linearsr_jax.models.layers import Dense, with_axes

NORM_EPS = 1e-5
# Side of the depthwise kernel that gives attention its second scale.
MULTISCALE = 5

_lecun = nn.initializers.lecun_normal()


class Conv(nn.Module):
    """3x3 convolution with one row or column of zeros on every side.

    At stride 2, output pixel i is centred at input pixel 2 i, as torch's padding of
    1 has it; XLA's "SAME" would centre it at 2 i + 1.

    Attributes:
      features: channels out.
      dtype: computation type.
      stride: 1 or 2.
      use_bias: whether a bias is added.
      precision: precision of the products; the default rounds float32 on accelerators.
    """

    features: int
    dtype: jnp.dtype
    stride: int = 1
    use_bias: bool = True
    precision: lax.Precision | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w features"]:
        """Convolves; h = H / stride."""
        channels = x.shape[-1]
        # The wider side is the one worth splitting over devices.
        axes = ("embed", None) if channels >= self.features else (None, "embed")
        kernel = self.param(
            "kernel",
            with_axes(_lecun, (None, None, *axes)),
            (3, 3, channels, self.features),
        )
        y = lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding=((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=self.precision,
        )
        if not self.use_bias:
            return y
        return y + _vector(self, "bias", nn.initializers.zeros, self.features, y.dtype)


class AffineRMSNorm(nn.Module):
    """x rsqrt(mean(x^2) + eps) weight + bias over channels, statistics in float32."""

    @nn.compact
    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
        """Normalises, in x's dtype."""
        channels = x.shape[-1]
        weight = _vector(self, "weight", nn.initializers.ones, channels, jnp.float32)
        bias = _vector(self, "bias", nn.initializers.zeros, channels, jnp.float32)
        full = x.astype(jnp.float32)
        power = jnp.mean(jnp.square(full), axis=-1, keepdims=True)
        return (full * lax.rsqrt(power + NORM_EPS) * weight + bias).astype(x.dtype)


class ResBlock(nn.Module):
    """x + norm(conv(silu(conv(x)))).

    Attributes:
      width: C.
      dtype: computation type.
    """

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Applies the block."""
        y = Conv(self.width, self.dtype, name="conv1")(x)
        y = Conv(self.width, self.dtype, use_bias=False, name="conv2")(nn.silu(y))
        return x + AffineRMSNorm(name="norm")(y)


class MultiscaleAttention(nn.Module):
    """ReLU linear attention on two scales of the same projections (LiteMLA).

    The projections P are laid out q | k | v, but heads are cut from 3 K consecutive
    channels of [P | M], M being the second scale: a head's q, k and v are all from
    P's q as long as those last. The pretrained weights were trained like that.

    diffusers computes the N x N scores where there are no more tokens than K: the
    same sums in another order, so there is one form here.

    Attributes:
      width: C.
      head_size: K.
      dtype: computation type; the attention's sums are float32 regardless.
      implementation: see `kernels_pallas.linear_attention`.
    """

    width: int
    head_size: int
    dtype: jnp.dtype
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Mixes all pixels; not yet added to x."""
        size = self.head_size
        channels = 3 * self.width
        p = Dense(channels, ("embed", "heads"), self.dtype, use_bias=False, name="qkv")(
            x
        )
        depthwise = self.param(
            "multiscale_depthwise",
            with_axes(_lecun, (None, None, "embed")),
            (MULTISCALE, MULTISCALE, channels),
        )
        grouped = self.param(
            "multiscale_grouped",
            with_axes(_lecun, (None, None, None)),
            (channels // size, size, size),
        )
        m = depthwise_conv(p, depthwise.astype(self.dtype))
        m = jnp.einsum(
            "bhwgi,gio->bhwgo",
            m.reshape(*m.shape[:3], -1, size),
            grouped.astype(self.dtype),
        ).reshape(p.shape)
        heads = jnp.concatenate([p, m], axis=-1).reshape(
            x.shape[0], x.shape[1] * x.shape[2], 2 * self.width // size, 3 * size
        )
        mixed = linear_attention(
            *jnp.split(heads, 3, axis=-1), implementation=self.implementation
        )
        out = Dense(
            self.width, ("heads", "embed"), self.dtype, use_bias=False, name="out"
        )(mixed.reshape(*x.shape[:3], 2 * self.width))
        return AffineRMSNorm(name="norm")(out)


class GatedConv(nn.Module):
    """Expand, SiLU, 3x3 depthwise convolution, gate, project, norm (GLUMBConv).

    Attributes:
      width: C; 4 C channels after the gate.
      dtype: computation type.
      implementation: see `kernels_pallas.glu_depthwise_conv`.
    """

    width: int
    dtype: jnp.dtype
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Applies the layer; not yet added to x."""
        expanded = 8 * self.width
        y = Dense(expanded, ("embed", "mlp"), self.dtype, name="expand")(x)
        kernel = self.param(
            "kernel",
            with_axes(_lecun, (None, None, "embed")),
            (3, 3, expanded),
        )
        bias = _vector(self, "bias", nn.initializers.zeros, expanded, self.dtype)
        y = glu_depthwise_conv(
            y, kernel.astype(self.dtype), bias, implementation=self.implementation
        )
        y = Dense(
            self.width, ("mlp", "embed"), self.dtype, use_bias=False, name="project"
        )(y)
        return AffineRMSNorm(name="norm")(y)


class AttentionBlock(nn.Module):
    """x + attention(x), then x + gated convolution of x; no norms before them.

    Attributes: see `MultiscaleAttention`.
    """

    width: int
    head_size: int
    dtype: jnp.dtype
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Applies the block."""
        how = self.dtype, self.implementation
        attention = MultiscaleAttention(
            self.width, self.head_size, *how, name="attention"
        )
        x = x + attention(x)
        return x + GatedConv(self.width, *how, name="gated_conv")(x)


class Down(nn.Module):
    """Halves the size: strided convolution + mean over space-to-depth's channels.

    Attributes:
      features: channels out; divides 4 C.
      dtype: computation type.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w features"]:
        """Applies the layer; H and W must be even."""
        y = Conv(self.features, self.dtype, stride=2, name="conv")(x)
        batch, height, width, channels = x.shape
        blocks = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        # Channel 4 c + 2 row + column of each 2x2 block, then consecutive groups.
        unshuffled = blocks.transpose(0, 1, 3, 5, 2, 4)
        return y + mean_of_groups(unshuffled.reshape(*y.shape[:3], -1), self.features)


class Up(nn.Module):
    """Doubles the size: nearest, convolution + depth-to-space of repeated channels.

    Attributes:
      features: channels out; 4 features is a multiple of C.
      dtype: computation type.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B H W features"]:
        """Applies the layer."""
        batch, height, width, channels = x.shape
        nearest = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        y = Conv(self.features, self.dtype, name="conv")(nearest)
        repeated = jnp.repeat(x, 4 * self.features // channels, axis=-1)
        blocks = repeated.reshape(batch, height, width, self.features, 2, 2)
        return y + blocks.transpose(0, 1, 4, 2, 5, 3).reshape(y.shape)


def mean_of_groups(
    x: Float[Array, "B H W C"], features: int
) -> Float[Array, "B H W features"]:
    """Averages each C / features consecutive channels."""
    return jnp.mean(x.reshape(*x.shape[:-1], features, -1), axis=-1)


def depthwise_conv(
    x: Float[Array, "B H W C"], kernel: Float[Array, "K K C"]
) -> Float[Array, "B H W C"]:
    """Convolves each channel by itself, zero-padded, in the platform's fast form."""
    return lax.platform_dependent(
        x, kernel, cpu=_depthwise_shifted, default=_depthwise_grouped
    )


def _depthwise_shifted(x, kernel):
    # XLA on CPU runs grouped convolutions many times slower than this.
    side = kernel.shape[0]
    half = side // 2
    padded = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    height, width = x.shape[1:3]
    out = jnp.zeros_like(x)
    for row in range(side):
        for column in range(side):
            window = padded[:, row : row + height, column : column + width]
            out = out + window * kernel[row, column]
    return out


def _depthwise_grouped(x, kernel):
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _vector(
    module: nn.Module, name: str, init, size: int, dtype: jnp.dtype
) -> jax.Array:
    boxed_init = with_axes(init, (None,))
    return module.param(name, boxed_init, (size,)).astype(dtype)
