"""Which images the inputs of a batch stand for: files, folders, patterns, streams."""

import glob
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from linearsr_jax.core.errors import LinearSRError
from linearsr_jax.core.image_formats import READ_SUFFIXES

# Stands for standard input and output.
STREAM = "-"


@dataclass(frozen=True)
class Failure:
    """An image that was not upscaled.

    Attributes:
      input: the input's name, "-" for standard input.
      output: the output's; None if it was not decided.
      error: what went wrong; one line.
    """

    input: str
    output: str | None
    error: str


@dataclass(frozen=True)
class Skip:
    """A file that is left out on purpose, and why; one line."""

    input: str
    reason: str


class PlanError(LinearSRError, ValueError):
    """Inputs and output that do not go together; one line."""


@dataclass(frozen=True)
class Found:
    """An image that was found.

    Attributes:
      source: its file; None is standard input.
      place: its folder below the input that it was found in.
      is_named: whether the user named the file itself.
    """

    source: Path | None
    place: Path
    is_named: bool = False


@dataclass
class Search:
    """A search for images, which notes what else there is.

    Attributes:
      output: the folder of the outputs, in which nothing is searched.
      recursive: whether folders inside folders are searched.
      may_share: whether the output's folder may be that of the inputs.
      skipped, failures: what is left out, and what cannot be done.
    """

    output: Path
    recursive: bool
    may_share: bool
    skipped: list[Skip] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def find(self, given: str) -> list[Found]:
        """Returns the images that an input stands for, in order.

        Raises:
          PlanError: the output's folder is that of the inputs, and may not be.
        """
        if given == STREAM:
            return [Found(None, Path(), is_named=True)]
        path = Path(given)
        if path.is_dir():
            self._check_shared(path)
            found = self._search(path)
        elif os.path.lexists(path):
            return [Found(path, Path(), is_named=True)]
        elif glob.has_magic(given):
            found = self._match(given)
        else:
            self._fail(given, "no such file or folder; check the name")
            return []
        if not found:
            reason = "no images in this folder; name another, or add --recursive"
            if not path.is_dir():
                reason = "matches no image"
            elif self.recursive:
                reason = "no images in or below this folder; name another"
            self._fail(given, reason)
        return found

    def _check_shared(self, folder: Path) -> None:
        if is_same(folder, self.output) and not self.may_share:
            raise PlanError(
                f"-o {self.output}: is the folder of the inputs; name another, or "
                "give --suffix _x4"
            )

    def _fail(self, given: str, reason: str) -> None:
        self.failures.append(Failure(given, None, reason))

    def _skip(self, path: Path, reason: str) -> None:
        self.skipped.append(Skip(str(path), reason))

    def _match(self, pattern: str) -> list[Found]:
        """Returns the images of a pattern, except those in the output's folder.

        They keep their place below the folders that have no wildcard. As in a folder,
        hidden files are not seen, and links to folders not followed.
        """
        parts = Path(pattern).parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        root, wanted = Path(*parts[:fixed]), [_as_pathlib(x) for x in parts[fixed:]]
        if wanted[-1] == "**":
            wanted.append("*")
        # Not glob.glob, whose "**" follows links, also those to where they lie.
        found = []
        for match in sorted(set(root.glob("/".join(wanted)))):
            inside = match.relative_to(root)
            is_hidden = any(part.startswith(".") for part in _unnamed(inside, wanted))
            folders = [root / each for each in inside.parents if each != Path()]
            if is_hidden or match.is_dir() or any(x.is_symlink() for x in folders):
                continue
            if any(is_same(folder, self.output) for folder in folders):
                continue
            if match.suffix.lower() in READ_SUFFIXES:
                self._check_shared(match.parent)
                found.append(Found(match, inside.parent))
            else:
                self._skip(match, "is no image by its suffix")
        return found

    def _search(self, root: Path) -> list[Found]:
        """Returns the images of a folder, except those in the output's folder.

        Hidden files and folders are not seen, and links to folders not followed.
        """
        found = []

        def note(error: OSError) -> None:
            self._fail(str(error.filename), error.strerror or str(error))

        for place, folders, names in os.walk(root, onerror=note):
            here = Path(place)
            kept = [name for name in sorted(folders) if not name.startswith(".")]
            for name in [name for name in kept if is_same(here / name, self.output)]:
                self._skip(here / name, "is the output's folder")
                kept.remove(name)
            folders[:] = kept if self.recursive else []
            for name in sorted(names):
                path = here / name
                if name.startswith("."):
                    continue
                if path.suffix.lower() in READ_SUFFIXES:
                    found.append(Found(path, here.relative_to(root)))
                else:
                    self._skip(path, "is no image by its suffix")
        return found


def _as_pathlib(part: str) -> str:
    """Turns "a**b", which pathlib refuses, into what a shell takes it for."""
    return part if part == "**" else re.sub(r"\*\*+", "*", part)


def _unnamed(inside: Path, wanted: list[str]) -> list[str]:
    """Returns the parts of a path that a pattern does not name with their dot.

    What "**" stands for is never hidden. Behind it parts count from the end.
    """
    parts, split = inside.parts, wanted.index("**") if "**" in wanted else len(wanted)
    last = wanted[::-1].index("**") if "**" in wanted else 0
    named = [*wanted[:split], *["*"] * (len(parts) - split - last)]
    named += wanted[len(wanted) - last :] if last else []
    return [
        part
        for part, pattern in zip(parts, named, strict=True)
        if not pattern.startswith(".")
    ]


def identity(path: Path) -> object:
    """Returns what two names of one file have in common."""
    try:
        status = path.stat()
    except OSError:
        return os.path.abspath(path)
    return status.st_dev, status.st_ino


def is_same(one: Path, other: Path) -> bool:
    """Tells whether two names are of one file."""
    return identity(one) == identity(other)
