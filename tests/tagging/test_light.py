"""The tagger that ships: its table, its network's outputs, what it says."""

import numpy as np
import pytest
from PIL import Image

from linearsr_jax.tagging import light, load_tagger
from linearsr_jax.tagging.vocabulary import TAGS, tag_indices


@pytest.fixture(scope="module")
def tagger():
    return load_tagger("light")


def test_table():
    lines = light.TABLE_FILE.read_text("utf-8").splitlines()
    table = dict(enumerate(line.split("\t") for line in lines))
    assert len(table) == 1000
    tags, matrix = light.read_table(light.TABLE_FILE.read_text("utf-8"))
    assert not set(tags) - set(TAGS)
    assert matrix.shape == (1000, len(tags))
    rows = [{tags[i] for i in np.flatnonzero(row)} for row in matrix]
    for index, (_, text) in table.items():
        written = text.split(", ") if text else []
        assert rows[index] == set(written)
        assert len(written) == len(set(written))
    # The order of the classes: these indices are ImageNet's, known from elsewhere.
    known = {1: "goldfish", 207: "golden retriever", 388: "giant panda", 985: "daisy"}
    assert {index: table[index][0] for index in known} == known
    # Hypernyms, over the ranges that ImageNet's order gives.
    assert all("dog" in rows[index] for index in range(151, 269))
    assert all("bird" in rows[index] for index in [*range(7, 25), *range(127, 147)])
    assert all("insect" in rows[index] for index in range(300, 327))
    assert rows[162] == {"beagle", "dog"}


def test_settings_are_of_the_vocabulary(tagger):
    scenes = tagger._settings["scenes"]
    tag_indices(scenes)
    assert tagger._scenes["kernel"].shape == (1280, len(scenes))
    assert tagger._scenes["bias"].shape == (len(scenes),)


def test_read_outputs_against_plain_sums():
    rng = np.random.default_rng(0)
    features = rng.random((2, 1280)).astype(np.float32)
    logits = rng.normal(0, 3, (2, 1000)).astype(np.float32)
    # Larger than exp can take.
    logits[1] += 2000
    reading = light.read_outputs(features, logits)
    shifted = np.float64(logits) - [[0], [2000]]
    rows = [np.exp(row) / sum(np.exp(row)) for row in shifted]
    np.testing.assert_allclose(
        reading.probabilities, (rows[0] + rows[1]) / 2, rtol=1e-3
    )
    mean = (features[0] + features[1]) / 2
    np.testing.assert_allclose(
        reading.features, np.sqrt(mean) / np.sqrt(sum(mean)), rtol=1e-5
    )
    assert not light.read_outputs(0 * features, logits).features.any()


def test_views():
    # Left half black, right half white, and a white frame at the top.
    image = np.zeros((100, 400, 3), np.uint8)
    image[:, 200:] = 255
    whole, centre = light.make_views(image)
    assert whole.shape == centre.shape == (224, 224, 3)
    # The whole is squeezed; the centre is a square of 87.5 pixels around the middle.
    for view in (whole, centre):
        assert (view[:, :100] == 0).all()
        assert (view[:, 124:] == 255).all()
    image[:5] = 255
    whole, centre = light.make_views(image)
    assert whole[0, 0].tolist() == [255, 255, 255]
    assert (centre[5:, :100] == 0).all()


@pytest.mark.parametrize(
    ("file", "tag"),
    [
        ("ladybird", "ladybird"),
        ("perched-osprey", "bird"),
        ("tj-holowaychuk", "flower"),
    ],
)
def test_photographs(shared, tagger, file, tag):
    pixels = np.asarray(Image.open(shared / "photos" / "val" / f"{file}.webp"))
    found = tagger(pixels)
    assert tag in dict(found)
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 2), (224, 224)])
def test_silent_where_there_is_nothing(tagger, shape):
    assert tagger(np.full((*shape, 3), 128, np.uint8)) == []


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.full((4, 4, 3), np.nan, np.float32),
        [[1, 2, 3]],
        None,
    ],
)
def test_what_is_no_image_is_refused(tagger, image):
    with pytest.raises(ValueError, match="image must be uint8"):
        tagger(image)
