"""Model folders as somebody careless or hostile would make them: one clean error each.

The mutations are drawn from a seed, so that a failure can be repeated.
"""

import copy
import json
import os
import random
import shutil

import numpy as np
import pytest

from linearsr_jax.codecs import PixelCodec
from linearsr_jax.core.files import SUMS_FILE, sha256
from linearsr_jax.models.presets import get_preset
from linearsr_jax.pretrained.model_folder import (
    PretrainedError,
    load_pretrained,
    save_pretrained,
)
from tests.experts_testing import make_experts
from tests.mutations import TIMES

MUTATIONS = 600 * TIMES
WRONG_VALUES = (
    None,
    True,
    "",
    "x" * 1000,
    [],
    {},
    [1, 2],
    -1,
    0,
    1,
    3,
    0.5,
    1e400,
    float("nan"),
    10**400,
    2**63,
    [[[]]],
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "model"
    save_pretrained(
        folder,
        make_experts(1),
        get_preset("debug"),
        PixelCodec(),
        training={"step": 1, "tags": ["bird"]},
        card="",
    )
    return folder


@pytest.fixture
def folder(model, tmp_path):
    return shutil.copytree(model, tmp_path / "model")


def seal(folder):
    """Makes SHA256SUMS agree with the files again."""
    names = sorted(p.name for p in folder.iterdir() if p.name != SUMS_FILE)
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names]
    (folder / SUMS_FILE).write_text("".join(lines))


def places(value, path=()):
    """Yields the path of every value inside a JSON value."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (*path, key)
            yield from places(value[key], (*path, key))


def mutate(config, rng):
    """Returns a copy with one value changed, removed or added, and what was done."""
    changed = copy.deepcopy(config)
    *parents, key = rng.choice(list(places(config)))
    inside = changed
    for parent in parents:
        inside = inside[parent]
    kind = rng.choice(["wrong", "wrong", "scaled", "gone", "more"])
    if kind == "gone":
        del inside[key]
    elif kind == "more" and isinstance(inside, dict):
        inside["more"] = 1
    elif kind == "scaled" and isinstance(inside[key], int | float):
        inside[key] *= rng.choice([-1, 2, 3, 1e-3, 1e6, 10**9])
    else:
        inside[key] = rng.choice(WRONG_VALUES)
    return changed, f"{(*parents, key)}: {json.dumps(inside)[:300]}"


def test_mutated_configs_raise_nothing_else(folder):
    config = json.loads((folder / "config.json").read_text())
    rng = random.Random(0)
    refused = 0
    for _ in range(MUTATIONS):
        changed, what = mutate(config, rng)
        (folder / "config.json").write_text(json.dumps(changed))
        seal(folder)
        try:
            load_pretrained(folder)
        except PretrainedError as error:
            assert "\n" not in str(error), what
            refused += 1
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
    # The others changed the record of the training, or a field within its range.
    assert refused > MUTATIONS / 2


def test_mutated_codecs_raise_nothing_else(tmp_path, folder):
    from linearsr_jax.codecs import CodecError, make_codec
    from linearsr_jax.codecs.dc_ae_network import DcAeConfig

    small = DcAeConfig(
        widths=(4, 8),
        encoder_depths=(1, 1),
        decoder_depths=(1, 1),
        first_attention=1,
        head_size=4,
        latent_channels=4,
    )
    config = json.loads(json.dumps(small.to_dict()))
    rng = random.Random(0)
    for _ in range(100 * TIMES):
        changed, what = mutate(config, rng)
        try:
            make_codec({"name": "dc_ae"} | changed, tmp_path)
        except (CodecError, ValueError):
            pass
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error


def test_mutated_tensor_files_raise_nothing_else(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    for _ in range(200 * TIMES):
        data = bytearray(whole)
        for place in rng.integers(0, header, rng.integers(1, 4)):
            data[place] = rng.choice(list(b'0123456789"{}[],:aF\0\xff'))
        path.write_bytes(data)
        seal(folder)
        try:
            load_pretrained(folder)
        except PretrainedError:
            pass
        except Exception as error:
            raise AssertionError(f"{bytes(data[:header])!r:.500}: {error!r}") from error


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "\xff", "{", '{"format": 1}', '{"format": 1, "preset": 1}']
)
def test_config_that_is_none(folder, text):
    (folder / "config.json").write_text(text, encoding="latin-1")
    seal(folder)
    with pytest.raises(PretrainedError, match=r"config\.json"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/dev/zero", "names no file of this folder"),
        ("../model/config.json", "names no file of this folder"),
        ("sub/config.json", "names no file of this folder"),
        ("..", "names no file of this folder"),
        ("", "names no file of this folder"),
        ("pipe", "not a regular file"),
        ("zero", "not a regular file"),
        ("sub", "not a regular file"),
        ("huge", "more than the limit"),
        ("absent", "No such file"),
    ],
)
def test_sums_that_name_something_else(folder, line, message):
    os.mkfifo(folder / "pipe")
    (folder / "sub").mkdir()
    (folder / "zero").symlink_to("/dev/zero")
    with (folder / "huge").open("wb") as file:
        file.truncate(10**11)
    (folder / SUMS_FILE).write_text(f"{'0' * 64}  {line}\n")
    with pytest.raises(PretrainedError, match=message):
        load_pretrained(folder)


@pytest.mark.parametrize("kind", ["empty", "pipe", "long", "binary"])
def test_sums_that_are_no_list(folder, kind):
    path = folder / SUMS_FILE
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        data = {"empty": b"", "long": b" " * 2_000_000, "binary": b"\xff\0"}[kind]
        path.write_bytes(data)
    with pytest.raises(PretrainedError, match=SUMS_FILE):
        load_pretrained(folder)


def test_a_file_that_is_not_listed_is_not_used(folder):
    lines = (folder / SUMS_FILE).read_text().splitlines(keepends=True)
    kept = [line for line in lines if "model.safetensors" not in line]
    (folder / SUMS_FILE).write_text("".join(kept))
    with pytest.raises(PretrainedError, match=r"does not list model\.safetensors"):
        load_pretrained(folder)


def test_links_to_files_elsewhere_are_followed(folder, tmp_path):
    """As in the cache of a model hub."""
    (folder / "model.safetensors").rename(tmp_path / "blob")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    assert load_pretrained(folder).training["step"] == 1


def test_a_folder_does_not_shadow_a_bundled_model(folder, monkeypatch):
    folder.rename(folder.with_name("nano"))
    monkeypatch.chdir(folder.parent)
    assert load_pretrained("nano").preset.width == 64
    assert load_pretrained("./nano").preset == get_preset("debug")
    assert load_pretrained(folder.with_name("nano")).preset == get_preset("debug")
    monkeypatch.chdir("nano")
    assert load_pretrained(".").name == "nano"
    with pytest.raises(PretrainedError, match="no such model"):
        load_pretrained("")
