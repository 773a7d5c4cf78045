"""Holds photographs out of training, always the same ones."""

import dataclasses
import hashlib

from linearsr_jax.data.manifest import Manifest


def split_manifest(
    manifest: Manifest, share: float, min_size: int
) -> tuple[Manifest, Manifest]:
    """Splits the photographs into those to train on and those held out.

    The choice depends only on the SHA-256 of the file names, which has nothing to do
    with what the photographs show, so it is the same on every machine.

    Args:
      manifest: at least two photographs.
      share: share of the photographs to hold out, in (0, 1). At least one is held
        out, and at least one is kept.
      min_size: smallest width and height of a held-out photograph, in pixels.

    Returns:
      (kept, held_out), each in the manifest's order.

    Raises:
      ValueError: share is out of range, or there are too few photographs.
    """
    if not 0 < share < 1:
        raise ValueError(f"val.holdout must be between 0 and 1, got {share}")
    count = len(manifest)
    large = [i for i in range(count) if min(manifest.sizes[i]) >= min_size]
    if count < 2 or not large:
        raise ValueError(
            "val.holdout needs at least 2 usable photographs, one of them with "
            f"{min_size} pixels or more on each side; there are {count} and "
            f"{len(large)}"
        )
    large.sort(key=lambda i: hashlib.sha256(manifest.files[i].encode()).digest())
    held_out = set(large[: min(max(1, round(share * count)), count - 1)])

    def part(indices):
        return dataclasses.replace(
            manifest,
            files=tuple(manifest.files[i] for i in indices),
            sizes=tuple(manifest.sizes[i] for i in indices),
        )

    return (
        part([i for i in range(count) if i not in held_out]),
        part(sorted(held_out)),
    )
