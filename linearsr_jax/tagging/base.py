"""The interface of taggers, and the tagger that finds nothing."""

import hashlib
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from linearsr_jax.core.array_types import UInt8
from linearsr_jax.core.errors import LinearSRError


class TaggerError(LinearSRError):
    """Raised for a tagger that cannot be loaded; one line that says what to do."""


class Tagger(Protocol):
    """Finds tags for an image, and prefers silence to a wrong tag.

    Attributes:
      name: argument of `load_tagger` without the folder: "light", "ram" or "none".
      version: identifies the tagger; changes whenever the same image may get other
        tags.
    """

    name: str
    version: str

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> list[tuple[str, float]]:
        """Finds the tags of an image, best first.

        Args:
          image: RGB, upright, of any size.

        Returns:
          Distinct entries of `vocabulary.TAGS` with scores in [0, 1], which compare
          within an image only. Empty if the tagger is not sure of anything.

        Raises:
          ValueError: image is not uint8 (H, W, 3), or is empty.
        """
        ...


class NoTagger:
    """A tagger that finds nothing; see `Tagger`."""

    name = "none"
    version = "1"

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> list[tuple[str, float]]:
        """Checks the image and returns no tags; see `Tagger`."""
        check_image(image)
        return []


def check_image(image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Checks that an array is an image.

    Raises:
      ValueError: image is not uint8 (H, W, 3), or is empty.
    """
    shape = getattr(image, "shape", ())
    dtype = getattr(image, "dtype", type(image).__name__)
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(f"image must be uint8 (H, W, 3), got {dtype} {shape}")


def digest(parts: Iterable[bytes]) -> str:
    """Hashes the parts to twelve hexadecimal digits; for `Tagger.version`."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(hashlib.sha256(part).digest())
    return hasher.hexdigest()[:12]


def best_first(scores: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Sorts by descending score; equal scores keep their order."""
    return sorted(scores, key=lambda pair: -pair[1])
