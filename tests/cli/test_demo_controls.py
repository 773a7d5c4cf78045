"""Which controls the page shows; gradio's own are replaced."""

import sys
from unittest import mock

import pytest

from linearsr_jax.cli.demo_page import make_page
from linearsr_jax.cli.page_limits import PageLimits
from linearsr_jax.inference.upscaler import Upscaler


@pytest.mark.parametrize(("name", "is_shown"), [("nano", False), ("nano-flow", True)])
def test_a_seed_that_does_nothing_is_hidden(monkeypatch, tmp_path, name, is_shown):
    gradio = mock.MagicMock()
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    make_page(Upscaler.from_pretrained(name), PageLimits(), tmp_path)
    assert gradio.Number.call_args.kwargs["visible"] is is_shown
