"""The bundled tagger: EfficientNet-Lite0, whose outputs are read in two ways.

The network (weights/efficientnet_lite0.safetensors) sees the image twice: the whole
image, squeezed to a square, and its centre. Probabilities and features are averaged.

- Things: data/imagenet_tags.tsv maps each of ImageNet's classes to several tags (a
  beagle is "beagle" and "dog") or to none. The score of a tag is the sum of the
  probabilities of its classes, so that a dog of uncertain breed is still a dog.
- Scenes ("leaf", "sky", "architecture"), for which ImageNet has no classes: a linear
  map of the square roots of the features, scaled to length 1
  (weights/light_tagger_scenes.safetensors), fitted to 86 photographs.

Neither gives a tag whose score is below a threshold. The map and the thresholds come
from experiments/202611_tagger, which also measures how often the tags are right.
"""

import json
from importlib import resources
from typing import NamedTuple

import jax
import numpy as np
from flax import traverse_util
from safetensors.numpy import load

from linearsr_jax.core.array_types import Float, UInt8
from linearsr_jax.tagging.base import best_first, check_image, digest
from linearsr_jax.tagging.efficientnet_lite import SIZE, EfficientNetLite0
from linearsr_jax.tagging.resizing import BICUBIC, central_box, resize

_PACKAGE = resources.files("linearsr_jax")
NETWORK_FILE = _PACKAGE / "weights" / "efficientnet_lite0.safetensors"
SCENES_FILE = _PACKAGE / "weights" / "light_tagger_scenes.safetensors"
TABLE_FILE = _PACKAGE / "tagging" / "data" / "imagenet_tags.tsv"
SETTINGS_FILE = _PACKAGE / "tagging" / "data" / "light.json"

# Share of the short side; ImageNet classifiers are evaluated on this crop.
_CENTRE = 0.875


class Reading(NamedTuple):
    """Outputs of the network for one image.

    Attributes:
      probabilities: probabilities of ImageNet's classes; their sum is 1.
      features: square roots of the features, scaled to length 1.
    """

    probabilities: Float[np.ndarray, "1000"]
    features: Float[np.ndarray, "1280"]


class LightTagger:
    """The bundled tagger; see the module, and `base.Tagger`."""

    name = "light"

    def __init__(self):
        files = (NETWORK_FILE, SCENES_FILE, TABLE_FILE, SETTINGS_FILE)
        weights, scenes, table, settings = (file.read_bytes() for file in files)
        self.version = digest((weights, scenes, table, settings))
        self._read = load_reader(weights)
        self._tags, self._things = read_table(table.decode())
        self._scenes = load(scenes)
        self._settings = json.loads(settings)

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> list[tuple[str, float]]:
        """Finds the tags of an image; see `base.Tagger`."""
        reading = self._read(image)
        things = reading.probabilities @ self._things
        scenes = reading.features @ self._scenes["kernel"] + self._scenes["bias"]
        best: dict[str, float] = {}
        for names, scores, threshold in (
            (self._tags, things, self._settings["thing_threshold"]),
            (self._settings["scenes"], scenes, self._settings["scene_threshold"]),
        ):
            for name, score in zip(names, scores, strict=True):
                if score > threshold:
                    best[name] = max(best.get(name, 0.0), min(float(score), 1.0))
        return best_first(best.items())


def load_reader(weights: bytes):
    """Makes a function of an image from the network, compiled once for all sizes.

    Args:
      weights: content of NETWORK_FILE.

    Returns:
      A function from an image, uint8 (H, W, 3), to a Reading.
    """
    flat = {name: np.float32(value) for name, value in load(weights).items()}
    params = jax.device_put(traverse_util.unflatten_dict(flat, sep="."))
    network = jax.jit(EfficientNetLite0().apply)

    def read(image):
        outputs = network({"params": params}, make_views(image))
        features, logits = map(np.asarray, outputs)
        return read_outputs(features, logits)

    return read


def read_outputs(
    features: Float[np.ndarray, "B 1280"], logits: Float[np.ndarray, "B 1000"]
) -> Reading:
    """Averages the network's outputs for the views of one image.

    Args:
      features: features of each view.
      logits: logits of each view.
    """
    powers = np.exp(np.float64(logits) - logits.max(axis=1, keepdims=True))
    roots = np.sqrt(features.mean(axis=0, dtype=np.float64))
    return Reading(
        probabilities=(powers / powers.sum(axis=1, keepdims=True)).mean(axis=0),
        # If all features are 0 there is no direction; avoid dividing by 0.
        features=roots / max(np.linalg.norm(roots), 1e-12),
    )


def make_views(
    image: UInt8[np.ndarray, "H W 3"],
) -> Float[np.ndarray, "2 224 224 3"]:
    """Makes the network's inputs: the whole image and its centre, RGB in [0, 255].

    Raises:
      ValueError: image is not uint8 (H, W, 3), or is empty.
    """
    check_image(image)
    boxes = (None, central_box(*image.shape[:2], _CENTRE))
    views = [resize(image, SIZE, BICUBIC, box) for box in boxes]
    return np.stack(views).astype(np.float32)


def read_table(text: str) -> tuple[tuple[str, ...], Float[np.ndarray, "1000 T"]]:
    """Reads the table of ImageNet's classes.

    Args:
      text: one line per class: its name, a tab, and tags separated by ", ".

    Returns:
      The tags, and a matrix with 1 where a class has a tag and 0 elsewhere.
    """
    rows = [line.split("\t")[1] for line in text.splitlines()]
    classes = [row.split(", ") if row else [] for row in rows]
    tags = tuple(dict.fromkeys(tag for row in classes for tag in row))
    matrix = np.array([[tag in row for tag in tags] for row in classes], np.float64)
    return tags, matrix
