"""Fixes the list of photographs that a training run uses, before its first step.

The list is stored with the checkpoint, so that sample i means the same photograph
after a restart, whatever has been added since. It contains names and sizes only, so a
run may continue from another form of the same photographs.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The usable photographs, and why the others are not usable.

    Attributes:
      files: names, sorted: paths relative to the folder that the photographs are in,
        or were in before they were packed, with forward slashes.
      sizes: (width, height) of each in pixels, after EXIF orientation.
      rejected: reason for each candidate that is not in `files`.
    """

    files: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    rejected: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if len(self.files) != len(self.sizes):
            raise ValueError(
                f"Manifest: {len(self.files)} files but {len(self.sizes)} sizes."
            )

    def __len__(self) -> int:
        return len(self.files)

    def to_json(self) -> dict[str, Any]:
        """Converts to lists, strings and numbers that JSON can store."""
        return {
            "files": list(self.files),
            "sizes": [list(size) for size in self.sizes],
            "rejected": dict(self.rejected),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Manifest":
        """Inverts `to_json`.

        Raises:
          ValueError: data has another form.
        """
        try:
            return cls(
                files=tuple(str(name) for name in data["files"]),
                sizes=tuple((int(w), int(h)) for w, h in data["sizes"]),
                rejected={str(k): str(v) for k, v in data["rejected"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                "Not a manifest: expected a dict with files, sizes and rejected "
                f"({type(error).__name__}: {error})."
            ) from error


def describe(error: Exception) -> str:
    """Puts what reading a photograph's bytes raised in words, on one line."""
    if isinstance(error, FileNotFoundError):
        return "file not found"
    if isinstance(error, PermissionError):
        return "no permission to read the file"
    return " ".join(str(error).split())


def make_manifest(
    location: str, found: Mapping[str, tuple[int, int] | str], min_size: int
) -> Manifest:
    """Divides what was found into usable and rejected.

    Args:
      location: where the photographs are, for error messages.
      found: for each name, (width, height) in pixels or the reason why it is unusable.
      min_size: smallest accepted width and height in pixels.

    Raises:
      ValueError: no photograph is usable.
    """
    usable, rejected = {}, {}
    for name, size in sorted(found.items()):
        if isinstance(size, str):
            rejected[name] = size
        elif min(size) < min_size:
            rejected[name] = (
                f"too small: {size[0]}x{size[1]}, needs {min_size} pixels on each side"
            )
        else:
            usable[name] = tuple(size)
    if not usable:
        name, reason = next(iter(rejected.items()), ("none", "it is empty"))
        raise ValueError(
            f"{location}: none of its {len(rejected)} image files can be used; "
            f"the first, {name}: {reason}. Add images or lower the crop size."
        )
    return Manifest(tuple(usable), tuple(usable.values()), rejected)
