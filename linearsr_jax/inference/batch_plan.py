"""Which image becomes which file: all of it is decided before anything is computed.

The same inputs give the same plan, so that a batch that was stopped goes on where it
stopped, and that several processes can share it.
"""

import errno
import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from linearsr_jax.core import image_io
from linearsr_jax.core.image_formats import IMAGE_SUFFIXES, ImageError, output_suffix

# Stands for standard input and output.
STREAM = "-"


@dataclass(frozen=True)
class Job:
    """One image to do.

    Attributes:
      source: the input; None is standard input.
      target: the output; None is standard output.
    """

    source: Path | None
    target: Path | None


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


@dataclass(frozen=True)
class Plan:
    """The work of a batch, decided before it begins.

    Attributes:
      jobs: images to do, each with an output of its own.
      skipped: files that are left out on purpose, such as outputs that exist.
      failures: inputs that cannot be done.
      folder: where outputs go; None for a file or standard output.
    """

    jobs: tuple[Job, ...]
    skipped: tuple[Skip, ...]
    failures: tuple[Failure, ...]
    folder: Path | None


class PlanError(ValueError):
    """Inputs and output that do not go together; one line."""


@dataclass(frozen=True)
class Naming:
    """The names of outputs in a folder.

    Attributes:
      suffix: text after the input's name, before the format's suffix.
      image_suffix: suffix of the format, with its dot; None is the input's own, or
        .png if that is not written.
    """

    suffix: str = ""
    image_suffix: str | None = None

    def name(self, source: Path | None, more: str = "") -> str:
        """Returns the output's name, with `more` before the format's suffix."""
        path = source or Path("stdin.png")
        return path.stem + more + self.suffix + self._image_suffix(path)

    def _image_suffix(self, path: Path) -> str:
        return self.image_suffix or output_suffix(path)


@dataclass(frozen=True)
class _Found:
    """An image that was found, and its folder below the input that it was found in."""

    source: Path | None
    place: Path


def make_plan(
    inputs: Sequence[str],
    output: str,
    *,
    recursive: bool = False,
    naming: Naming = Naming(),
    overwrite: bool = False,
    skip_existing: bool = False,
    shard: tuple[int, int] = (1, 1),
) -> Plan:
    """Decides what a batch will do.

    One image goes to `output` itself if that has a suffix. Otherwise output is a
    folder, made if missing, which gets a file for each image; images found in a
    folder's folders keep their place below it. Where two would become the same file,
    the names of both keep the input's suffix, and if that does not help, a number
    follows. Existing files in a folder are left as they are and their images skipped,
    unless `overwrite` is set.

    Args:
      inputs: files, folders, patterns such as "in/**/*.jpg", or "-".
      output: file, folder or "-".
      recursive: whether folders inside folders are searched.
      naming: how outputs in a folder are named.
      overwrite: whether outputs may replace existing files.
      skip_existing: whether an existing `output` that is a file is skipped, too.
      shard: (i, n): every n-th image from the i-th on, 1 <= i <= n.

    Raises:
      PlanError: no or too many inputs for this output, or an output that is an input.
    """
    _check_names(inputs, output, naming)
    skipped: list[Skip] = []
    failures: list[Failure] = []
    if output == STREAM or _is_file_output(inputs, output):
        if len(inputs) > 1 or (inputs[0] != STREAM and Path(inputs[0]).is_dir()):
            raise PlanError(
                f"-o {output}: takes one image; give a folder, without the suffix"
                if output != STREAM
                else "-o -: standard output takes one image; give a folder"
            )
        folder = None
        target = None if output == STREAM else Path(output)
        source = None if inputs[0] == STREAM else Path(inputs[0])
        planned = [Job(source, target)]
    else:
        folder = Path(output)
        if os.path.lexists(folder) and not folder.is_dir():
            raise PlanError(f"{output}: is a file; several images need a folder")
        found = []
        for given in dict.fromkeys(inputs):
            found += _find(given, recursive, folder, naming, skipped, failures)
        planned = _name(found, folder, naming, skipped)
    first, count = shard
    own = {_identity(job.source) for job in planned if job.source}
    jobs = []
    for job in planned[first - 1 :: count]:
        name, target = str(job.source or STREAM), str(job.target or STREAM)
        if reason := _refuse(job, own):
            failures.append(Failure(name, target, reason))
        elif overwrite or not job.target or not os.path.lexists(job.target):
            jobs.append(job)
        elif folder or skip_existing:
            skipped.append(Skip(name, "the output exists"))
        else:
            reason = "exists; --overwrite replaces it, --skip-existing leaves it"
            failures.append(Failure(name, target, f"{target} {reason}"))
    return Plan(tuple(jobs), tuple(skipped), tuple(failures), folder)


def _check_names(inputs: Sequence[str], output: str, naming: Naming) -> None:
    if "" in inputs or not output:
        raise PlanError('"" is no name; for the working directory give .')
    if inputs.count(STREAM) > 1:
        raise PlanError("- stands for standard input, which can be read once")
    if set(naming.suffix) & {"/", "\\", "\0"}:
        raise PlanError(f"--suffix {naming.suffix}: must not name a folder")


def _is_file_output(inputs: Sequence[str], output: str) -> bool:
    path = Path(output)
    if path.is_dir() or output.endswith(("/", os.sep)) or not path.suffix:
        return False
    # A folder may have a dot in its name, but not look like an image.
    is_single = len(inputs) == 1 and not Path(inputs[0]).is_dir()
    return is_single or path.suffix.lower() in IMAGE_SUFFIXES


