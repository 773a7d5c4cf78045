"""`linearsr upscale`: sizes, formats and depth of what it writes."""

import json

import numpy as np
import png
import pytest
from PIL import Image

from linearsr_jax.cli.main import make_parser
from linearsr_jax.core.image_formats import IMAGE_SUFFIXES
from tests.cli.running import run


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_format_that_is_written_can_be_chosen(suffix):
    arguments = ["upscale", "in", "-o", "out", "--format", suffix.removeprefix(".")]
    assert f".{make_parser().parse_args(arguments).format}" == suffix


def test_scale_format_and_quality_of_a_folder(capsys, photo, tmp_path):
    out = tmp_path / "out"
    options = ["--scale", "2.5", "--format", "jpg", "--quality", "30", "--json"]
    code, text, _ = run(capsys, "upscale", photo, "-o", out, *options)
    assert code == 0
    (output,) = json.loads(text.splitlines()[-1])["outputs"]
    assert (output["width"], output["height"]) == (22, 15)
    with Image.open(out / "photo.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (22, 15))
        # Of libjpeg's table for luma at quality 30, the first entry.
        assert image.quantization[0][0] == 27


def test_exact_size_and_longest_side(capsys, photo, tmp_path):
    for options, size in (
        (["--size", "30x20"], (30, 20)),
        (["--size", "x12"], (18, 12)),
        (["--max-side", "20"], (20, 13)),
    ):
        target = tmp_path / f"{options[1]}.png"
        assert run(capsys, "upscale", photo, "-o", target, *options)[0] == 0
        with Image.open(target) as image:
            assert image.size == size


def test_other_proportions_are_remarked(capsys, photo, tmp_path):
    for size, is_stretched in (("30x20", False), ("30x", False), ("30x30", True)):
        target = tmp_path / f"{size}.png"
        code, _, err = run(capsys, "upscale", photo, "-o", target, "--size", size)
        assert code == 0
        lines = [line for line in err.splitlines() if "of other proportions" in line]
        assert len(lines) == is_stretched
        assert not lines or "9x6 becomes 30x30" in lines[0]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--scale", "9"], 2, "scale must be a number from 1 to 8"),
        (["--size", "axb"], 2, "1920x1080"),
        (["--size", "4x4", "--scale", "2"], 2, "not allowed with"),
        (["--size", "40x40", "--max-side", "9"], 2, "give a size"),
        (["--size", "8x6"], 1, "cannot become 8x6"),
        (["--format", "gif"], 2, "invalid choice"),
        (["--format", "jpg"], 2, "drop one"),
        (["--quality", "0"], 2, "1 .. 100"),
        (["--max-pixels", "0"], 2, "million pixels"),
        (["--max-pixels", "0.00005"], 1, "(--max-pixels) raises it"),
        (["--max-pixels", "1e-9"], 1, "(--max-pixels) raises it"),
    ],
)
def test_what_is_refused(capsys, photo, tmp_path, options, code, message):
    result = run(capsys, "upscale", photo, "-o", tmp_path / "o.png", *options)
    assert result[0] == code
    assert message in result[2]
    assert not (tmp_path / "o.png").exists()


def test_16_bits_and_alpha_go_through(capsys, tmp_path):
    deep = np.linspace(0, 65535, 24 * 32 * 4).reshape(24, 32, 4).astype(np.uint16)
    with (tmp_path / "in.png").open("wb") as file:
        writer = png.Writer(32, 24, bitdepth=16, greyscale=False, alpha=True)
        writer.write(file, deep.reshape(24, -1))
    target = tmp_path / "out.png"
    assert run(capsys, "upscale", tmp_path / "in.png", "-o", target)[0] == 0
    width, height, rows, info = png.Reader(bytes=target.read_bytes()).read()
    assert (width, height, info["bitdepth"], info["planes"]) == (128, 96, 16, 4)
    assert len(np.unique(np.vstack(list(rows))[:, ::4])) > 512
    code, _, err = run(capsys, "upscale", tmp_path / "in.png", "-o", tmp_path / "o.jpg")
    assert code == 1
    assert "cannot hold transparent pixels" in err


def test_uncertainty_is_a_second_file(capsys, photo, tmp_path):
    target = tmp_path / "o.png"
    options = ["--model", "nano-flow", "--steps", "2", "--uncertainty", "2"]
    assert run(capsys, "upscale", photo, "-o", target, *options)[0] == 0
    with Image.open(tmp_path / "o_uncertainty.png") as image:
        assert (image.mode, image.size) == ("L", (36, 24))
        assert np.asarray(image).max() > 0
    # As if the run had been killed between both.
    target.unlink()
    assert run(capsys, "upscale", photo, "-o", target, *options)[0] == 0
    assert target.exists()
    made = tmp_path / "o_uncertainty.png"
    code, _, err = run(capsys, "upscale", "--repeat", made, "-o", tmp_path / "r.png")
    assert code == 2
    assert "is a map of uncertainty; name its image" in err
    code, _, err = run(
        capsys, "upscale", photo, "-o", tmp_path / "p.png", "--uncertainty", "2"
    )
    assert code == 1
    assert "same result for every seed" in err
    assert not (tmp_path / "p.png").exists()
