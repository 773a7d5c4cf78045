"""Draws the contact sheet.

    python experiments/202611_picture_table/contact_sheet.py --photos PHOTOS \
        --rivals RIVALS NAME=FOLDER[@STEPS[@FIDELITY]] ...

writes contact_sheet.jpg and CREDITS.md beside this file, with a row for the input,
bicubic, realesr-general-x4v3, each model named, and the truth.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from crops import CROPS, SIDE, Crop, read_pair, shown
from methods import BASELINES, Method, find_rivals, parse_model
from PIL import Image, ImageDraw, ImageFont

from linearsr_jax.core.scale import SCALE

HERE = Path(__file__).parent
RIVAL = "realesr-general-x4v3"
# Columns of the sheet; the sixteen crops take two bands of rows.
COLUMNS = 8
GAP, LABEL_WIDTH, HEAD = 4, 132, 30


def nearest(image_lr: np.ndarray) -> np.ndarray:
    """Enlarges each pixel to a square."""
    return image_lr.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def draw_rows(crops: Sequence[Crop], methods: Sequence[Method], val: Path):
    """Upscales every crop by every method.

    Returns:
        By row's name, with the input first and the truth last: a list of uint8
        (SIDE, SIDE, 3) in the order of crops.
    """
    pairs = [read_pair(crop, val) for crop in crops]
    rows = {"input": [shown(nearest(image_lr)) for image_lr, _ in pairs]}
    for method in methods:
        upscale = method.load()
        rows[method.name] = [shown(upscale(image_lr)) for image_lr, _ in pairs]
    rows["truth"] = [shown(image_hr) for _, image_hr in pairs]
    return rows


def draw_sheet(crops: Sequence[Crop], rows) -> Image.Image:
    """Sets the rows in bands of COLUMNS crops, with labels left and above."""
    bands = [range(i, i + COLUMNS) for i in range(0, len(crops), COLUMNS)]
    band_height = HEAD + len(rows) * (SIDE + GAP)
    width = LABEL_WIDTH + COLUMNS * (SIDE + GAP)
    sheet = Image.new("RGB", (width, len(bands) * (band_height + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(18)
    for index, band in enumerate(bands):
        top = index * (band_height + GAP)
        for column, crop in enumerate(band):
            left = LABEL_WIDTH + column * (SIDE + GAP)
            draw.text((left + 2, top + 5), crops[crop].label, "black", font)
            for row, images in enumerate(rows.values()):
                place = (left, top + HEAD + row * (SIDE + GAP))
                sheet.paste(Image.fromarray(images[crop]), place)
        for row, name in enumerate(rows):
            middle = top + HEAD + row * (SIDE + GAP) + SIDE // 2
            # A name may be longer than its column: one word a line.
            text = name.replace(" ", "\n").replace("general-", "general-\n")
            box = draw.multiline_textbbox((0, 0), text, font)
            draw.multiline_text((6, middle - box[3] // 2), text, "black", font)
    return sheet


def write_credits(crops: Sequence[Crop], photos: Path, path: Path) -> None:
    """Lists the photographs that the sheet shows, with their licences."""
    lines = (photos / "photos.jsonl").read_text("utf-8").splitlines()
    known = {Path(entry["file"]).name: entry for entry in map(json.loads, lines)}
    table = ["| crop | source | licence |", "| --- | --- | --- |"]
    for crop in crops:
        if crop.file is None:
            table.append(f"| {crop.label} | drawn by crops.py | this project's |")
        else:
            entry = known[crop.file]
            table.append(f"| {crop.label} | {entry['source']} | {entry['licence']} |")
    path.write_text(
        "# The photographs of contact_sheet.jpg\n\n"
        "Crops of 192 x 192 pixels, reduced and damaged, and enlarged again by the "
        "method of the row. Each stays under its photograph's licence; for CC-BY-SA "
        "that holds for the crop in the sheet as well.\n\n" + "\n".join(table) + "\n",
        "utf-8",
    )


def main() -> None:
    """Draws the sheet and writes its credits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--rivals", type=Path, required=True)
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER[@STEPS[@FIDELITY]]")
    args = parser.parse_args()
    others = [*BASELINES, *find_rivals(args.rivals, threads=1)]
    by_name = {method.name: method for method in others}
    models = [parse_model(text) for text in args.models]
    val = args.photos / "val"
    methods = [by_name["bicubic"], by_name[RIVAL], *models]
    rows = draw_rows(CROPS, methods, val)
    sheet = draw_sheet(CROPS, rows)
    # A third of a PNG's size; without chroma subsampling, nothing to see of it.
    sheet.save(HERE / "contact_sheet.jpg", quality=93, subsampling=0)
    write_credits(CROPS, args.photos, HERE / "CREDITS.md")


if __name__ == "__main__":
    main()
