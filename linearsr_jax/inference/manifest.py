"""How an output was made: enough to make the same bytes again.

The manifest of an output is in its file, or beside it where the file has no room.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from linearsr_jax.core.errors import LinearSRError
from linearsr_jax.core.image_formats import ImageError
from linearsr_jax.core.image_io import read_comment
from linearsr_jax.core.version import __version__

_FORMAT = 1
# The setting that only the manifest of a map of uncertainty has: its number of seeds.
MAP_SETTING = "uncertainty"
# What reading anyone's JSON raises; it may also be nested without end.
_OF_ANY_TEXT = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def sidecar_of(path: Path) -> Path:
    """Returns the file beside an output that has no room for its manifest."""
    return path.with_name(f"{path.name}.json")


class ManifestError(LinearSRError, ValueError):
    """A manifest that is missing or cannot be read; one line."""


@dataclass(frozen=True)
class Manifest:
    """A record of one output, written into its file.

    Attributes:
      model: name of the model.
      model_sha256: of the model folder's SHA256SUMS, and so of all its files.
      settings: values by the names of the command's options, defaults filled in.
      platform: jax's name of the device's kind; others round differently.
      jax: version of jax, of which the same holds.
      input: name of the input, without its folder.
      input_sha256: of the input's bytes.
      tags: what the model was told.
      version: version of linearsr_jax.
    """

    model: str
    model_sha256: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    platform: str = ""
    jax: str = ""
    input: str = ""
    input_sha256: str = ""
    tags: tuple[str, ...] = ()
    version: str = __version__

    def to_json(self) -> str:
        """Returns one line of ASCII."""
        return json.dumps({"linearsr": _FORMAT, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Inverts `to_json`.

        Raises:
          ManifestError: another text, or of another version's form.
        """
        try:
            fields = json.loads(text)
            if fields.pop("linearsr") != _FORMAT:
                raise ManifestError("was written in another form of manifest")
            strings = {name: fields[name] for name in fields.keys() - {"settings"}}
            tags = tuple(strings.pop("tags"))
            is_text = all(isinstance(v, str) for v in (*strings.values(), *tags))
            if not is_text or not isinstance(fields["settings"], dict):
                raise ManifestError("has a manifest with values of a wrong type")
            return cls(**strings, settings=fields["settings"], tags=tags)
        except ManifestError:
            raise
        except _OF_ANY_TEXT as error:
            raise ManifestError("has a manifest that cannot be read") from error


def read_manifest(path: Path) -> Manifest:
    """Reads the manifest of an output, or a file that holds one.

    Raises:
      ManifestError: it has none.
      ImageError, OSError: it cannot be read.
    """
    # One beside the file is there because the file has no room, or another's comment.
    beside = path if path.suffix == ".json" else sidecar_of(path)
    if beside.is_file():
        text = beside.read_text(encoding="utf-8", errors="replace")
    else:
        text = read_comment(path)
    if text is None:
        raise ManifestError("was not made by linearsr upscale: it has no manifest")
    return Manifest.from_json(text)


def is_manifest(path: Path) -> bool:
    """Tells whether a file, which may be missing, holds a manifest and nothing else."""
    try:
        Manifest.from_json(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ManifestError):
        return False
    return True


def is_result(path: Path) -> bool:
    """Tells whether a file, which may be missing, is an image that has a manifest."""
    return _find_manifest(path) is not None


def is_map(path: Path) -> bool:
    """Tells whether a file, which may be missing, is a map of uncertainty."""
    manifest = _find_manifest(path)
    return manifest is not None and MAP_SETTING in manifest.settings


def _find_manifest(path: Path) -> Manifest | None:
    try:
        return read_manifest(path)
    except (OSError, ImageError, ManifestError):
        return None
