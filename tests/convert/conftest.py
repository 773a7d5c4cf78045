"""Fixtures of SANA's conversion."""

import pytest

from linearsr_jax.convert import sana_names
from tests.sana_testing import save_codec


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    return save_codec(tmp_path_factory.mktemp("codec") / "dc_ae")


@pytest.fixture
def official_sizes(monkeypatch):
    monkeypatch.setitem(sana_names.CROSS_HEADS, 32, 2)
