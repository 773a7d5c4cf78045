"""Tables that map our tensors to the names and axes of other projects."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from linearsr_jax.convert.safetensors_stream import ConvertError, Sources

Change = Callable[[np.ndarray], np.ndarray]


def same(x: np.ndarray) -> np.ndarray:
    """Keeps the axes."""
    return x


def conv(x: np.ndarray) -> np.ndarray:
    """Permutes (out, in, row, column) to (row, column, in, out)."""
    return x.transpose(2, 3, 1, 0)


def dense(x: np.ndarray) -> np.ndarray:
    """Permutes (out, in), or (out, in, 1, 1) of a 1x1 convolution, to (in, out)."""
    return x.reshape(x.shape[:2]).T


def depthwise(x: np.ndarray) -> np.ndarray:
    """Permutes (channel, 1, row, column) to (row, column, channel)."""
    return x.squeeze(1).transpose(1, 2, 0)


def grouped(x: np.ndarray) -> np.ndarray:
    """Splits (group * out, in, 1, 1), where in = out, into (group, in, out)."""
    size = x.shape[1]
    return x.reshape(-1, size, size).transpose(0, 2, 1)


class Row(NamedTuple):
    """The names of a tensor in three layouts, relative to its module.

    Attributes:
      ours: our name.
      diffusers: name in diffusers; several names are joined along the first axis.
      official: name or names in the layout of mit-han-lab and NVlabs.
      change: function from their axes to ours.
    """

    ours: str
    diffusers: str | tuple[str, ...]
    official: str | tuple[str, ...]
    change: Change = same

    def part(self, *, is_official: bool) -> "Part":
        """Returns the part in one of the two other layouts."""
        theirs = self.official if is_official else self.diffusers
        return Part((theirs,) if isinstance(theirs, str) else theirs, self.change)


class Part(NamedTuple):
    """The source of one of our tensors, or of one layer of it.

    Attributes:
      theirs: names of the source's tensors, to be joined along their first axis.
      change: function from the joined axes to ours.
    """

    theirs: tuple[str, ...]
    change: Change


CONV = (Row("kernel", "weight", "weight", conv), Row("bias", "bias", "bias"))


def placed(
    ours: str, diffusers: str, official: str, rows: tuple[Row, ...] = CONV
) -> list[Row]:
    """Prefixes rows with the names of a module in the three layouts."""

    def below(module, names):
        if isinstance(names, str):
            return f"{module}.{names}"
        return tuple(below(module, name) for name in names)

    return [
        Row(
            below(ours, row.ours),
            below(diffusers, row.diffusers),
            below(official, row.official),
            row.change,
        )
        for row in rows
    ]


def check_names(found: set[str], known: set[str], what: str) -> None:
    """Compares the names of a source's tensors with those in a table.

    Args:
      found: names in the source.
      known: names in the table.
      what: beginning of the error message.

    Raises:
      ConvertError: names are missing or unknown; the message lists them.
    """
    problems = {"missing": sorted(known - found), "unknown": sorted(found - known)}
    text = "; ".join(
        f"{len(listed)} {problem}: {', '.join(listed)}"
        for problem, listed in problems.items()
        if listed
    )
    if text:
        raise ConvertError(f"{what}; {text}")


def check_shapes(
    tensors: Sources, parts: Iterable[tuple[Part, tuple[int, ...]]], what: str
) -> None:
    """Compares shapes without reading any tensor.

    Args:
      tensors: tensors of the source.
      parts: parts to make of them, with the expected shapes.
      what: beginning of the error message.

    Raises:
      ConvertError: tensors have other shapes; the message lists them.
    """
    wrong = [
        f"{name} {tensors[name].shape}"
        for part, shape in parts
        if _changed_shape(tensors, part) != shape
        for name in part.theirs
    ]
    if wrong:
        raise ConvertError(
            f"{what}; {len(wrong)} of unusable shape: {', '.join(wrong)}"
        )


def _changed_shape(tensors: Sources, part: Part) -> tuple[int, ...] | None:
    shapes = [tensors[name].shape for name in part.theirs]
    if not all(shapes) or len({shape[1:] for shape in shapes}) > 1:
        return None
    joined = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    try:
        # An array of zeros with strides of 0 takes no memory.
        return part.change(np.broadcast_to(np.float32(0), joined)).shape
    except (ValueError, IndexError):
        return None


def read_part(tensors: Sources, part: Part) -> np.ndarray:
    """Reads the tensors of a part, joins them, and changes the axes."""
    if len(part.theirs) == 1:
        return part.change(tensors[part.theirs[0]]())
    return part.change(np.concatenate([tensors[name]() for name in part.theirs]))
