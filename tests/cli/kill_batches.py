"""Kills a batch at random moments, for the volume that the tests have no time for.

python -m tests.cli.kill_batches COUNT [SEED]

Starts `linearsr upscale FOLDER` COUNT times, by turns on the same folder, each time
going on where the last one was ended, by SIGINT and SIGKILL in turn at a moment between
its start and its end. After each: every output is whole, no input has changed, and
SIGINT's exit code is 130. After the last: a run finishes the folder and leaves nothing
hidden. Prints a line for each; the first that is wrong ends it with exit code 1.
"""

import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

IMAGES, SIZE = 12, (64, 48)
_COMMAND = [sys.executable, "-m", "linearsr_jax", "upscale"]


def main(count: str, seed: str = "0") -> None:
    """Prints what each signal met."""
    rng = random.Random(int(seed))
    with tempfile.TemporaryDirectory() as work:
        inputs, out = Path(work, "in"), Path(work, "out")
        inputs.mkdir()
        for number in range(IMAGES):
            color = (20 * number, 9, 99)
            Image.new("RGB", SIZE, color).save(inputs / f"{number:02}.png")
        before = checksums(inputs)
        finish(inputs, out)  # compiles
        clear(out)
        start = time.monotonic()
        finish(inputs, out)
        limit = time.monotonic() - start
        clear(out)
        for number in range(int(count)):
            kind = (signal.SIGINT, signal.SIGKILL)[number % 2]
            # More often near the end, when files are written.
            delay = limit * rng.triangular(0.0, 1.0, 0.8)
            code = end_early(inputs, out, kind, delay)
            # Before the command has begun Python ends by the signal: 130 in a shell.
            expected = {signal.SIGINT: (130, -2, 0), signal.SIGKILL: (-9, 0)}[kind]
            check(code in expected, f"exit code {code} after {kind.name}")
            check(checksums(inputs) == before, "an input has changed")
            done = check_outputs(out)
            print(
                f"{number + 1}: {kind.name} after {delay:.2f} s, exit code {code}, "
                f"{done} of {IMAGES} done, {len(hidden(out))} hidden",
                flush=True,
            )
            if done == IMAGES:
                finish(inputs, out)
                check(not hidden(out), f"left over: {hidden(out)}")
                clear(out)
        finish(inputs, out)
        check(check_outputs(out) == IMAGES, "not all are done")
        check(not hidden(out), f"left over: {hidden(out)}")
        check(checksums(inputs) == before, "an input has changed")


def end_early(inputs: Path, out: Path, kind: signal.Signals, delay: float) -> int:
    """Runs the batch, sends a signal after some seconds, and returns the exit code."""
    process = subprocess.Popen(
        [*_COMMAND, inputs, "-o", out], stderr=subprocess.DEVNULL
    )
    try:
        return process.wait(delay)
    except subprocess.TimeoutExpired:
        process.send_signal(kind)
        return process.wait(60)


def finish(inputs: Path, out: Path) -> None:
    """Runs the batch to its end."""
    subprocess.run(
        [*_COMMAND, inputs, "-o", out], check=True, stderr=subprocess.DEVNULL
    )


def check_outputs(out: Path) -> int:
    """Reads every output; returns their number."""
    paths = sorted(out.glob("[!.]*"))
    for path in paths:
        with Image.open(path) as image:
            image.load()
            check(image.size == (4 * SIZE[0], 4 * SIZE[1]), f"{path} is {image.size}")
    return len(paths)


def hidden(out: Path) -> list[Path]:
    """Lists what a run began and did not finish."""
    return list(out.glob(".*"))


def clear(out: Path) -> None:
    """Removes all outputs."""
    for path in out.iterdir():
        path.unlink()


def checksums(folder: Path) -> dict[str, str]:
    """Computes the SHA-256 of each file."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
    }


def check(is_right: bool, text: str) -> None:
    """Ends the program where something is wrong."""
    if not is_right:
        raise SystemExit(f"wrong: {text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
