"""The trainings that the pages launch have configs and fields that exist."""

import re
import shlex
from pathlib import Path

import pytest

from linearsr_jax.cli.main import make_parser
from linearsr_jax.config.loading import load_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "launch.md", ROOT / "docs" / "pods.md"]
# Words before CONFIG.
TPU = re.compile(r"launch/tpu\.sh (?:start|resume) \w+ (configs/.*)")
SLURM = re.compile(r"launch/slurm\.sh (configs/\S+) \S+ (.*)")
TRAIN = re.compile(r"(linearsr train .*)")


def launched(page):
    """Yields (config, overrides) of every training that a page launches."""
    for line in page.read_text("utf-8").replace("\\\n", " ").splitlines():
        if match := TPU.search(line):
            config, *overrides = shlex.split(match[1])
            yield config, overrides
        elif match := SLURM.search(line):
            yield match[1], shlex.split(match[2])
        elif "xpk" in line and (match := TRAIN.search(line)):
            # The command is quoted once; what follows its end belongs to xpk.
            words = shlex.split(match[1].partition('"')[0])
            args = make_parser().parse_args(words[1:])
            yield args.config[0].removeprefix("/shared/linearsr_jax/"), args.override


LAUNCHED = [found for page in PAGES for found in launched(page)]


def test_there_is_one_for_each_way():
    assert len(LAUNCHED) == 3  # tpu.sh, XPK, slurm.sh


@pytest.mark.parametrize(("config", "overrides"), LAUNCHED)
def test_config_and_fields_exist(monkeypatch, config, overrides):
    monkeypatch.chdir(ROOT)
    found = load_config(config, overrides)
    # Without these a run of a large preset is refused, or nothing says how good it is.
    assert found.data.folder and found.codec_folder
    assert found.val.folder or found.val.holdout
    assert found.val.crop_size <= found.data.crop_size
    assert found.checkpoint_every == 500
