"""Finds the folders of a data set, and matches their images by name."""

from collections.abc import Sequence
from pathlib import Path

from linearsr_jax.core import image_io
from linearsr_jax.core.errors import LinearSRError


class EvaluationError(LinearSRError):
    """Raised for images that cannot be compared; one line that says what to do."""


def find_folders(data: Path) -> tuple[Path | None, Path]:
    """Finds the HR and LR folders inside the folder of a data set, by name.

    Names begin with HR or GT, and with LR, in upper or lower case (LR_bicubic_x4).

    Returns:
      The HR folder, or None where there is none (as in RealLR200), and the LR folder.

    Raises:
      EvaluationError: there is no LR folder, or there are two of one kind.
    """
    if not data.is_dir():
        raise EvaluationError(f"{data}: no such folder; it should contain HR and LR")
    folders = sorted(path for path in data.iterdir() if path.is_dir())

    def only(kind: str, prefixes: tuple[str, ...], allowed: tuple[int, ...]):
        found = [p for p in folders if p.name.lower().startswith(prefixes)]
        if len(found) not in allowed:
            raise EvaluationError(
                f"{data}: needs one folder of {kind} images named "
                f"{' or '.join(prefixes).upper()}..., found {len(found)}"
            )
        return found[0] if found else None

    return only("HR", ("hr", "gt"), (0, 1)), only("LR", ("lr",), (1,))


def match_images(folders: Sequence[Path]) -> list[dict[Path, Path]]:
    """Matches the images of several folders by name without suffix.

    The first folder sets the names and their order. Another folder may add the same
    ending to all of them, such as 0001x4.png or 0001_x4.png for 0001.

    Returns:
      For each image, its file in each folder, in the order given.

    Raises:
      EvaluationError: an image has no partner, or two have the same name. Silently
        dropped or shifted pairs are how wrong numbers get published.
      image_io.ImageError: a folder is missing or has no images.
    """
    files = {folder: _by_stem(folder) for folder in folders}
    first = folders[0]
    names = files[first].keys()
    shortest = min(map(len, names))
    for folder, by_stem in files.items():
        added = min(map(len, by_stem)) - shortest
        if added > 0 and len({stem[-added:] for stem in by_stem}) == 1:
            by_stem = {stem[:-added]: path for stem, path in by_stem.items()}
            files[folder] = by_stem
        lonely = sorted(names ^ by_stem.keys())
        if lonely:
            raise EvaluationError(
                f"{lonely[0]}: in only one of {first} and {folder} ({len(lonely)} "
                "such names); the folders must contain the same names"
            )
    return [{folder: files[folder][name] for folder in files} for name in names]


def _by_stem(folder: Path) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for path in image_io.find_images(folder):
        if path.stem in by_stem:
            raise EvaluationError(
                f"{path}: {by_stem[path.stem].name} has the same name; remove one of "
                "the two"
            )
        by_stem[path.stem] = path
    return by_stem
