"""The linear diffusion transformer: SANA's network with an LR stem.

Differs from the paper in: nothing known. Where the paper is silent (widths of the
stem, order of the concatenation) we put the noisy latents first, so that SANA's
patch embedding is the first columns of ours.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from linearsr_jax.core.array_types import Array, Bool, Float, Int, Key, PyTree
from linearsr_jax.models.blocks import Block
from linearsr_jax.models.embeddings import (
    Condition,
    ConditionProjection,
    LRStem,
    TagEmbedding,
    TimeEmbedding,
    position_embedding,
)
from linearsr_jax.models.layers import Dense, modulated_layer_norm, with_axes
from linearsr_jax.models.linear_attention import TELEMETRY

# By name, what is saved of each block for the backward pass beside its input (a policy
# of jax.checkpoint). "dots" keeps the products of dense layers and computes cheap parts
# again: norms, the attention's products, the depthwise convolution.
REMAT_POLICIES: dict[str, Callable] = {
    "none": jax.checkpoint_policies.everything_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "blocks": jax.checkpoint_policies.nothing_saveable,
}


# On CPU a rolled loop's copies cost nano a third of its time; unrolling more than this
# costs compile time and gains little.
_UNROLLED_ON_CPU = 4


class ProjectedCondition(NamedTuple):
    """A condition as the blocks read it.

    Attributes:
      keys_and_values: keys and values of the cross-attention of all L blocks, stacked.
      mask: False for padding.
    """

    keys_and_values: tuple[Float[Array, "L B T D"], Float[Array, "L B T D"]]
    mask: Bool[Array, "B T"]


class LinearDiT(nn.Module):
    """The network: predicts from noisy latents, sigma, the LR image and a condition.

    Attributes:
      latent_channels: channels of the codec's latents.
      width: D.
      depth: number of blocks.
      heads: self-attention heads; width / heads is the head size.
      cross_heads: cross-attention heads.
      expanded: channels of Mix-FFN after its gate; int(2.5 width) in SANA.
      condition_features: F of the condition tokens.
      tag_count: tags that a condition may name; 0 for features only.
      stem_widths, stem_strides, stem_blocks: see `LRStem`.
      qk_norm: whether queries and keys have an RMS norm.
      zero_init: whether the head and the cross-attention outputs start at zero (pixel
        presets).
      floor_timestep: whether to feed whole timesteps; see `timestep_features`.
      position_extent: length of the square that `position_embedding` spreads the
        tokens over; None adds no position. SANA has 64 at 2K and 4K, none below.
      attention_floor: floor of `kernels_pallas.linear_attention`.
      remat: key of REMAT_POLICIES; decides what the backward pass computes again.
      scan_unroll: blocks per iteration of the loop over depth. On CPU a rolled
        loop's copies cost a quarter of nano's training step; unrolling costs
        compile time. See `inference_unroll`.
      dtype: computation type; parameters and reductions stay float32.
      implementation: implementation of the two operations of `kernels_pallas`; None
        takes the fastest one on the device, "reference" allows forward-mode
        differentiation (jvp, grad of jvp, Hessian-vector products), of the stem too.
    """

    latent_channels: int
    width: int
    depth: int
    heads: int
    cross_heads: int
    expanded: int
    condition_features: int
    tag_count: int
    stem_widths: tuple[int, int, int]
    stem_strides: tuple[int, ...]
    stem_blocks: int = 0
    qk_norm: bool = False
    zero_init: bool = False
    floor_timestep: bool = False
    position_extent: float | None = None
    attention_floor: float = 0.0
    remat: str = "none"
    scan_unroll: int = 1
    dtype: jnp.dtype = jnp.float32
    implementation: str | None = None

    def init_params(self, key: Key[Array, ""], *, boxed: bool = False) -> PyTree:
        """Draws initial parameters; with boxed, wrapped with their logical axes."""
        # Parameters do not depend on sizes; an 8x8 LR image suits every codec.
        image_lr = jnp.zeros((1, 8, 8, 3))
        side = 8 // math.prod(self.stem_strides)
        latents = jnp.zeros((1, side, side, self.latent_channels))
        # Parameters do not depend on the implementation either, and kernels refuse
        # images as small as this.
        plain = self.clone(implementation="reference")
        params = plain.init(key, latents, jnp.zeros((1,)), image_lr)["params"]
        return params if boxed else nn.meta.unbox(params)

    def setup(self):
        """Makes the layers."""
        self.stem = LRStem(
            self.stem_widths,
            self.stem_strides,
            self.dtype,
            self.stem_blocks,
            self.implementation,
        )
        self.patch_embed = Dense(self.width, (None, "embed"), self.dtype)
        self.time_embed = TimeEmbedding(self.width, self.floor_timestep, self.dtype)
        if self.tag_count:
            self.tags = TagEmbedding(self.tag_count, self.condition_features)
        self.condition = ConditionProjection(self.width, self.dtype)
        self.blocks = make_block(self)
        self.scale_shift_table = self.param(
            "scale_shift_table",
            with_axes(nn.initializers.normal(self.width**-0.5), (None, None)),
            (2, self.width),
        )
        head_init = (
            nn.initializers.zeros
            if self.zero_init
            else nn.initializers.xavier_uniform()
        )
        # The head is float32: what it returns becomes 16-bit images.
        self.head = Dense(
            self.latent_channels,
            (None, None),
            jnp.float32,
            True,
            head_init,
            jax.lax.Precision.HIGHEST,
        )

    def __call__(
        self,
        latents: Float[Array, "B h w C"],
        sigma: Float[Array, "B"],
        image_lr: Float[Array, "B H W 3"],
        condition: Condition | None = None,
    ) -> Float[Array, "B h w C"]:
        """Runs the network.

        Args:
          latents: the codec's latents as `Prediction.network_input` gives them.
          sigma: noise levels in [0, 1]; the network is fed 1000 sigma, with
            floor_timestep the whole number below.
          image_lr: LR image in [-1, 1]; its stem must land on the latent grid.
          condition: None means no tags and costs nothing.

        Returns:
          The raw output, float32; `Prediction` says what it means.
        """
        if self.is_initializing():
            # Tags must find their parameters even if training starts without them.
            condition = self._no_condition(latents.shape[0])
        projected = None if condition is None else self.project_condition(condition)
        return self.denoise(latents, sigma, image_lr, projected)

    def project_condition(self, condition: Condition) -> ProjectedCondition:
        """Computes what `denoise` needs of the condition: the same in every step.

        Raises:
          ValueError: tags, and the model knows none.
        """
        tokens = condition.tokens
        if jnp.issubdtype(tokens.dtype, jnp.integer):
            if not self.tag_count:
                raise ValueError("this model takes condition features, and no tags")
            tokens = self.tags(tokens)
        projected = self.condition(tokens)
        _, keys_and_values = nn.scan(
            lambda block, carry: (carry, block.keys_and_values(projected)),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(self.blocks, ())
        return ProjectedCondition(keys_and_values, condition.mask)

    def _no_condition(self, batch):
        mask = jnp.zeros((batch, 1), bool)
        if self.tag_count:
            return Condition(jnp.zeros((batch, 1), jnp.int32), mask)
        return Condition(jnp.zeros((batch, 1, self.condition_features)), mask)

    def denoise(
        self,
        latents: Float[Array, "B h w C"],
        sigma: Float[Array, "B"],
        image_lr: Float[Array, "B H W 3"],
        condition: ProjectedCondition | None,
    ) -> Float[Array, "B h w C"]:
        """Runs the network as `__call__` does, on a projected condition."""
        grid = latents.shape[1:3]
        tokens = self.embed(latents, image_lr)
        e, t6 = self.embed_time(sigma)
        keys_and_values, mask = condition or (None, None)

        def body(block, tokens, keys_and_values):
            tokens = block(tokens, t6, keys_and_values, mask, grid)
            constrained = nn.with_logical_constraint(
                tokens, ("batch", "tokens", "embed_act")
            )
            return constrained, None

        if self.remat != "none":
            policy = REMAT_POLICIES[self.remat]
            body = nn.remat(body, prevent_cse=False, policy=policy)
        tokens, _ = nn.scan(
            body,
            variable_axes={"params": 0, TELEMETRY: 0},
            split_rngs={"params": True},
            length=self.depth,
            unroll=self.scan_unroll,
            check_constancy_invariants=False,  # traces the blocks once, not twice
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(self.blocks, tokens, keys_and_values)
        return self.read_out(tokens, e).reshape(latents.shape)

    def embed(
        self,
        latents: Float[Array, "B h w C"],
        image_lr: Float[Array, "B H W 3"],
        first_row: int | Int[Array, ""] = 0,
        height: int | None = None,
    ) -> Float[Array, "B N D"]:
        """Computes the blocks' input.

        Args:
          latents, image_lr: the whole image, or some rows of it.
          first_row: first of these rows.
          height: height of the whole image in rows of latents.

        Raises:
          ValueError: the stem does not land on the latents' grid.
        """
        features = self.stem(image_lr)
        if features.shape[1:3] != latents.shape[1:3]:
            raise ValueError(
                f"latents on a {latents.shape[1:3]} grid need an LR image whose stem "
                f"output is of that size, got {features.shape[1:3]} from "
                f"{image_lr.shape[1:3]}"
            )
        x = jnp.concatenate([latents.astype(self.dtype), features], axis=-1)
        tokens = self.patch_embed(x.reshape(x.shape[0], -1, x.shape[-1]))
        if self.position_extent is not None:
            _, rows, columns, _ = latents.shape
            grid = (height or rows, columns)
            position = position_embedding(
                grid, self.width, self.position_extent, rows, first_row
            )
            tokens = (tokens + position).astype(self.dtype)
        return nn.with_logical_constraint(tokens, ("batch", "tokens", "embed_act"))

    def embed_time(
        self, sigma: Float[Array, "B"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B 6 D"]]:
        """Computes (e, t6) of `TimeEmbedding`."""
        # Float32 for the modulation, and so that t6's gradients are summed over depth
        # in float32.
        e, t6 = self.time_embed(sigma)
        return e.astype(jnp.float32), t6.astype(jnp.float32)

    def read_out(
        self, tokens: Float[Array, "B N D"], e: Float[Array, "B D"]
    ) -> Float[Array, "B N C"]:
        """Computes the raw output at each of the last block's tokens, float32."""
        final = self.scale_shift_table + e[:, None]
        tokens = modulated_layer_norm(tokens, final[:, 0], final[:, 1])
        return self.head(tokens.astype(jnp.float32))


def inference_unroll(depth: int) -> int:
    """Chooses scan_unroll for upscaling on the default device.

    An accelerator gets no loop: in one XLA copies every layer's weights out of the
    stacked ones before it multiplies with them, 138 MB per layer of 1600m, which
    unrolled products read where they lie.
    """
    is_cpu = jax.default_backend() == "cpu"
    return min(depth, _UNROLLED_ON_CPU) if is_cpu else depth


def make_block(model: LinearDiT) -> Block:
    """Makes one of the model's blocks; its parameters are a slice of "blocks"."""
    return Block(
        width=model.width,
        heads=model.heads,
        cross_heads=model.cross_heads,
        expanded=model.expanded,
        qk_norm=model.qk_norm,
        cross_zero_init=model.zero_init,
        attention_floor=model.attention_floor,
        dtype=model.dtype,
        implementation=model.implementation,
    )


def is_stacked(params: PyTree) -> PyTree:
    """Tells for each parameter whether its first axis is that of the layers."""
    # The first level only: the time embedding, too, has a part called blocks.
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[0] == jax.tree_util.DictKey("blocks"), params
    )
