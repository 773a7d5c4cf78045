"""Files that are written whole or not at all, and SHA-256 sums that say so later."""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

SUMS_FILE = "SHA256SUMS"


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Lets a block write a file or folder under another name, and then renames it.

    The temporary name is hidden and in the same folder. A file is synced to the disk
    before it gets its name, so that a power cut leaves the old file or the new one.
    When the block raises, what it wrote is removed and `path` is as it was.

    Args:
      path: a file, replaced if it exists, or a folder, which must be missing or empty.

    Yields:
      The temporary path; nothing is there yet.

    Raises:
      OSError: it cannot be written.
    """
    # Short: the file's own name may already be as long as names get.
    temporary = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        yield temporary
        if temporary.is_file():
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too
        # What cannot be written may be the folder around it: missing, or a file.
        with contextlib.suppress(OSError):
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file, whole or not at all; see `written_whole`."""
    with written_whole(path) as temporary:
        # Line ends are the caller's: a CSV file's are CR LF.
        temporary.write_text(text, encoding="utf-8", newline="")


def sha256(path: Path) -> str:
    """Returns a file's SHA-256, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Writes the sums of these files of a folder, as `sha256sum` prints them."""
    sums = [f"{sha256(folder / name)}  {name}\n" for name in names]
    (folder / SUMS_FILE).write_text("".join(sums))


def check_sums(folder: Path) -> dict[str, str]:
    """Compares a folder's files with their sums.

    Returns:
      The sums of the files that are in it and whole, by name.

    Raises:
      ValueError: a file is missing, or its contents are not those of the sum.
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
