"""Training with conditions: what is learned, what is kept, what the model knows."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from linearsr_jax.data.condition_table import ConditionTable
from linearsr_jax.data.manifest import Manifest
from linearsr_jax.inference.upscaler import Upscaler
from linearsr_jax.pretrained.model_folder import load_pretrained, save_pretrained
from linearsr_jax.tagging.vocabulary import TAGS
from linearsr_jax.training.batches import Photographs
from linearsr_jax.training.esgf_policy import Selection
from linearsr_jax.training.export import describe_origin, export_model
from linearsr_jax.training.loop import train_and_evaluate
from linearsr_jax.training.record import RunRecord
from tests.experts_testing import make_pretrained
from tests.training.test_loop import make_config

WORDS = {"0.png": ["sky", "zoo"], "1.png": ["flower"], "2.png": []}
SEEN = sorted(TAGS.index(tag) for tag in ("sky", "zoo", "flower"))


@pytest.fixture(scope="module")
def tagged(photos, tmp_path_factory):
    """The photographs with tags beside them."""
    folder = tmp_path_factory.mktemp("tagged")
    for path in photos.glob("?.png"):
        (folder / path.name).write_bytes(path.read_bytes())
    lines = [json.dumps({"file": k, "tags": v}) + "\n" for k, v in WORDS.items()]
    (folder / "photos.jsonl").write_text("".join(lines))
    return folder


def train(photos, workdir, **fields):
    config = make_config(photos)
    with config.unlocked():
        config.update_from_flattened_dict(
            {"val.folder": str(photos), "val.every": 4, "val.metrics": ("psnr",)}
            | fields
        )
    train_and_evaluate(config, workdir)
    return load_pretrained(workdir / "model")


@pytest.fixture(scope="module")
def plain():
    return make_pretrained(())


@pytest.fixture(scope="module")
def with_tags(plain, tagged, tmp_path_factory):
    """(model, before): only its tags were trained, from the plain model."""
    workdir = tmp_path_factory.mktemp("with_tags")
    only = ("tags", "condition", "cross_attention")
    return train(
        tagged,
        workdir / "run",
        **{
            "init_from": str(plain_folder(plain, workdir)),
            "condition.kind": "tags",
            "condition.dropout": 0.0,
            "optimizer.only": only,
        },
    )


def plain_folder(plain, folder, training=None):
    save_pretrained(
        folder / "plain",
        plain.experts,
        plain.preset,
        plain.codec,
        training=training or {},
        card="",
    )
    return folder / "plain"


def test_only_the_tags_that_were_there_are_learned(plain, with_tags):
    before, after = (model.experts[0]["tags"]["table"] for model in (plain, with_tags))
    changed = np.flatnonzero(np.any(before != after, axis=1)).tolist()
    assert changed == SEEN
    assert with_tags.training["tags"] == ["flower", "sky", "zoo"]


def test_the_rest_is_kept(plain, with_tags):
    def rest(model):
        params = jax.tree.map(np.asarray, model.experts[0])
        blocks = dict(params["blocks"])
        del blocks["cross_attention"]
        kept = {k: v for k, v in params.items() if k not in ("tags", "condition")}
        return kept | {"blocks": blocks}

    jax.tree.map(np.testing.assert_array_equal, rest(plain), rest(with_tags))


def test_without_tags_it_answers_as_before_and_with_them_not(plain, with_tags):
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    before, after = Upscaler(plain), Upscaler(with_tags)
    np.testing.assert_array_equal(before(image), after(image))
    assert np.any(after(image, tags="sky") != after(image))


def test_tags_are_known_after_a_run_without(with_tags, tmp_path):
    record = RunRecord(
        config=with_tags.training["config"],
        versions={},
        data_seed=0,
        codec={},
        origin=describe_origin(with_tags.training),
        manifest=Manifest(("a.png",), ((64, 64),)),
    )
    export_model(
        tmp_path / "model",
        jax.tree.map(lambda x: jnp.asarray(x)[None], with_tags.experts[0]),
        record=record,
        codec=with_tags.codec,
        files={"files": ["a.png"], "held_out": []},
        selection=Selection(step=4, trained_to=4),
    )
    later = load_pretrained(tmp_path / "model")
    assert later.training["tags"] == with_tags.training["tags"]


def test_tags_it_has_not_seen_are_left_out(with_tags, caplog):
    upscaler = Upscaler(with_tags)
    assert upscaler.select_tags("Skies, abacus, nonsense") == ("sky",)
    assert "abacus: left out, model model has seen no photograph of it" in caplog.text
    assert "nonsense" in caplog.text


def test_features(tagged, tmp_path):
    path = tmp_path / "features.safetensors"
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((3, 16)).astype("f4") for name in WORDS}
    save_file(arrays, path)
    fields = {"condition.kind": "features", "condition.file": str(path)}
    with pytest.raises(ValueError, match=r"also from condition\.val_file"):
        train(tagged, tmp_path / "a", **fields)
    model = train(tagged, tmp_path / "b", **fields | {"condition.val_file": str(path)})
    out = model.experts[0]["blocks"]["cross_attention"]["out"]["kernel"]
    assert np.any(out != 0)
    assert model.training["config"]["condition"]["file"] == ""


def test_a_bad_kind(tagged, tmp_path):
    with pytest.raises(ValueError, match="'words' must be none, tags or features"):
        train(tagged, tmp_path, **{"condition.kind": "words"})


def test_hosts_with_other_conditions_say_something_else():
    class Source:
        names, tags = ("a",), ((),)
        manifest = types.SimpleNamespace(sizes=((4, 4),))

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return np.zeros((4, 4, 3), np.uint8)

    def describe(value):
        table = ConditionTable(np.full((1, 2, 3), value), np.ones((1, 2), bool))
        return Photographs(None, Source(), None, table, None).describe()

    assert describe(1.0) == describe(1.0)
    assert describe(1.0) != describe(1.5)
