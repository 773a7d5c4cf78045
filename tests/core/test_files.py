"""Whole files: nothing half-written stays, nothing that was there is lost."""

import os

import pytest

from linearsr_jax.core.files import sha256, write_text, written_whole


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
