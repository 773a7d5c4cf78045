"""The command: its exit codes, its errors, how fast its help is."""

import subprocess
import sys

import pytest

from linearsr_jax.cli import main as cli
from linearsr_jax.core.version import __version__
from tests.cli.running import run

TRAIN = ["train", "--config", "configs/debug.py", "--workdir", "{tmp}/w"]
TRAIN += ["--override", "data.folder={tmp}"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["upscale", "{tmp}/absent.png", "-o", "{tmp}/o.png"], 1, "no such file"),
        (["upscale", "{tmp}/text.png", "-o", "{tmp}/o.png"], 1, "text.png"),
        (["upscale", "{tmp}/empty", "-o", "{tmp}/out"], 1, "empty"),
        (["upscale", "{photo}", "-o", "{tmp}/o.xyz"], 2, "xyz"),
        (["upscale", "{photo}", "-o", "/proc/o.png"], 1, "/proc"),
        (["upscale", "{photo}", "-o", "{tmp}/o.png", "--model", "m"], 1, "no such mod"),
        (["upscale", "{photo}", "-o", "{tmp}/o.png", "--steps", "0"], 2, "--steps"),
        (["upscale", "{photo}", "-o", "{tmp}/o.png", "--seed", "x"], 2, "--seed"),
        (["upscale", "{photo}", "-o", "{tmp}/o.png", "--scale", "9"], 2, "from 1 to 8"),
        (["upscale", "{photo}", "-o", "{tmp}/o.png", "--size", "0x9"], 2, "width must"),
        (["upscale", "{photo}", "-o", "{tmp}/o.png", "--max-side", "-1"], 2, "from 1"),
        (["upscale", "{photo}", "-o", "{tmp}/o.png", "--devices", "0"], 2, "above 0"),
        (
            ["upscale", "{photo}", "-o", "{tmp}/o.png", "--fidelity", "nan"],
            2,
            "got nan",
        ),
        (["upscale", "{photo}"], 2, "-o"),
        (["eval", "--lr", "{tmp}", "--steps", "1,5000"], 2, "from 1 to 1000, got 5000"),
        (["eval", "--data", "{tmp}/absent"], 1, "no such folder"),
        (["eval", "--data", "{tmp}", "--metrics", "psnrr"], 2, "did you mean 'psnr'"),
        (["eval", "--hr", "{tmp}"], 2, "--sr"),
        (["eval"], 2, "--data"),
        (["train", "--config", "absent.py", "--workdir", "{tmp}/w"], 2, "no such conf"),
        (["train", "--config", "c", "--workdir", "gs://b/run"], 2, "NFS, Lustre"),
        ([*TRAIN, "batch_size=0"], 2, "batch_size must be at least 1"),
        ([*TRAIN, "loss.flow=-1"], 2, "loss.flow=-1"),
        ([*TRAIN, "bogus=1"], 2, "no such field"),
        (["info", "--model", "absent"], 1, "no such model"),
        (["info", "--model", ""], 1, "'': no such model"),
        (["sharpen"], 2, "invalid choice"),
    ],
)
def test_errors_are_one_line(capsys, photo, tmp_path, args, code, message):
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    args = [arg.format(tmp=tmp_path, photo=photo) for arg in args]
    actual, out, err = run(capsys, *args)
    assert actual == code
    assert out == ""
    line = err.splitlines()[-1]
    assert line.startswith("linearsr: ")
    assert message in line
    # What a batch came to follows the line about its image.
    if code == 2:
        assert err.count("\n") == 1
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interrupt_is_no_traceback(capsys, monkeypatch):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.COMMANDS["info"], "run", interrupt)
    assert run(capsys, "info") == (130, "", "linearsr: interrupted\n")


def test_an_interrupt_while_the_command_is_imported():
    code = (
        "import sys\n"
        "class Interrupt:\n"
        "  def find_spec(name, *_):\n"
        "    if name == 'linearsr_jax.cli.main': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt)\n"
        "from linearsr_jax.__main__ import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "linearsr: interrupted\n")


def test_a_command_without_its_packages_says_what_to_run(capsys, monkeypatch):
    def import_grain(args):
        raise ModuleNotFoundError("No module named 'grain'", name="grain.python")

    monkeypatch.setattr(cli.COMMANDS["train"], "run", import_grain)
    assert run(capsys, "train", "--config", "c", "--workdir", "w") == (
        1,
        "",
        'linearsr: train needs more packages; run: pip install "linearsr_jax[train]"\n',
    )


def test_a_package_that_is_missing_is_named(capsys, monkeypatch):
    def import_absent(args):
        import absent_package.part  # noqa: F401

    monkeypatch.setattr(cli.COMMANDS["info"], "run", import_absent)
    line = "info needs the package absent_package, which is not installed"
    assert run(capsys, "info") == (1, "", f"linearsr: {line}\n")


@pytest.mark.parametrize(
    "error", [MemoryError("4 GB"), RuntimeError("RESOURCE_EXHAUSTED: 4 GB")]
)
def test_too_little_memory_is_no_bug(capsys, monkeypatch, error):
    def fail(args):
        raise error

    monkeypatch.setattr(cli.COMMANDS["train"], "run", fail)
    line = f"linearsr: out of memory: {error}\n"
    assert run(capsys, "train", "--config", "c", "--workdir", "w") == (1, "", line)


def test_a_bug_says_so_and_debug_shows_where(capsys, monkeypatch):
    def fail(args):
        raise KeyError("lost")

    monkeypatch.setattr(cli.COMMANDS["info"], "run", fail)
    code, _, err = run(capsys, "info")
    assert code == 1
    line = "linearsr: KeyError: 'lost'; this is a bug, please report it with what "
    line += "--debug shows"
    assert err == f"{line}\n"
    _, _, err = run(capsys, "info", "--debug")
    assert err.splitlines()[-1] == line
    assert "Traceback" in err
    assert "in fail" in err


@pytest.mark.parametrize("command", [(), *((name,) for name in cli.COMMANDS)])
def test_help_does_not_wait_for_jax(command):
    code = f"import sys; sys.argv = ['linearsr', *{command}, '--help']\n"
    code += "from linearsr_jax.cli import main\n"
    code += "try: main.main()\nexcept SystemExit: pass\n"
    code += "sys.exit(any(name in sys.modules for name in ('jax', 'numpy', 'PIL')))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith(f"usage: linearsr {' '.join(command)}")


def test_python_runs_the_package():
    done = subprocess.run(
        [sys.executable, "-m", "linearsr_jax", "--version"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{__version__}\n"
