"""Ctrl-C and kill: the command ends at once, says what was done, and leaves no rubbish.

Each test runs the command in a process of its own. Limits of time only keep a test that
fails from waiting forever.
"""

import json
import signal
import subprocess
import sys

import pytest
from PIL import Image

IMAGES = 40
LIMIT = 120  # seconds


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "linearsr_jax", "upscale", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(IMAGES):
        Image.new("RGB", (64, 48), (5 * number, 9, 99)).save(
            folder / f"{number:02}.png"
        )
    return folder


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_signal_in_the_middle_of_a_batch(photos, tmp_path, number, code):
    out = tmp_path / "out"
    process = start(photos, "-o", out, "--json")
    lines = iter(process.stderr.readline, "")
    for line in lines:
        if "03.png ->" in line:
            break
    process.send_signal(number)
    text, rest = process.communicate(timeout=LIMIT)
    assert process.returncode == code, rest
    result = json.loads(text)
    assert result["interrupted"]
    done = len(result["outputs"])
    assert f"{IMAGES - done} not done: {number.name}" in rest
    names = sorted(path.name for path in out.iterdir())
    # All that is there is whole, and all that is reported is there.
    assert names[:done] == [f"{number:02}.png" for number in range(done)]
    for path in out.iterdir():
        with Image.open(path) as image:
            image.load()
            assert image.size == (256, 192)


def test_nohup(photos, tmp_path):
    """A terminal that is closed does not end what was told to ignore that."""
    for path in sorted(photos.iterdir())[4:]:
        path.unlink()
    ignore = ["trap '' HUP; exec \"$@\"", "bash", sys.executable, "-m", "linearsr_jax"]
    process = subprocess.Popen(
        ["bash", "-c", *ignore, "upscale", photos, "-o", tmp_path / "out"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "00.png ->" in process.stderr.readline()
    process.send_signal(signal.SIGHUP)
    _, rest = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, rest
    assert "4 upscaled" in rest


def test_signal_while_all_threads_wait():
    """Standard input that never ends."""
    process = start("-", "-o", "out", "--debug", stdin=subprocess.PIPE)
    assert "1 images to do" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, rest
    assert "1 not done: SIGINT" in rest
    assert "Traceback" not in rest
