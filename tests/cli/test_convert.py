"""`linearsr convert`: what is printed; tests/convert/ converts each model."""

from tests.cli.running import run
from tests.gemma2_testing import save_source


def test_converts_and_counts(capsys, tmp_path):
    source = save_source(tmp_path / "source")
    arguments = ["convert", "--from", "gemma2", source, "--to", tmp_path / "ours"]
    code, out, _ = run(capsys, *arguments)
    # Embedding, last norm, three layers by hand.
    count = 40 * 20 + 20 + 3 * (20 * (24 + 12 + 12 + 24 + 28 * 3) + 80)
    assert (code, out) == (0, f"{tmp_path / 'ours'}: {count} parameters\n")
    code, _, err = run(capsys, *arguments)
    assert (code, "exists" in err) == (1, True)


def test_codec_is_for_sana(capsys, tmp_path):
    arguments = ["convert", "--from", "gemma2", tmp_path, "--to", tmp_path / "ours"]
    code, _, err = run(capsys, *arguments, "--codec", tmp_path)
    assert (code, "--codec goes with --from sana" in err) == (2, True)


def test_unknown_model(capsys, tmp_path):
    code, _, err = run(capsys, "convert", "--from", "clip", tmp_path, "--to", tmp_path)
    assert (code, "invalid choice: 'clip'" in err) == (2, True)
