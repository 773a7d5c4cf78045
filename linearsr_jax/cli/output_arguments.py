"""Arguments of `linearsr upscale` on what the outputs are: size, format, quality."""

import argparse

from linearsr_jax.cli.arguments import setting
from linearsr_jax.core.image_formats import IMAGE_SUFFIXES

FORMATS = tuple(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
# By the option's value; None leaves it to the model.
COLOR_FIXES = {"auto": None, "wavelet": True, "none": False}


def add_size(parser: argparse.ArgumentParser) -> None:
    """Adds --scale, --size and --max-side."""
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--scale",
        type=setting("scale"),
        metavar="S",
        help="output size over input size, 1 to 8, e.g. 2.5 (default: 4)",
    )
    size.add_argument(
        "--size",
        type=dimensions,
        metavar="WxH",
        help="exact output size in pixels; Wx or xH keeps the proportions",
    )
    parser.add_argument(
        "--max-side",
        type=setting("max_side"),
        metavar="N",
        help="no side gets longer than N pixels",
    )


def add_fixes(parser: argparse.ArgumentParser) -> None:
    """Adds --color-fix and --consistent."""
    parser.add_argument(
        "--color-fix",
        choices=COLOR_FIXES,
        default="auto",
        help="whether coarse colours are replaced by the input's (default: for models "
        "that may shift them, which nano does not)",
    )
    parser.add_argument(
        "--consistent",
        action="store_true",
        help="change the output so that it becomes its input when it is reduced; keeps "
        "noise, too",
    )


def add_uncertainty(parser: argparse.ArgumentParser) -> None:
    """Adds --uncertainty."""
    parser.add_argument(
        "--uncertainty",
        type=setting("count"),
        metavar="N",
        help="also write OUT_uncertainty.png: where the results of N seeds differ, "
        "eight gray levels for a standard deviation of one",
    )


def add_format(parser: argparse.ArgumentParser) -> None:
    """Adds --format and --quality."""
    parser.add_argument(
        "--format",
        choices=FORMATS,
        metavar="FMT",
        help=f"of outputs in a folder and of standard output: {', '.join(FORMATS)} "
        "(default: the input's, or png where that is not written)",
    )
    parser.add_argument(
        "--quality",
        type=quality,
        metavar="Q",
        help="of formats that lose something, 1 to 100 (default: 95)",
    )


def add_max_pixels(parser: argparse.ArgumentParser) -> None:
    """Adds --max-pixels."""
    parser.add_argument(
        "--max-pixels",
        type=megapixels,
        metavar="MP",
        help="largest input in millions of pixels (default: 80)",
    )


def dimensions(text: str) -> tuple[int | None, int | None]:
    """Parses WxH, Wx or xH.

    Raises:
      argparse.ArgumentTypeError: it is none of them, or a side is out of range.
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not "".join(parts).isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 1920x1080")
    width, height = (
        setting(f"size: {name}")(part) if part else None
        for name, part in zip(("width", "height"), parts, strict=True)
    )
    return width, height


def quality(text: str) -> int:
    """Parses a quality, in [1, 100].

    Raises:
      argparse.ArgumentTypeError: it is not one.
    """
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not in 1 .. 100")
    return int(text)


def megapixels(text: str) -> int:
    """Parses millions of pixels, above 0 and at most 100,000; returns 1 pixel or more.

    Raises:
      argparse.ArgumentTypeError: it is not such a number.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of million pixels")
    return max(1, round(1e6 * value))
