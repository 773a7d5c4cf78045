"""Which image becomes which file: all of it is decided before anything is computed.

The same inputs give the same plan, so that a batch that was stopped goes on where it
stopped, and that several processes can share it.
"""

import errno
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from linearsr_jax.core import image_io
from linearsr_jax.core.image_formats import (
    IMAGE_SUFFIXES,
    ImageError,
    format_of,
    output_suffix,
)
from linearsr_jax.inference.batch_inputs import (
    STREAM,
    Failure,
    Found,
    PlanError,
    Search,
    Skip,
    identity,
    is_same,
)
from linearsr_jax.inference.manifest import is_manifest, is_map, is_result, sidecar_of


@dataclass(frozen=True)
class Job:
    """One image to do.

    Attributes:
      source: the input; None is standard input.
      target: the output; None is standard output.
      uncertainty: the map of uncertainty that goes with it; None for none.
    """

    source: Path | None
    target: Path | None
    uncertainty: Path | None = None


@dataclass(frozen=True)
class Plan:
    """The work of a batch, decided before it begins.

    Attributes:
      jobs: images to do, each with an output of its own.
      skipped: files that are left out on purpose, such as outputs that exist.
      failures: inputs that cannot be done.
      places: the folders of all outputs, also of those that exist.
    """

    jobs: tuple[Job, ...]
    skipped: tuple[Skip, ...]
    failures: tuple[Failure, ...]
    places: frozenset[Path]


@dataclass(frozen=True)
class Naming:
    """The names of outputs in a folder.

    Attributes:
      suffix: text after the input's name, before the format's suffix.
      image_suffix: suffix of the format, with its dot; None is the input's own, or
        .png if that is not written.
      has_map: whether each output has a map of uncertainty beside it.
    """

    suffix: str = ""
    image_suffix: str | None = None
    has_map: bool = False

    def name(self, source: Path | None, more: str = "") -> str:
        """Returns the output's name, with `more` before the format's suffix."""
        path = source or Path("stdin.png")
        return path.stem + more + self.suffix + self._image_suffix(path)

    def map_of(self, target: Path | None) -> Path | None:
        """Returns the map of an output; None if it has none."""
        if target is None or not self.has_map:
            return None
        return target.with_name(f"{target.stem}_uncertainty.png")

    def _image_suffix(self, path: Path) -> str:
        return self.image_suffix or output_suffix(path)


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
      PlanError: no or too many inputs for this output, an output that is an input, or
        of a format that is not written.
    """
    _check_names(inputs, output, naming)
    search = Search(Path(output), recursive, may_share=bool(naming.suffix))
    skipped, failures = search.skipped, search.failures
    if output == STREAM or _is_file_output(inputs, output):
        if len(inputs) > 1 or (inputs[0] != STREAM and Path(inputs[0]).is_dir()):
            raise PlanError(
                f"-o {output}: takes one image; give a folder, without the suffix"
                if output != STREAM
                else "-o -: standard output takes one image; give a folder"
            )
        folder = None
        target = None if output == STREAM else Path(output)
        if target and target.suffix.lower() not in IMAGE_SUFFIXES:
            raise PlanError(
                f"-o {target}: cannot write {target.suffix}; use one of "
                f"{' '.join(IMAGE_SUFFIXES)}"
            )
        source = None if inputs[0] == STREAM else Path(inputs[0])
        planned = [Job(source, target, naming.map_of(target))]
        own = {identity(source)} if source else set()
    else:
        folder = Path(output)
        if os.path.lexists(folder) and not folder.is_dir():
            raise PlanError(
                f"{output}: is a file without an image's suffix; name a folder, or one "
                "image's output such as x.png"
            )
        found = [x for given in dict.fromkeys(inputs) for x in search.find(given)]
        images = _without_repetition(found)
        named = _outputs_by_name(images, folder, naming)
        results = {x for x in images if _is_result(x, folder, has_name=x in named)}
        own = {identity(x.source) for x in images if x.source and x not in results}
        for image in images:
            if image in results | named:
                reason = "is an output; name the file itself to enlarge it"
                skipped.append(Skip(str(image.source), reason))
        planned = _name([x for x in images if x not in results | named], folder, naming)
    first, count = shard
    jobs = []
    for job in planned[first - 1 :: count]:
        name, target = str(job.source or STREAM), str(job.target or STREAM)
        exists = not overwrite and job.target and os.path.lexists(job.target)
        if exists and (folder or skip_existing) and not _is_own(job):
            skipped.append(Skip(name, "the output exists"))
        elif reason := _refuse(job, own, overwrite):
            failures.append(Failure(name, target, reason))
        elif exists:
            reason = "exists; --overwrite replaces it, --skip-existing leaves it"
            failures.append(Failure(name, target, f"{target} {reason}"))
        else:
            jobs.append(job)
    places = frozenset(job.target.parent for job in planned if job.target)
    return Plan(tuple(jobs), tuple(skipped), tuple(failures), places)


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
    is_single = len(inputs) == 1 and (inputs[0] == STREAM or Path(inputs[0]).is_file())
    return is_single or path.suffix.lower() in IMAGE_SUFFIXES


def _without_repetition(found: Sequence[Found]) -> list[Found]:
    """Returns each image once, as named if it is both named and found in a folder."""
    unique: dict[str | None, Found] = {}
    for image in found:
        path = os.path.abspath(image.source) if image.source else None
        if path not in unique or (image.is_named and not unique[path].is_named):
            unique[path] = image
    return list(unique.values())


def _outputs_by_name(
    images: Sequence[Found], folder: Path, naming: Naming
) -> set[Found]:
    """Finds the images that have the name of another's output, with --suffix."""
    if not naming.suffix:
        return set()
    names = {
        os.path.abspath(folder / image.place / naming.name(image.source))
        for image in images
    }
    return {x for x in images if x.source and os.path.abspath(x.source) in names}


