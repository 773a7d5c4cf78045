"""What README and docs tell people to type works, as it stands there.

Every `linearsr` command is parsed. It is also run, in a folder with small files of the
names that the pages use, unless NOT_RUN says why not. Every Python block is run.
"""

import dataclasses
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linearsr_jax.cli.main import make_parser
from linearsr_jax.codecs import PixelCodec
from linearsr_jax.inference.batch import Output
from linearsr_jax.inference.batch_inputs import Failure, Skip
from linearsr_jax.models.presets import get_preset
from linearsr_jax.pretrained.model_folder import save_pretrained
from tests.cli.running import run
from tests.experts_testing import make_experts

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "kernels_pallas").rglob("README.md")),
]

# Why a command is only parsed, by a pattern of it.
NOT_RUN = {
    r"linearsr (train|finetune) ": "trains for long; tests/cli/test_train.py trains",
    r"linearsr convert ": "needs others' weights; tests/convert/ makes small ones",
    r"linearsr text ": "needs Gemma 2's weights; tests/cli/test_text.py",
    r"linearsr bench ": "takes minutes; tests/cli/test_bench.py",
    r"linearsr plan ": "needs libtpu",
    r"linearsr demo": "serves until it is stopped; tests/cli/test_demo_page.py",
    r"ram:weights/ram": "needs RAM's weights",
    r"--condition rose": "needs a model of text features",
    r"linearsr knee runs/mine": "needs a finished training; tests/cli/test_knee.py",
}
# Upscaled at a tenth of its size, which goes through the model twice as well.
WALLPAPER, SMALL_WALLPAPER = "--size 3840x2160", "--size 384x216"
# Abridged in the text.
NOT_PARSED = re.compile(r"linearsr \w+ \.\.\.|^linearsr COMMAND")


def commands(page):
    """Yields the commands of a page; a backslash continues a line."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if match := re.match(r"\s*(?:pip install \S+ && )?(linearsr [a-z].*)", line):
            yield match[1]


COMMANDS = [
    pytest.param(page, line, id=f"{page.relative_to(ROOT)}: {line}")
    for page in PAGES
    for line in dict.fromkeys(commands(page))
    if not NOT_PARSED.search(line)
]


def words(line):
    found = shlex.split(line, comments=True)[1:]
    for sign in ("<", ">"):
        if sign in found:
            del found[found.index(sign) : found.index(sign) + 2]
    return found


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_command_parses(page, line):
    make_parser().parse_args(words(line))


def test_commands_are_found():
    lines = [param.values[1] for param in COMMANDS]
    assert len(lines) > 40
    for pattern in NOT_RUN:
        assert any(re.search(pattern, line) for line in lines), pattern
    assert any(WALLPAPER in line for line in lines)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Files of the names that the pages use."""
    root = tmp_path_factory.mktemp("docs") / "work"
    (root / "docs" / "images").mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "images" / "sample.png", root / "docs" / "images")
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    truth = coarse.resize((192, 192), Image.Resampling.BICUBIC)
    small = truth.resize((48, 48), Image.Resampling.BICUBIC)
    for name in (
        "photo.jpg",
        "huge.jpg",
        "holiday/a.jpg",
        "holiday/sea/b.jpg",
        "archive/a.png",
        "photos/a.jpg",
        "photos/train/a.jpg",
        "RealSR/LR/a.png",
        "RealSR/LR/b.png",
        "Set14/LR/a.png",
        "RealLR200/a.png",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        small.save(root / name)
    for name in (
        "RealSR/HR/a.png",
        "RealSR/HR/b.png",
        "Set14/HR/a.png",
        "outputs/a.png",
        "outputs/b.png",
        "other/a.png",
        "other/b.png",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        truth.save(root / name)
    save_pretrained(
        root / "runs" / "mine" / "model",
        make_experts(1),
        get_preset("debug"),
        PixelCodec(),
        training={},
        card="",
    )
    return root


@pytest.fixture
def work(prepared, tmp_path, monkeypatch):
    """A fresh copy, as the working directory."""
    folder = shutil.copytree(prepared, tmp_path / "work")
    monkeypatch.chdir(folder)
    return folder


def prepare(line):
    """Writes what only this command needs."""
    if "curve.csv" in line:
        name = "error" if "--lower error" in line else "lpips"
        rows = [f"{step},{20 - 10 * 0.8**step},{0.8**step}" for step in range(20)]
        Path("curve.csv").write_text("\n".join([f"step,psnr,{name}", *rows, ""]))
    if WALLPAPER in line:
        Image.new("RGB", (48, 27), (90, 120, 60)).save("photo.jpg")


@pytest.mark.parametrize(
    ("page", "line"),
    [
        param
        for param in COMMANDS
        if not any(re.search(pattern, param.values[1]) for pattern in NOT_RUN)
    ],
)
def test_command_runs(capsys, work, page, line):
    if " < " in line:
        done = subprocess.run(
            [
                "bash",
                "-c",
                line.replace("linearsr", f"{sys.executable} -m linearsr_jax"),
            ],
            capture_output=True,
            text=True,
        )
        code, err = done.returncode, done.stderr
    else:
        prepare(line)
        code, _, err = run(capsys, *words(line.replace(WALLPAPER, SMALL_WALLPAPER)))
    assert code == 0, err


@pytest.mark.parametrize(
    ("field", "kind"), [("outputs", Output), ("failures", Failure), ("skipped", Skip)]
)
def test_json_of_batches_is_described_in_full(field, kind):
    page = (ROOT / "docs" / "batch.md").read_text("utf-8")
    (row,) = re.findall(rf"^\| `{field}` \| (.*) \|$", page, re.M)
    names = {field.name for field in dataclasses.fields(kind)}
    assert names <= set(re.findall(r"`(\w+)`", row))


def given():
    """What the blocks of some pages take as given, in the shapes that they name."""
    import jax
    import jax.numpy as jnp

    q, k, v = jnp.arange(3 * 2 * 4 * 2 * 3.0).reshape(3, 2, 4, 2, 3)
    return {
        "image": np.zeros((20, 30, 3), np.uint8),
        "jax": jax,
        "mesh": jax.make_mesh((2, 2, 2), ("batch", "tokens", "heads")),
        "q": q,
        "k": k,
        "v": v,
        "qkv": jnp.concatenate([x.reshape(2, 4, 6) for x in (q, k, v)], -1),
        "heads": 2,
        "x": jnp.ones((1, 5, 6, 8)),
        "kernel": jnp.ones((3, 3, 8)),
        "bias": jnp.ones(8),
    }


# Like everybody's examples they leave files to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if "```python" in page.read_text("utf-8")],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_python_runs(work, page):
    """The blocks of a page one after another, as somebody would who reads it."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), flags=re.S)
    names = given()
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
