"""Writes files whole or not at all, and checks them later by their SHA-256."""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
import threading
import time
from collections.abc import Generator, Iterable
from pathlib import Path

SUMS_FILE = "SHA256SUMS"
# Bounds of what is read from a folder that somebody else made. The largest expert
# there is has 6.4 GB.
_MAX_SUMS_BYTES, _MAX_BYTES = 1_000_000, 64_000_000_000


# Temporary files of this process that are being written, and the lock under which they
# are begun and finished.
_unfinished: set[Path] = set()
_lock = threading.RLock()
# Who writes a temporary file, so that others know whether it is abandoned.
_PART = re.compile(r"\.[0-9a-f]{16}-([0-9a-f]{8})-(\d+)\.part")
# After which a temporary file of another machine is taken to be abandoned.
_MAX_PART_SECONDS = 24 * 3600


@contextlib.contextmanager
def written_whole(path: Path) -> Generator[Path]:
    """Lets a block write a file or folder under a temporary name, then renames it.

    The temporary name is hidden and in the same folder. A file is synced to disk before
    it is renamed, so that a power cut leaves either the old file or the new one. If the
    block raises, what it wrote is removed and `path` stays as it was.

    Args:
      path: a file, which is replaced if it exists, or a folder, which must be missing
        or empty.

    Yields:
      The temporary path, at which nothing exists yet.

    Raises:
      OSError: the file or folder cannot be written.
    """
    # A short name, because that of the file may already have the maximal length.
    name = f".{secrets.token_hex(8)}-{_host()}-{os.getpid()}.part"
    temporary = path.parent / name
    with _lock:
        _unfinished.add(temporary)
    try:
        yield temporary
        if temporary.is_file():
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        with _lock:
            os.replace(temporary, path)
            _unfinished.discard(temporary)
    except BaseException:  # Ctrl-C too
        with _lock:
            _remove(temporary)
            _unfinished.discard(temporary)
        raise


def abandon_unfinished() -> None:
    """Removes what other threads are writing, right before the process ends itself.

    From now on they neither begin nor finish a file. One of them may still create what
    it began, so call this again at the very end.
    """
    _lock.acquire()
    for temporary in _unfinished:
        _remove(temporary)


def remove_abandoned(folder: Path) -> None:
    """Removes temporary files in a folder whose writers were killed.

    Those of processes that run are left alone, and for a day those of other machines.
    """
    # The folder may be missing, and others may clean it at the same time.
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if (match := _PART.fullmatch(path.name)) and _is_abandoned(
                path, *match.groups()
            ):
                _remove(path)


def _is_abandoned(path: Path, host: str, process: str) -> bool:
    if host != _host():
        return time.time() - path.stat().st_mtime > _MAX_PART_SECONDS
    if int(process) == os.getpid():
        return path not in _unfinished
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _remove(temporary: Path) -> None:
    # The parent itself may be missing, or be a file.
    with contextlib.suppress(OSError):
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file, whole or not at all; see `written_whole`."""
    with written_whole(path) as temporary:
        # Keep the caller's line ends; those of a CSV file are CR LF.
        temporary.write_text(text, encoding="utf-8", newline="")


def sha256(path: Path) -> str:
    """Computes the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Writes SHA256SUMS for some files of a folder, in the format of `sha256sum`."""
    sums = [f"{sha256(folder / name)}  {name}\n" for name in names]
    (folder / SUMS_FILE).write_text("".join(sums))


def check_sums(folder: Path) -> dict[str, str]:
    """Checks the files of a folder against its SHA256SUMS.

    The folder may come from anywhere: only regular files directly in it are read, or
    links to such files, and none that is absurdly large.

    Returns:
      The checksums by the names of the files; at least one.

    Raises:
      ValueError: there is no such list, it is damaged, or a file is missing, no regular
        file or does not match its checksum.
    """
    sums = {}
    try:
        text = read_bounded(folder / SUMS_FILE, _MAX_SUMS_BYTES).decode("utf-8")
        for line in text.splitlines():
            expected, _, name = line.partition("  ")
            if not _is_plain_name(name):
                raise ValueError(
                    f"{folder / SUMS_FILE}: {line!r:.80} names no file of this folder"
                )
            _check_regular(folder / name, _MAX_BYTES)
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
    except UnicodeDecodeError as error:
        raise ValueError(f"{folder / SUMS_FILE}: is not text") from error
    if not sums:
        raise ValueError(f"{folder / SUMS_FILE}: lists no files; copy it again")
    return sums


def read_bounded(path: Path, limit: int) -> bytes:
    """Reads a whole file of at most so many bytes.

    Raises:
      OSError: it cannot be read.
      ValueError: it is a pipe, device or folder, or larger.
    """
    _check_regular(path, limit)
    return path.read_bytes()


def _check_regular(path: Path, limit: int) -> None:
    # Before it is opened: opening a pipe waits, and a device never ends.
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: is not a regular file")
    if status.st_size > limit:
        raise ValueError(
            f"{path}: has {status.st_size:,} bytes, more than the limit of {limit:,}"
        )


def _is_plain_name(name: str) -> bool:
    return (
        name not in ("", ".", "..")
        and name.isprintable()
        and not set(name) & set("/\\:")
    )
