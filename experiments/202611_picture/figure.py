"""Draws docs/images/comparison.png: LR, bicubic, nano at both ends of its slider.

python experiments/202611_picture/figure.py
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from linearsr_jax import Upscaler
from linearsr_jax.evaluation.baselines import bicubic

SAMPLE = "docs/images/sample.png"
FIGURE = "docs/images/comparison.png"
MARGIN, CAPTION = 8, 30
# Part of the sample shown, in LR pixels: left, top, right, bottom.
WINDOW = (20, 0, 100, 80)


def main() -> None:
    """Runs the bundled model on the sample and saves the four panels side by side."""
    upscaler = Upscaler.from_pretrained("nano")
    image_lr = np.asarray(Image.open(SAMPLE).convert("RGB"))
    panels = {
        "input (4x pixels)": image_lr.repeat(4, axis=0).repeat(4, axis=1),
        "bicubic": bicubic(image_lr),
        "linearsr, fidelity 0": upscaler(image_lr, fidelity=0.0),
        "linearsr, fidelity 1": upscaler(image_lr, fidelity=1.0),
    }
    left, top, right, bottom = (4 * edge for edge in WINDOW)
    width, height = right - left + MARGIN, bottom - top + CAPTION
    figure = Image.new("RGB", (width * len(panels) - MARGIN, height), "white")
    draw = ImageDraw.Draw(figure)
    for i, (name, panel) in enumerate(panels.items()):
        crop = Image.fromarray(panel).crop((left, top, right, bottom))
        figure.paste(crop, (i * width, CAPTION))
        draw.text((i * width + 2, 5), name, "black", ImageFont.load_default(18))
    figure.save(FIGURE, optimize=True)


if __name__ == "__main__":
    main()
