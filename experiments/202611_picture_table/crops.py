"""The sixteen crops of the contact sheet: their photographs and their damage."""

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
    Crop("eyes", "clic2025-11f2b039b293.webp", 400, 430),
    Crop("small face", "clic2025-c9510efb03d1.webp", 1030, 270),
    Crop("lettering", "clic2025-c9510efb03d1.webp", 1070, 640),
    Crop("foliage", "ren-ran-232078-unsplash.webp", 800, 400),
    Crop("masonry", "cid22-2184504.webp", 60, 150),
    Crop("fur", "friends-by-aitzol-berasategi.webp", 455, 490),
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
    """Cuts out a square with its margin and damages it.

    Args:
        crop: one of CROPS.
        val: folder of the photographs.

    Returns:
        LR and HR, uint8; `shown` cuts what is shown out of anything of HR's size.
    """
    if crop.file is None:
        image_hr = draw_screenshot(SIDE + 2 * MARGIN)
    else:
        image = image_io.read_image(val / crop.file).rgb
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
    """Draws a window of a made-up program: text, a tick, a curve, a button.

    Args:
        side: of the square in pixels; all of the window lies inside what is shown.

    Returns:
        uint8 (side, side, 3).
    """
    image = Image.new("RGB", (side, side), "#dfe3e8")
    draw = ImageDraw.Draw(image)
    title, body = ImageFont.load_default(20), ImageFont.load_default(18)
    left = top = MARGIN + 6
    right = bottom = side - MARGIN - 6
    draw.rectangle((left, top, right, bottom), "white", "#9aa4b1", 2)
    draw.rectangle((left, top, right, top + 30), "#2f5d9b")
    draw.text((left + 8, top + 3), "Settings", "white", title)
    for row, text in enumerate(("Sharpness  70", "Output  PNG")):
        y = top + 40 + 27 * row
        draw.text((left + 34, y), text, "#20242a", body)
        draw.rectangle((left + 8, y + 3, left + 24, y + 19), "white", "#5b6673", 2)
    draw.line((left + 11, top + 51, left + 15, top + 56), "#2f5d9b", 3)
    draw.line((left + 15, top + 56, left + 22, top + 45), "#2f5d9b", 3)
    x = np.arange(left + 8, right - 7)
    wave = top + 116 - 15 * np.sin((x - left) / 12.0) * np.exp(-(x - left) / 120.0)
    draw.line((left + 8, top + 116, right - 8, top + 116), "#c9ced6", 1)
    draw.line(list(zip(x.tolist(), wave.tolist(), strict=True)), "#c2452d", 2)
    button = (left + 8, bottom - 36, left + 84, bottom - 8)
    draw.rounded_rectangle(button, 7, "#2f5d9b")
    draw.text((left + 21, bottom - 34), "Apply", "white", body)
    draw.text((left + 98, bottom - 34), "Cancel", "#20242a", body)
    return np.asarray(image)
