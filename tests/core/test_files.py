"""Whole files: nothing half-written stays, nothing that was there is lost."""

import os
import subprocess
import sys

import pytest

from linearsr_jax.core.files import (
    remove_abandoned,
    sha256,
    write_text,
    written_whole,
)


def test_failing_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), written_whole(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_file_has_its_name_only_when_it_is_on_the_disk(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_text(tmp_path / "a.txt", "new")
    assert not list(tmp_path.iterdir())


def test_folder_appears_when_all_is_in_it(tmp_path):
    folder = tmp_path / "model"
    with written_whole(folder) as temporary:
        temporary.mkdir()
        (temporary / "a").touch()
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ["a"]
    with pytest.raises(ValueError, match="bad"), written_whole(folder) as temporary:
        temporary.mkdir()
        (temporary / "b").touch()
        raise ValueError("bad")
    assert list(tmp_path.iterdir()) == [folder]


def test_missing_folder_is_named(tmp_path):
    path = tmp_path / "none" / "a.txt"
    with pytest.raises(FileNotFoundError, match="none"):
        write_text(path, "new")


def test_text_is_written_as_given(tmp_path):
    write_text(tmp_path / "a.csv", "ü,1\r\n")
    assert (tmp_path / "a.csv").read_bytes() == b"\xc3\xbc,1\r\n"


def test_sha256(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256(path).startswith("ba7816bf8f01cfea414140de5dae2223")


def killed_part(folder):
    """Lets a process begin a file and kills it; returns the temporary name."""
    code = (
        "import os, pathlib, signal, sys\n"
        "from linearsr_jax.core.files import written_whole\n"
        "with written_whole(pathlib.Path(sys.argv[1], 'a')) as part:\n"
        "    part.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    (part,) = folder.iterdir()
    return part


def test_what_a_killed_process_began_is_removed(tmp_path):
    part = killed_part(tmp_path)
    others = [tmp_path / name for name in (".hidden.part", "a.part", ".x-1-2.part")]
    for other in others:
        other.touch()
    remove_abandoned(tmp_path)
    assert not part.exists()
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_what_runs_is_left_alone(tmp_path):
    with written_whole(tmp_path / "a") as part:
        part.touch()
        # As if the parent of this process, which runs, had begun it too.
        other = part.with_name(part.name.replace(f"-{os.getpid()}", f"-{os.getppid()}"))
        other.touch()
        remove_abandoned(tmp_path)
        assert part.exists()
        assert other.exists()


def test_what_another_machine_began_is_left_for_a_day(tmp_path):
    part = tmp_path / f".{'0' * 16}-{'f' * 8}-1.part"
    part.touch()
    remove_abandoned(tmp_path)
    assert part.exists()
    os.utime(part, (0, 0))
    remove_abandoned(tmp_path)
    assert not part.exists()
    remove_abandoned(tmp_path / "absent")
