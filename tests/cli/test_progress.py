"""The bar of one large image."""

import sys

from linearsr_jax.cli.progress import PartsBar


def test_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = PartsBar()
    for _ in range(2):
        for done in range(1, 5):
            bar(done, 4)
    err = capsys.readouterr().err
    assert "/4" in err
    # It is gone at the end.
    assert err.endswith("\r")


def test_lines_elsewhere(caplog, monkeypatch):
    caplog.set_level("INFO")
    bar = PartsBar()
    bar(1, 4)
    assert caplog.messages == []
    monkeypatch.setattr("linearsr_jax.cli.progress._INTERVAL", 0)
    bar(2, 4)
    assert caplog.messages == ["linearsr: 50 % of this image done"]