def _find(
    given: str,
    recursive: bool,
    folder: Path,
    naming: Naming,
    skipped: list[Skip],
    failures: list[Failure],
) -> list[_Found]:
    """Returns the images that an input stands for; notes what else there is."""
    if given == STREAM:
        return [_Found(None, Path())]
    path = Path(given)
    if path.is_dir():
        if _is_same(path, folder) and not naming.suffix:
            raise PlanError(
                f"-o {folder}: is the folder of the inputs; name another, or give "
                "--suffix _x4"
            )
        found = _search(path, recursive, folder, skipped, failures)
    elif os.path.lexists(path):
        return [_Found(path, Path())]
    elif glob.has_magic(given):
        found = _match(given, folder, skipped)
    else:
        failures.append(Failure(given, None, "no such file or folder; check the name"))
        return []
    if not found:
        where = "in or below" if recursive else "in"
        reason = (
            f"no images {where} this folder; name another, or add --recursive"
            if path.is_dir()
            else "matches no image"
        )
        failures.append(Failure(given, None, reason))
    return found


def _match(pattern: str, output: Path, skipped: list[Skip]) -> list[_Found]:
    """Returns the images of a pattern in order, except those in the output's folder.

    They keep their place below the folders that have no wildcard.
    """
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    found = []
    for match in map(Path, sorted(glob.iglob(pattern, recursive=True))):
        if match.is_dir() or _is_below(match, output, root):
            continue
        if match.suffix.lower() in IMAGE_SUFFIXES:
            found.append(_Found(match, match.relative_to(root).parent))
        else:
            skipped.append(Skip(str(match), "is no image by its suffix"))
    return found


def _is_below(path: Path, folder: Path, root: Path) -> bool:
    """Tells whether a path below root is in a folder that is itself below root."""
    above = path.relative_to(root).parents
    return any(_is_same(root / each, folder) for each in above if each != Path())


def _search(
    root: Path,
    recursive: bool,
    output: Path,
    skipped: list[Skip],
    failures: list[Failure],
) -> list[_Found]:
    """Returns the images of a folder in order; hidden files and folders are not seen.

    Links to folders are not followed. The output's folder is left out.
    """
    found = []

    def note(error: OSError) -> None:
        reason = error.strerror or str(error)
        failures.append(Failure(str(error.filename), None, reason))

    for place, folders, names in os.walk(root, onerror=note):
        here = Path(place)
        kept = [name for name in sorted(folders) if not name.startswith(".")]
        for name in [name for name in kept if _is_same(here / name, output)]:
            skipped.append(Skip(str(here / name), "is the output's folder"))
            kept.remove(name)
        folders[:] = kept if recursive else []
        for name in sorted(names):
            path = here / name
            if name.startswith("."):
                continue
            if path.suffix.lower() in IMAGE_SUFFIXES:
                found.append(_Found(path, here.relative_to(root)))
            else:
                skipped.append(Skip(str(path), "is no image by its suffix"))
    return found


def _name(
    found: Sequence[_Found], folder: Path, naming: Naming, skipped: list[Skip]
) -> list[Job]:
    """Gives each image an output of its own, in order of the inputs."""
    unique = {os.path.abspath(f.source) if f.source else None: f for f in found[::-1]}
    images = [f for f in dict.fromkeys(found) if f in set(unique.values())]
    # In the folder of the inputs, what the last run wrote is no image to enlarge.
    written = set()
    if naming.suffix:
        written = {
            os.path.abspath(folder / f.place / naming.name(f.source)) for f in images
        }
    kept = []
    for image in images:
        if image.source and os.path.abspath(image.source) in written:
            skipped.append(Skip(str(image.source), "is an output of this command"))
        else:
            kept.append(image)
    # Some file systems know no capitals.
    wanted = Counter(_key(image, naming) for image in kept)
    jobs, taken = [], set()
    for image in kept:
        for more in _distinctions(
            image.source, is_needed=wanted[_key(image, naming)] > 1
        ):
            if (key := _key(image, naming, more)) not in taken:
                break
        taken.add(key)
        name = naming.name(image.source, more)
        jobs.append(Job(image.source, folder / image.place / name))
    return jobs


def _key(image: _Found, naming: Naming, more: str = "") -> str:
    return str(image.place / naming.name(image.source, more)).casefold()


def _distinctions(source: Path | None, *, is_needed: bool) -> Iterator[str]:
    """Yields what may follow an output's name, until one is free."""
    if not is_needed:
        yield ""
    if source and source.suffix:
        yield f"_{source.suffix[1:].lower()}"
    number = 2
    while True:
        yield f"_{number}"
        number += 1


def _refuse(job: Job, inputs: set) -> str | None:
    """Returns why a job cannot be done, as far as that shows before computing."""
    if job.source and not os.path.exists(job.source):
        return "no such file or folder; check the name"
    if job.target is None:
        return None
    if os.path.lexists(job.target) and _identity(job.target) in inputs:
        return f"{job.target} is an input itself, and never replaced; name another"
    try:
        image_io.check_output(job.target, overwrite=True)
    except ImageError as error:
        return str(error)
    try:
        _check_writable(job.target.parent)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None


def _check_writable(folder: Path) -> None:
    """Looks for the closest folder that exists.

    Raises:
      OSError: it is a file, or may not be written to.
    """
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _identity(path: Path) -> object:
    """Returns what two names of one file have in common."""
    try:
        status = path.stat()
    except OSError:
        return os.path.abspath(path)
    return status.st_dev, status.st_ino


def _is_same(one: Path, other: Path) -> bool:
    return _identity(one) == _identity(other)
