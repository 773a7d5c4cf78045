"""Entries of TIFF files that neither Pillow nor libvips writes as they should be."""

import struct
from pathlib import Path

import PIL.Image

_RESOLUTION_UNIT, _NO_UNIT = 296, 1


def drop_resolution_unit(path: Path) -> None:
    """Says of a little-endian TIFF of one page that its resolution has no unit.

    That is TIFF's way to have none. A BigTIFF, above 4 GB, is left as it is.

    Raises:
      struct.error: the file is no such TIFF.
    """
    with path.open("r+b") as file:
        magic, start = struct.unpack("<4sI", file.read(8))
        if magic != b"II*\0":
            return
        file.seek(start)
        for place, tag in enumerate(_read_entries(file)):
            if tag == _RESOLUTION_UNIT:
                file.seek(start + 2 + 12 * place + 8)
                file.write(struct.pack("<H", _NO_UNIT))


def append_exif(path: Path, exif: PIL.Image.Exif) -> None:
    """Adds EXIF to a little-endian TIFF of one page.

    The directory is written again at the end of the file, with EXIF's entries among its
    own, which point to where they pointed. A BigTIFF, above 4 GB, is left as it is.

    Args:
      path: the file to change.
      exif: its entries; those on the file's layout must not be among them.

    Raises:
      struct.error: the file is no such TIFF.
    """
    with path.open("r+b") as file:
        magic, start = struct.unpack("<4sI", file.read(8))
        if magic != b"II*\0":
            return
        file.seek(start)
        own = _read_entries(file)
        end = file.seek(0, 2)
        file.write(b"\0" * (end % 2))
        offset = file.tell()
        exif.endian = "<"
        # Pillow serialises what entries point to for this place in a file, and sets
        # "Exif" and a TIFF's header before.
        data = exif.tobytes(offset)[14:]
        (count,) = struct.unpack_from("<H", data)
        entries = {
            struct.unpack_from("<H", data, 2 + 12 * i)[0]: data[2 + 12 * i :][:12]
            for i in range(count)
        }
        file.write(data + b"\0" * (len(data) % 2))
        directory = file.tell()
        merged = sorted((entries | own).items())
        file.write(struct.pack("<H", len(merged)))
        file.write(b"".join(entry for _, entry in merged) + struct.pack("<I", 0))
        file.seek(4)
        file.write(struct.pack("<I", directory))


def _read_entries(file):
    (count,) = struct.unpack("<H", file.read(2))
    entries = (file.read(12) for _ in range(count))
    return {struct.unpack_from("<H", entry)[0]: entry for entry in entries}
