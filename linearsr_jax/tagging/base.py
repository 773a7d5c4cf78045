"""What a tagger is, and the one that says nothing."""

import hashlib
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from linearsr_jax.core.array_types import UInt8


class TaggerError(Exception):
    """A tagger that cannot be loaded; one line, says what to do."""


class Tagger(Protocol):
    """Says what an image shows, and rather nothing than something wrong.

    Attributes:
      name: what `load_tagger` made it from, less the folder: "light", "ram", "none".
      version: changes whenever the same image may get other tags.
    """

    name: str
    version: str

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> list[tuple[str, float]]:
        """Tags of an image, the best first.

        Args:
          image: RGB, upright, of any size.

        Returns:
          Entries of `vocabulary.TAGS`, each once, with scores in [0, 1] that compare
          within an image. Empty where the tagger is not sure of anything.

        Raises:
          ValueError: not such an array.
        """
        ...


class NoTagger:
    """Gives no tags; see `Tagger`."""

    name = "none"
    version = "1"

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> list[tuple[str, float]]:
        """See `Tagger`."""
        check_image(image)
        return []


def check_image(image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Refuses what is no image.

    Raises:
      ValueError: not uint8 (H, W, 3), or empty.
    """
    shape = getattr(image, "shape", None)
    dtype = getattr(image, "dtype", type(image).__name__)
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(f"image must be uint8 (H, W, 3), got {dtype} {shape}")


def digest(parts: Iterable[bytes]) -> str:
    """Twelve digits that tell one set of files from another; for versions."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(hashlib.sha256(part).digest())
    return hasher.hexdigest()[:12]


def best_first(scores: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Sorts by falling score; equal scores keep their order."""
    return sorted(scores, key=lambda pair: -pair[1])
