"""The image that travels from file to file."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Image:
    """An upright image, and what its file holds besides the colours.

    Attributes:
      pixels: uint8 or uint16, (H, W, 3) RGB or (H, W, 1) grayscale, over the type's
        whole range.
      alpha: (H, W) of the same type, 0 where transparent; None for an opaque image.
      icc: colour profile of the pixels; None stands for sRGB.
      exif: EXIF metadata as read; its orientation and size are those of the file and
        do not count.
      xmp: XMP metadata, of which the same holds.
      dpi: pixels per inch, horizontal and vertical.

    Raises:
      ValueError: another type or shape, or no pixels.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None

    def __post_init__(self):
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if dtype not in (np.uint8, np.uint16) or len(shape) != 3 or 0 in shape:
            raise ValueError(
                f"pixels must be uint8 or uint16 (H, W, C) and not empty, got {dtype} "
                f"{shape}"
            )
        if shape[2] not in (1, 3):
            raise ValueError(f"pixels must have 1 or 3 channels, got {shape[2]}")
        alpha = self.alpha
        if alpha is not None and (alpha.shape != shape[:2] or alpha.dtype != dtype):
            raise ValueError(
                f"alpha must be {dtype} {shape[:2]}, got {alpha.dtype} {alpha.shape}"
            )

    @property
    def depth(self) -> int:
        """Bits per channel: 8 or 16."""
        return 8 * self.pixels.dtype.itemsize

    @property
    def channels(self) -> np.ndarray:
        """The colours, and alpha as the last channel if there is one: (H, W, 1..4)."""
        return (
            self.pixels if self.alpha is None else np.dstack([self.pixels, self.alpha])
        )

    @property
    def rgb(self) -> np.ndarray:
        """The colours as uint8 (H, W, 3), as networks and metrics look at them.

        Grayscale is repeated, 16 bits are rounded to 8, and alpha is ignored.
        """
        pixels = to_8_bits(self.pixels)
        return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Rounds uint16 to the nearest of the 256 levels; uint8 is returned as it is."""
    if pixels.dtype == np.uint8:
        return pixels
    # 65535 = 255 * 257
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
