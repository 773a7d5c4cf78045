"""Small layers shared by the blocks: Dense with logical axes, RMS norm, modulation.

Parameters carry logical axis names (`embed`, `heads`, `mlp`, ...); sharding.py maps
them to mesh axes. They are float32; `dtype` is the type of the computation.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from linearsr_jax.core.array_types import Array, Float, PyTree

xavier_uniform = nn.initializers.xavier_uniform()
LAYER_NORM_EPS = 1e-6


def with_axes(init: Callable, axes: tuple[str | None, ...]) -> Callable[..., Array]:
    """Adds logical names of the parameter's axes to an initializer.

    The return type is that of `self.param`, an array; flax annotates the box around it.
    """
    boxed: Any = nn.with_logical_partitioning(init, axes)
    return boxed


def apply(module: nn.Module, params: PyTree, *args: Any, **kwargs: Any) -> Any:
    """Applies a module that has only parameters, and returns the output alone."""
    return module.apply({"params": params}, *args, **kwargs)


def _splits_tokens() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape.get("sequence", 1) > 1


class Dense(nn.Module):
    """x @ kernel + bias, flattened to two dimensions.

    On CPU the gradients of a (B N, C) product are about three times faster than
    those of the (B, N, C) one. Where a mesh splits the tokens of a sample, flat ones
    would have to be gathered, so they stay as they are.

    Attributes:
      features: width of the output.
      axes: logical names of the kernel's two axes.
      dtype: type of the product.
      use_bias: whether a bias, initially zero, is added.
      kernel_init: initialiser of the kernel.
      precision: precision of the product; the default rounds float32 on accelerators.
    """

    features: int
    axes: tuple[str | None, str | None]
    dtype: jnp.dtype
    use_bias: bool = True
    kernel_init: Callable = xavier_uniform
    precision: jax.lax.Precision | None = None

    def __call__(
        self, x: Float[Array, "... C"], columns: slice = slice(None)
    ) -> Float[Array, "... features"]:
        """Applies the product to the last axis, or some columns of the kernel."""
        y, bias = self.apart(x, columns)
        if bias is not None:
            # In float32, so that the bias' gradient, a sum over all tokens, is.
            y = (y.astype(jnp.float32) + bias).astype(self.dtype)
        return y

    @nn.compact
    def apart(
        self, x: Float[Array, "... C"], columns: slice = slice(None)
    ) -> tuple[Float[Array, "... features"], Float[Array, "features"] | None]:
        """Computes the product, and returns beside it the bias, not yet added."""
        kernel = self.param(
            "kernel",
            with_axes(self.kernel_init, self.axes),
            (x.shape[-1], self.features),
        )
        flat = x if _splits_tokens() else x.reshape(-1, x.shape[-1])
        kernel = kernel[:, columns].astype(self.dtype)
        y = jnp.matmul(flat.astype(self.dtype), kernel, precision=self.precision)
        y = y.reshape(*x.shape[:-1], y.shape[-1])
        if not self.use_bias:
            return y, None
        bias = self.param(
            "bias",
            with_axes(nn.initializers.zeros, self.axes[1:]),
            (self.features,),
        )
        return y, bias[columns]


class RMSNorm(nn.Module):
    """x rsqrt(mean(x^2) + eps) weight over the last axis, statistics in float32.

    Attributes:
      initial: initial value of the weight.
      eps: 1e-5 in SANA, for captions and for q and k (diffusers).
    """

    initial: float = 1.0
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
        """Normalises, in x's dtype."""
        weight = self.param(
            "weight",
            with_axes(nn.initializers.constant(self.initial), (None,)),
            (x.shape[-1],),
        )
        full = x.astype(jnp.float32)
        power = jnp.mean(jnp.square(full), axis=-1, keepdims=True)
        return (full * jax.lax.rsqrt(power + self.eps) * weight).astype(x.dtype)


def cast_kernels(params: PyTree, dtype: jnp.dtype) -> PyTree:
    """Casts the kernels of `Dense` to its type of computation.

    For inference: the products are the same bit for bit, and at half the size are
    read in half the time. The head's stays float32, and so do biases, norms and
    modulation.
    """

    def cast(path, x):
        names = [entry.key for entry in path]
        is_product = names[-1] == "kernel" and "head" not in names
        return x.astype(dtype, copy=False) if is_product else x

    return jax.tree_util.tree_map_with_path(cast, params)


def modulated_layer_norm(
    x: Float[Array, "B N D"], shift: Float[Array, "B D"], scale: Float[Array, "B D"]
) -> Float[Array, "B N D"]:
    """Computes LayerNorm without parameters, then x (1 + scale) + shift, in float32.

    Shift and scale are float32 as well: their gradients are sums over all tokens.
    """
    full = x.astype(jnp.float32)
    mean = jnp.mean(full, axis=-1, keepdims=True)
    centred = full - mean
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + LAYER_NORM_EPS)
    return (normal * (1 + scale[:, None]) + shift[:, None]).astype(x.dtype)
