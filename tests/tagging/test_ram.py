"""RAM as a tagger: what goes in, which tags come out."""

import jax
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image

from linearsr_jax.tagging.ram import RamTagger
from linearsr_jax.tagging.ram_network import Ram, parameter_shapes
from linearsr_jax.tagging.vocabulary import TAGS, TagError, ram_thresholds
from tests.convert.test_ram import TINY


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    flat = {
        name: rng.standard_normal(shape, np.float32)
        for name, shape in parameter_shapes(TINY).items()
    }
    return traverse_util.unflatten_dict(flat, sep=".")


# Of five labels; in another order than the list's.
SOME = (TAGS[4], TAGS[1])


@pytest.fixture(scope="module")
def tagger(params):
    return RamTagger(params, TINY, "1", tags=SOME)


def test_probabilities(params, tagger):
    """Preprocessing as specs/RAM.md section 1 says, in float64 and by Pillow.

    And a part of the tags has the same probabilities as among all.
    """
    image = np.random.default_rng(0).integers(0, 256, (30, 20, 3)).astype(np.uint8)
    resized = Image.fromarray(image).resize((8, 8), Image.Resampling.BILINEAR)
    x = (np.float64(resized) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    run = jax.jit(Ram(TINY).apply)
    logits = np.float64(run({"params": params}, np.float32(x[None]))[0])
    expected = 1 / (1 + np.exp(-logits))
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(tagger.probabilities(image), expected[[4, 1]], rtol=1e-5)


def test_thresholds(params, monkeypatch):
    """Strictly above its own threshold; the best first."""
    tagger = RamTagger(params, TINY, "1")
    thresholds = ram_thresholds()[:5]
    p = np.float32([thresholds[0], thresholds[1] + 1e-3, 0.1, 0.99, 0.7])
    monkeypatch.setattr(tagger, "probabilities", lambda image: p)
    found = tagger(np.zeros((8, 8, 3), np.uint8))
    assert [tag for tag, _ in found] == [TAGS[3], TAGS[4], TAGS[1]]
    assert dict(found)[TAGS[3]] == pytest.approx(0.99)


def test_tags_that_are_not_there(params):
    with pytest.raises(TagError):
        RamTagger(params, TINY, "1", tags=["nonsense"])
    with pytest.raises(ValueError, match="no labels for zoo"):
        RamTagger(params, TINY, "1", tags=["zoo"])


def test_what_is_no_image_is_refused(tagger):
    with pytest.raises(ValueError, match="image must be uint8"):
        tagger(np.zeros((8, 8), np.uint8))
