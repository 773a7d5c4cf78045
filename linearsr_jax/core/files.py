"""SHA256SUMS: a folder says what its files must be, in the form of sha256sum."""

from collections.abc import Iterable
from pathlib import Path

from linearsr_jax.core.tensor_files import sha256

SUMS_FILE = "SHA256SUMS"


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Writes the sums of these files of a folder."""
    sums = [f"{sha256(folder / name)}  {name}\n" for name in names]
    (folder / SUMS_FILE).write_text("".join(sums))


def check_sums(folder: Path) -> dict[str, str]:
    """Compares a folder's files with their sums.

    Returns:
      The sums of the files that are in it and whole, by name.

    Raises:
      ValueError: a file is missing or another one.
    """
    sums = {}
    try:
        for line in (folder / SUMS_FILE).read_text().splitlines():
            expected, _, name = line.partition("  ")
            if sha256(folder / name) != expected:
                raise ValueError(
                    f"{folder / name}: does not match {SUMS_FILE}; copy the folder "
                    "again"
                )
            sums[name] = expected
    except OSError as error:
        raise ValueError(
            f"{folder}: incomplete, {error.filename}: {error.strerror}"
        ) from error
    return sums
