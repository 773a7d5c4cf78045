"""Writes photographs in a form that trains faster than a folder of files.

    python -m linearsr_jax.data.prepare packed PHOTOS OUT.safetensors
    python -m linearsr_jax.data.prepare tfds PHOTOS DATA_DIR --dataset photos

Every file is decoded once; those that cannot be are named and left out. The result
appears at its name only when complete. Give it to training as data.folder.
"""

import argparse
import dataclasses
import io
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence

from PIL import Image

from linearsr_jax.data import decoding
from linearsr_jax.data.checking import Photo, check_photos
from linearsr_jax.data.folder import FolderStore
from linearsr_jax.data.layouts import DATASETS
from linearsr_jax.data.packed import write_packed

# What --max-side re-encodes: beyond this, JPEG files grow faster than they improve.
_JPEG_QUALITY = 95


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; exit code 0 done, 1 failed, 2 wrong usage."""
    args = _parser().parse_args(argv)
    try:
        rejected = args.run(args)
    except KeyboardInterrupt:
        print("prepare: interrupted", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"prepare: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    for name, reason in rejected.items():
        print(f"left out {name}: {reason}", file=sys.stderr)
    return 0


def pack_folder(
    root: pathlib.Path,
    path: pathlib.Path,
    *,
    max_side: int | None = None,
    overwrite: bool = False,
) -> tuple[int, dict[str, str]]:
    """Packs the photographs of a folder into one file; see `packed`.

    Args:
      root: the folder, searched recursively.
      path: the file.
      max_side: in pixels; photographs longer than that are shrunk to it (Lanczos)
        and stored as JPEG. By default all are stored as they are.
      overwrite: replace an existing file; else it is an error.

    Returns:
      The number of photographs packed, and name to reason of those left out.

    Raises:
      FileExistsError: path exists.
      OSError, ValueError: unusable folder, nothing to pack, or path not writable.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: exists; --overwrite replaces it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: its folder does not exist; make it first.")
    rejected = {}
    photos = check_photos(FolderStore(root), rejected)
    if max_side is not None:
        photos = _shrink(photos, max_side)
    return write_packed(path, photos), rejected


def _shrink(photos: Iterable[Photo], max_side: int) -> Iterator[Photo]:
    for photo in photos:
        ratio = max_side / max(photo.width, photo.height)
        if ratio >= 1:
            yield photo
            continue
        size = [max(1, round(side * ratio)) for side in (photo.width, photo.height)]
        image = Image.fromarray(decoding.decode_rgb(photo.data))
        data = io.BytesIO()
        image.resize(size, Image.Resampling.LANCZOS).save(
            data, "JPEG", quality=_JPEG_QUALITY, subsampling="4:4:4"
        )
        yield dataclasses.replace(
            photo, width=size[0], height=size[1], data=data.getvalue()
        )


def _run_packed(args: argparse.Namespace) -> dict[str, str]:
    count, rejected = pack_folder(
        args.photos, args.out, max_side=args.max_side, overwrite=args.overwrite
    )
    mebibytes = args.out.stat().st_size / 2**20
    print(f"{args.out}: {count} photographs, {mebibytes:.1f} MiB")
    return rejected


def _run_tfds(args: argparse.Namespace) -> dict[str, str]:
    # Importing TFDS takes a second.
    from linearsr_jax.data.tfds_builder import prepare_dataset

    folder, counts, rejected = prepare_dataset(
        args.dataset, args.photos, args.data_dir, overwrite=args.overwrite
    )
    for split, count in counts.items():
        print(f"{folder}/{split}: {count} photographs")
    return rejected


def _side(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m linearsr_jax.data.prepare", description=__doc__.split("\n")[0]
    )
    commands = parser.add_subparsers(required=True, metavar="FORM")
    packed = commands.add_parser("packed", help="one file, for slow file systems")
    packed.add_argument("photos", type=pathlib.Path, help="folder, searched deeply")
    packed.add_argument("out", type=pathlib.Path, help="the file, *.safetensors")
    packed.add_argument(
        "--max-side",
        type=_side,
        metavar="N",
        help=f"shrink to N pixels a side, as JPEG of quality {_JPEG_QUALITY}",
    )
    packed.set_defaults(run=_run_packed)
    dataset = commands.add_parser("tfds", help="sharded, for large datasets")
    layouts = "; ".join(f"{n}: {x.describe()}" for n, x in DATASETS.items())
    dataset.add_argument(
        "photos", type=pathlib.Path, help=f"the dataset's folder, holding {layouts}"
    )
    dataset.add_argument(
        "data_dir", type=pathlib.Path, help="gets linearsr_photos/DATASET/VERSION"
    )
    dataset.add_argument("--dataset", choices=DATASETS, default="photos")
    dataset.set_defaults(run=_run_tfds)
    for command in (packed, dataset):
        command.add_argument(
            "--overwrite", action="store_true", help="replace what is there"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
