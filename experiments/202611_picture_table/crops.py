"""The sixteen crops of the contact sheet: where they come from, how they are damaged."""

import dataclasses
import io
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from linearsr_jax.core import image_io
from linearsr_jax.core.scale import SCALE
from linearsr_jax.data.degradations import bicubic
from linearsr_jax.data.degrading import degrade_by_name

# HR pixels shown, and what lies around them that methods see as well.
SIDE, MARGIN = 192, 64


@dataclasses.dataclass(frozen=True)
class Crop:
    """A square of a photograph.

    Attributes:
        label: what it shows.
        file: in val/, None for the drawn screenshot.
        left, top: of what is shown, in the photograph's pixels.
        damage: a degradation of linearsr_jax.data, "jpeg" or "noise".
    """

    label: str
    file: str | None
    left: int = 0
    top: int = 0
    damage: str = "camera"


CROPS = (
    Crop("face", "cid22-pexels-photo-6096399.webp", 187, 96),
    Crop("hair", "clic2025-11f2b039b293.webp", 400, 430),
    Crop("small face", "clic2025-c9510efb03d1.webp", 964, 150),
    Crop("lettering", "clic2025-c9510efb03d1.webp", 964, 440),
    Crop("foliage", "ren-ran-232078-unsplash.webp", 800, 400),
    Crop("masonry", "cid22-2184504.webp", 60, 150),
    Crop("fur", "friends-by-aitzol-berasategi.webp", 390, 130),
    Crop("feathers", "perched-osprey.webp", 660, 150),
    Crop("fabric", "cid22-pexels-photo-1544724.webp", 100, 70),
    Crop("crochet", "clic2025-d1a9be98d193.webp", 340, 430),
    Crop("water", "life-by-aitzol-berasategi.webp", 760, 750),
    Crop("night", "singaporean-cityscape.webp", 717, 330),
    Crop("screenshot", None, damage="bicubic"),
    Crop("sharp already", "cid22-106399.webp", 150, 100, "bicubic"),
    Crop("JPEG, quality 30", "cid22-1624487.webp", 100, 150, "jpeg"),
    Crop("noise, sigma 12", "cid22-1943411.webp", 150, 90, "noise"),
)


def read_pair(crop: Crop, val: Path) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the true square with its margin, as far as the photograph goes, and damages it.

    Args:
        crop: one of CROPS.
        val: folder of the photographs.

    Returns:
        LR and HR, uint8; `shown` cuts what is shown out of anything of HR's size.
    """
    if crop.file is None:
        image_hr = draw_screenshot(SIDE + 2 * MARGIN)
    else:
        image = image_io.read_image(val / crop.file).pixels
        top, left = crop.top - MARGIN, crop.left - MARGIN
        padded = np.pad(image, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), "reflect")
        side = SIDE + 2 * MARGIN
        image_hr = padded[top + MARGIN :, left + MARGIN :][:side, :side]
        image_hr = np.ascontiguousarray(image_hr)
    return _damage(image_hr, crop), image_hr


def shown(image: np.ndarray) -> np.ndarray:
    """Cuts the margin off."""
    return image[MARGIN:-MARGIN, MARGIN:-MARGIN]


def _damage(image_hr: np.ndarray, crop: Crop) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(crop.label.encode()))
    if crop.damage == "jpeg":
        stream = io.BytesIO()
        Image.fromarray(bicubic(image_hr, SCALE)).save(stream, "JPEG", quality=30)
        with Image.open(stream) as decoded:
            return np.array(decoded)
    if crop.damage == "noise":
        small = bicubic(image_hr, SCALE)
        noisy = small + 12 * rng.standard_normal(small.shape)
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return degrade_by_name(image_hr, crop.damage, SCALE, rng)


def draw_screenshot(side: int) -> np.ndarray:
    """Draws a window of a made-up program: text of two sizes, lines, a button, a curve.

    Args:
        side: of the square in pixels, at least 300.

    Returns:
        uint8 (side, side, 3).
    """
    image = Image.new("RGB", (side, side), "#f4f5f7")
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = 40, 44, side - 40, side - 44
    draw.rectangle((left, top, right, bottom), "white", "#9aa4b1", 2)
    draw.rectangle((left, top, right, top + 40), "#2f5d9b")
    draw.text((left + 14, top + 6), "Settings", "white", ImageFont.load_default(26))
    body = ImageFont.load_default(24)
    for row, (text, colour) in enumerate(
        (("Sharpness  70", "#20242a"), ("Output  PNG", "#20242a"))
    ):
        y = top + 52 + 36 * row
        draw.text((left + 44, y), text, colour, body)
        draw.rectangle((left + 14, y + 5, left + 32, y + 23), "white", "#5b6673", 2)
    draw.line((left + 17, top + 66, left + 22, top + 72), "#2f5d9b", 4)
    draw.line((left + 22, top + 72, left + 30, top + 60), "#2f5d9b", 4)
    x = np.arange(left + 14, right - 14)
    wave = top + 158 - 22 * np.sin((x - left) / 17.0) * np.exp(-(x - left) / 160.0)
    draw.line(list(zip(x.tolist(), wave.tolist(), strict=True)), "#c2452d", 3)
    draw.line((left + 14, top + 158, right - 14, top + 158), "#c9ced6", 1)
    draw.rounded_rectangle(
        (left + 14, bottom - 44, left + 114, bottom - 10), 8, "#2f5d9b"
    )
    draw.text((left + 32, bottom - 42), "Apply", "white", body)
    return np.asarray(image)
