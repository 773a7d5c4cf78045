"""The formats of image files: their suffixes, and what each of them can hold.

Importing this module does not import Pillow, so that `linearsr --help` can name them.
"""

import functools
import importlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import PIL.Image

from linearsr_jax.core.errors import LinearSRError


class ImageError(LinearSRError, ValueError):
    """An image file that cannot be used, in one line: its name, the fault, the cure.

    Attributes:
      reason: the line without the name.
    """

    def __init__(self, name: str | os.PathLike, reason: str):
        super().__init__(name, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.reason}"


@dataclass(frozen=True)
class Format:
    """A format that is read and written.

    Attributes:
      name: Pillow's name for it.
      suffixes: those of its files, the usual one first.
      quality: default quality of lossy compression, 1 to 100; None if it loses nothing.
      options: further options of Pillow's `save`.
      depth: most bits per channel that it holds.
      has_alpha, has_metadata: whether it holds transparency; profile and EXIF.
      max_side: longest side in pixels that it holds; x4 reaches these with photographs.
      package: Python package that reads and writes it, if Pillow itself does not.
    """

    name: str
    suffixes: tuple[str, ...]
    quality: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    depth: int = 8
    has_alpha: bool = True
    has_metadata: bool = True
    max_side: int = 2**31 - 1
    package: str | None = None


FORMATS = (
    Format("PNG", (".png",), depth=16),
    Format(
        "JPEG",
        (".jpg", ".jpeg"),
        quality=95,
        options={"subsampling": "4:4:4"},
        has_alpha=False,
        max_side=65535,
    ),
    # Its format subsamples colours, unless it is lossless.
    Format("WEBP", (".webp",), quality=95, max_side=16383),
    Format("BMP", (".bmp",), has_alpha=False, has_metadata=False),
    Format(
        "TIFF", (".tif", ".tiff"), options={"compression": "tiff_deflate"}, depth=16
    ),
    Format(
        "AVIF",
        (".avif",),
        quality=95,
        options={"subsampling": "4:4:4"},
        depth=12,
        max_side=65535,
    ),
    Format(
        "HEIF",
        (".heic", ".heif"),
        quality=95,
        options={"chroma": 444},
        max_side=16384,
        package="pillow_heif",
    ),
    Format("JXL", (".jxl",), quality=95, package="pillow_jxl"),
)
_BY_SUFFIX = {suffix: form for form in FORMATS for suffix in form.suffixes}
IMAGE_SUFFIXES = tuple(_BY_SUFFIX)
# Those of files that are looked for: still GIFs are read, and not written.
READ_SUFFIXES = (*IMAGE_SUFFIXES, ".gif")

# A closed list, because some of Pillow's other readers start programs (EPS). GIF is
# here for its still images and for a clear message about the animated ones.
_READ_BY_PILLOW = (*(form.name for form in FORMATS if not form.package), "GIF")


def format_of(path: str | os.PathLike) -> Format:
    """Returns the format that a file's suffix stands for.

    Raises:
      ImageError: none, or one whose package is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _BY_SUFFIX:
        raise ImageError(
            path,
            f"cannot write {suffix or 'a file without suffix'}; "
            f"use one of {' '.join(IMAGE_SUFFIXES)}",
        )
    if reason := missing_package(path):
        raise ImageError(path, reason)
    return _BY_SUFFIX[suffix]


def output_suffix(path: str | os.PathLike) -> str:
    """Returns the suffix of an input's own format, or .png if that is not written."""
    suffix = Path(path).suffix
    return suffix if suffix.lower() in _BY_SUFFIX else ".png"


def open_image(file: str | os.PathLike | io.BytesIO) -> "PIL.Image.Image":
    """Opens a file as `PIL.Image.open` does, if its format is one of ours.

    Packages for further formats are imported only if Pillow does not know the file.

    Raises:
      PIL.UnidentifiedImageError: it is no image, or of another format.
    """
    import PIL.Image

    try:
        return PIL.Image.open(file, formats=_READ_BY_PILLOW)
    except PIL.UnidentifiedImageError:
        names = [f.name for f in FORMATS if f.package and _registered(f.package)]
        if not names:
            raise
        if isinstance(file, io.BytesIO):
            file.seek(0)
        return PIL.Image.open(file, formats=names)


def missing_package(path: str | os.PathLike) -> str | None:
    """Names what to install for a file of this suffix; None if nothing is missing."""
    form = _BY_SUFFIX.get(Path(path).suffix.lower())
    if form is None or form.package is None or _registered(form.package):
        return None
    return f'{form.name} needs a package; pip install "linearsr_jax[formats]"'


@functools.cache
def _registered(package: str) -> bool:
    """Makes Pillow know a package's format; False if it is not installed."""
    try:
        module = importlib.import_module(package)
    except ImportError:
        return False
    # pillow_jxl does so when it is imported.
    if package == "pillow_heif":
        module.register_heif_opener()
    return True
