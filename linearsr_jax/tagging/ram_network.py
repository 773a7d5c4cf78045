"""RAM's network: Swin-L, and a head with one query per tag.

Zhang et al., "Recognize Anything" (2023, arXiv 2306.03514). The query of a tag is its
projected CLIP embedding. Two layers of cross-attention to the tokens of the image turn
it into the logit of the tag. Queries do not see each other, so any subset of the tags
gives the same logits as all of them, and queries do not depend on the image.

Differs from the paper: there is no tag encoder and no captioning.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from linearsr_jax.core.array_types import Array, Float
from linearsr_jax.tagging.swin import Dense, Norm, Swin, SwinConfig

# Epsilon of the head's norms, from BERT.
_EPSILON = 1e-12


@dataclasses.dataclass(frozen=True)
class RamConfig:
    """Sizes; the defaults are RAM Swin-L 384, 212,117,045 parameters.

    Attributes:
      trunk: sizes of the image trunk.
      tags: number of tags, the rows of the label embedding.
      embedding: width of the label and image embeddings.
      width, heads, hidden: width, attention heads and MLP width of the head's layers.
      layers: number of layers in the head.
    """

    trunk: SwinConfig = dataclasses.field(default_factory=SwinConfig)
    tags: int = 4585
    embedding: int = 512
    width: int = 768
    heads: int = 4
    hidden: int = 3072
    layers: int = 2

    def to_dict(self) -> dict[str, Any]:
        """Converts the fields to values that JSON can store."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "RamConfig":
        """Inverts `to_dict`; lists become tuples.

        Raises:
          KeyError, TypeError, ValueError: a field does not exist, or sizes do not fit.
        """
        trunk: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields["trunk"].items()
        }
        values: dict[str, Any] = {**fields, "trunk": SwinConfig(**trunk)}
        return cls(**values)


class HeadLayer(nn.Module):
    """Cross-attention to the image, then an MLP; a norm follows each."""

    config: RamConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], image: Float[Array, "B N E"]
    ) -> Float[Array, "B T D"]:
        """Applies the layer.

        Args:
          x: queries of the tags.
          image: tokens of the image.
        """
        config = self.config

        def heads(y):
            return y.reshape(*y.shape[:-1], config.heads, -1)

        q = heads(Dense(config.width, name="query")(x))
        k = heads(Dense(config.width, name="key")(image))
        v = heads(Dense(config.width, name="value")(image))
        high = jax.lax.Precision.HIGHEST
        logits = jnp.einsum("BTHK,BNHK->BHTN", q, k, precision=high)
        weights = jax.nn.softmax(logits * (config.width // config.heads) ** -0.5)
        y = jnp.einsum("BHTN,BNHK->BTHK", weights, v, precision=high)
        y = Dense(config.width, name="attention_out")(y.reshape(x.shape))
        x = Norm(_EPSILON, name="attention_norm")(x + y)
        y = nn.gelu(Dense(config.hidden, name="fc1")(x), approximate=False)
        y = Dense(config.width, name="fc2")(y)
        return Norm(_EPSILON, name="norm")(x + y)


class Ram(nn.Module):
    """Turns an image into the logit of each tag."""

    config: RamConfig

    def setup(self):
        """Creates the layers that the methods share."""
        config = self.config
        self.trunk = Swin(config.trunk)
        self.image_proj = Dense(config.embedding)
        self.label_embed = self.param(
            "label_embed", nn.initializers.zeros, (config.tags, config.embedding)
        )
        self.wordvec_proj = Dense(config.width)
        self.layers = [HeadLayer(config) for _ in range(config.layers)]
        self.fc = Dense(1)

    def __call__(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B T"]:
        """Computes the logits of all tags; see `embed_image` for the image."""
        return self.classify(self.embed_image(image), self.label_queries())

    def embed_image(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B N E"]:
        """Computes the tokens of an image, the mean token first.

        Args:
          image: RGB, standardized by ImageNet's mean and standard deviation.
        """
        return self.image_proj(self.trunk(image))

    def label_queries(self) -> Float[Array, "T D"]:
        """Computes the query of every tag; they are the same for all images."""
        return nn.relu(self.wordvec_proj(self.label_embed))

    def classify(
        self, image: Float[Array, "B N E"], queries: Float[Array, "T D"]
    ) -> Float[Array, "B T"]:
        """Computes the logits of the tags whose queries are given.

        Args:
          image: tokens of `embed_image`.
          queries: any rows of `label_queries`.
        """
        x = jnp.broadcast_to(queries, (image.shape[0], *queries.shape))
        for layer in self.layers:
            x = layer(x, image)
        return self.fc(x)[..., 0]


def parameter_shapes(config: RamConfig) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the parameters, as in a weights file."""
    side = config.trunk.image_size
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    abstract = jax.eval_shape(Ram(config).init, jax.random.key(0), image)
    flat = traverse_util.flatten_dict(abstract["params"], sep=".")
    return {name: tuple(value.shape) for name, value in flat.items()}