def _is_result(image: Found, folder: Path, *, has_name: bool) -> bool:
    """Tells whether an image in the folder of its output was made by another run.

    One that the user names is to be enlarged, unless a shell has found it together
    with its input.
    """
    return (
        image.source is not None
        and (has_name or not image.is_named)
        and is_same(image.source.parent, folder / image.place)
        and is_result(image.source)
    )


def _is_own(job: Job) -> bool:
    """Tells whether an output would be its own input."""
    return bool(job.source and job.target) and is_same(job.source, job.target)


def _name(images: Sequence[Found], folder: Path, naming: Naming) -> list[Job]:
    """Gives each image an output of its own, in order."""
    wanted = Counter(key for image in images for key in _keys(image, naming))
    jobs, taken = [], set()
    for image in images:
        is_needed = any(wanted[key] > 1 for key in _keys(image, naming))
        for more in _distinctions(image.source, is_needed=is_needed):
            if taken.isdisjoint(keys := _keys(image, naming, more)):
                break
        taken.update(keys)
        target = folder / image.place / naming.name(image.source, more)
        jobs.append(Job(image.source, target, naming.map_of(target)))
    return jobs


def _keys(image: Found, naming: Naming, more: str = "") -> list[str]:
    """Returns what an output and its map must not share with others."""
    target = image.place / naming.name(image.source, more)
    # Some file systems know no capitals.
    return [str(x).casefold() for x in (target, naming.map_of(target)) if x]


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


def _refuse(job: Job, inputs: set, overwrite: bool) -> str | None:
    """Returns why a job cannot be done, as far as that shows before computing."""
    if job.source and not os.path.exists(job.source):
        return "no such file or folder; check the name"
    if job.target is None:
        return None
    for path in filter(None, (job.target, job.uncertainty)):
        if os.path.lexists(path) and identity(path) in inputs:
            return f"{path} is an input itself, and never replaced; name another"
    try:
        image_io.check_output(job.target, overwrite=True)
        _check_writable(job.target.parent)
        if not overwrite:
            _check_beside(job)
    except ImageError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None


def _check_beside(job: Job) -> None:
    """Checks that what goes beside an output replaces nothing but an earlier one.

    Raises:
      ImageError: it would.
    """
    assert job.target is not None
    sidecar = sidecar_of(job.target)
    if not format_of(job.target).has_metadata and not is_manifest(sidecar):
        image_io.check_output_is_free(sidecar)
    if job.uncertainty and not is_map(job.uncertainty):
        image_io.check_output_is_free(job.uncertainty)


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
