"""RAM, the tagger of the paper, from a folder of `linearsr convert --from ram`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from linearsr_jax.core.array_types import PyTree, UInt8
from linearsr_jax.core.tensor_files import TensorFileError, read_params
from linearsr_jax.tagging.base import TaggerError, best_first, check_image, digest
from linearsr_jax.tagging.ram_network import Ram, RamConfig, parameter_shapes
from linearsr_jax.tagging.resizing import BILINEAR, resize
from linearsr_jax.tagging.vocabulary import TAGS, ram_thresholds, tag_indices

WEIGHTS_FILE = "tagger.safetensors"
CONFIG_FILE = "config.json"

# Mean and standard deviation of ImageNet's images in [0, 1].
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


class RamTagger:
    """RAM with its weights; see `base.Tagger`.

    A tag is given if its probability is above its own threshold; the probability is
    its score.

    Args:
      params: parameters of `Ram`, float32.
      config: sizes; label i belongs to `TAGS[i]`.
      version: identifies the weights.
      tags: tags to look for, a part of `TAGS`; by default all. Looking for fewer takes
        less time and does not change their scores.

    Raises:
      ValueError: there are more labels than tags, or a tag has no label.
    """

    name = "ram"

    def __init__(
        self,
        params: PyTree,
        config: RamConfig,
        version: str,
        tags: Sequence[str] | None = None,
    ):
        if config.tags > len(TAGS):
            raise ValueError(f"RAM has {len(TAGS)} tags, not {config.tags}")
        chosen = tag_indices(TAGS[: config.tags] if tags is None else tags)
        if missing := [TAGS[i] for i in chosen if i >= config.tags]:
            raise ValueError(f"these weights have no labels for {', '.join(missing)}")
        self.version = version
        self._size = config.trunk.image_size
        self._tags = [TAGS[index] for index in chosen]
        self._thresholds = ram_thresholds()[chosen]
        network = Ram(config)
        # The queries are the same for all images.
        variables = {"params": params}
        queries = network.apply(variables, method="label_queries")[chosen]

        @jax.jit
        def run(variables, image, queries):
            embeddings = network.apply(variables, image, method="embed_image")
            return network.apply(variables, embeddings, queries, method="classify")

        self._run = lambda image: run(variables, image, queries)

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> list[tuple[str, float]]:
        """Finds the tags of an image; see `base.Tagger`."""
        probabilities = self.probabilities(image)
        return best_first(
            (tag, float(probability))
            for tag, probability, threshold in zip(
                self._tags, probabilities, self._thresholds, strict=True
            )
            if probability > threshold
        )

    def probabilities(self, image: UInt8[np.ndarray, "H W 3"]) -> np.ndarray:
        """Computes the probability of each tag looked for, float32, in their order.

        Raises:
          ValueError: image is not uint8 (H, W, 3), or is empty.
        """
        check_image(image)
        square = resize(image, self._size, BILINEAR).astype(np.float32) / 255
        logits = self._run(((square - _MEAN) / _DEVIATION)[None])
        return np.asarray(jax.nn.sigmoid(logits))[0]

    @classmethod
    def load(cls, folder: Path, tags: Sequence[str] | None = None) -> "RamTagger":
        """Loads a folder made by `linearsr convert --from ram`.

        Args:
          folder: the folder.
          tags: tags to look for; by default all.

        Raises:
          TaggerError: a file is missing, damaged, or belongs to something else.
        """
        description = _read_description(folder / CONFIG_FILE)
        try:
            config = RamConfig.from_dict(description["tagger"]["sizes"])
            parts = [description["source"], *(["all"] if tags is None else tags)]
            version = digest(part.encode() for part in parts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TaggerError(f"{folder / CONFIG_FILE}: unusable: {error!r}") from error
        try:
            params = read_params(folder / WEIGHTS_FILE, parameter_shapes(config))
        except TensorFileError as error:
            raise TaggerError(str(error)) from error
        return cls(jax.device_put(params), config, version, tags)


def describe_tagger(config: RamConfig) -> dict[str, Any]:
    """Returns the description of the weights that config.json stores."""
    return {"name": RamTagger.name, "sizes": config.to_dict()}


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text("utf-8"))
        name = description["tagger"]["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        is_missing = isinstance(error, OSError) and error.strerror
        reason = error.strerror if is_missing else "describes no tagger"
        raise TaggerError(
            f"{path}: {reason}; make the folder with `linearsr convert --from ram`"
        ) from error
    if name != RamTagger.name:
        raise TaggerError(f"{path}: describes the tagger {name!r}, not ram")
    return description
