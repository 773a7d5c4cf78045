"""Fits the light tagger's scenes and thresholds, and says how often it is right.

    python experiments/202611_tagger/calibrate.py shared/photos --out results.json

With --write the fitted files go into the package. See README.md for the rules.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from linearsr_jax.core import image_io
from linearsr_jax.tagging import light
from linearsr_jax.tagging.vocabulary import parse_tags

# A scene is fitted if this many of the photographs show it.
LEAST_PHOTOS = 5
FOLDS = 10
SEEDS = range(20)
# What is tried: thresholds, and the ridge as a part of the features' variance.
THING_THRESHOLDS = (0.4, 0.5, 0.6, 0.7)
SCENE_THRESHOLDS = (0.35, 0.4, 0.45, 0.5, 0.55)
RIDGES = (0.2, 0.4, 0.8)
# The largest coverage is taken of what has this precision: the target, 0.6, and the
# uncertainty of a share of some sixty tags.
LEAST_PRECISION = 0.66


class Photos:
    """Photographs with what the network says of them and the tags they have."""

    def __init__(self, names, probabilities, features, tags):
        self.names = names
        self.things = probabilities @ TABLE
        self.features = features
        self.tags = tags

    def __len__(self):
        return len(self.names)

    def take(self, index):
        """Some of them."""
        taken = object.__new__(Photos)
        taken.names = [self.names[i] for i in index]
        taken.tags = [self.tags[i] for i in index]
        taken.things, taken.features = self.things[index], self.features[index]
        return taken


THINGS, TABLE = light.read_table(light.TABLE_FILE.read_text("utf-8"))


def read_photos(folder, split, reduce=1):
    """Reads the photographs of a split; reduced by a factor, if asked to."""
    from PIL import Image

    read = light.load_reader(light.NETWORK_FILE.read_bytes())
    lines = (folder / "photos.jsonl").read_text("utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["file"].startswith(split)]
    readings = []
    for row in rows:
        pixels = image_io.read_image(folder / row["file"]).rgb
        if reduce > 1:
            size = (pixels.shape[1] // reduce, pixels.shape[0] // reduce)
            pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.BICUBIC))
        readings.append(read(pixels))
    return Photos(
        [row["file"] for row in rows],
        np.array([reading.probabilities for reading in readings]),
        np.array([reading.features for reading in readings]),
        [set(parse_tags(row["tags"])) for row in rows],
    )


def choose_scenes(photos):
    """The tags that enough of the photographs have, in alphabetical order."""
    counts = Counter(tag for tags in photos.tags for tag in tags)
    return sorted(tag for tag, count in counts.items() if count >= LEAST_PHOTOS)


def fit(photos, scenes, ridge):
    """Ridge regression of 0 and 1 on the features: kernel and bias."""
    shown = np.array([[scene in tags for scene in scenes] for tags in photos.tags])
    middle, share = photos.features.mean(0), shown.mean(0)
    centred = photos.features - middle
    gram = centred @ centred.T
    gram += ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    kernel = centred.T @ np.linalg.solve(gram, shown - share)
    return kernel, share - middle @ kernel


def predict(photos, scenes, head, thresholds):
    """Tags of each photograph."""
    thing, scene = thresholds
    found = photos.features @ head[0] + head[1]
    return [
        {THINGS[i] for i in np.flatnonzero(photos.things[n] > thing)}
        | {scenes[i] for i in np.flatnonzero(found[n] > scene)}
        for n in range(len(photos))
    ]


def count(predicted, photos):
    """Tags given, right ones, photographs with a tag, photographs."""
    right = [p & t for p, t in zip(predicted, photos.tags, strict=True)]
    given = sum(map(len, predicted))
    return np.array(
        [given, sum(map(len, right)), sum(map(bool, predicted)), len(photos)]
    )


def describe(counts):
    """Counts as the numbers that are reported."""
    given, right, tagged, photos = (float(x) for x in counts)
    return {
        "tags": given,
        "right": right,
        "precision": right / given if given else None,
        "coverage": tagged / photos,
        "photos": photos,
    }


def split_folds(number, seed):
    """Indices inside and outside of each fold."""
    order = np.random.default_rng(seed).permutation(number)
    parts = np.array_split(np.arange(number), FOLDS)
    return [(np.delete(order, part), order[part]) for part in parts]


def count_grid(photos, seeds):
    """Cross-validated counts of every setting."""
    grid = {}
    for seed in seeds:
        for inside, outside in split_folds(len(photos), seed):
            known, unseen = photos.take(inside), photos.take(outside)
            scenes = choose_scenes(known)
            for ridge in RIDGES:
                head = fit(known, scenes, ridge)
                for thing in THING_THRESHOLDS:
                    for scene in SCENE_THRESHOLDS:
                        predicted = predict(unseen, scenes, head, (thing, scene))
                        key = (ridge, thing, scene)
                        grid[key] = grid.get(key, 0) + count(predicted, unseen)
    return grid


def choose(grid):
    """The setting of the largest coverage among the precise ones."""
    precise = [key for key in grid if grid[key][1] >= LEAST_PRECISION * grid[key][0]]
    return max(precise, key=lambda key: grid[key][2])


def cross_validate(photos, seeds, inner_seeds):
    """Counts where settings, too, are chosen without the photographs scored."""
    total = []
    for seed in seeds:
        counts = 0
        for inside, outside in split_folds(len(photos), seed):
            known, unseen = photos.take(inside), photos.take(outside)
            ridge, *thresholds = choose(count_grid(known, inner_seeds))
            scenes = choose_scenes(known)
            head = fit(known, scenes, ridge)
            counts = counts + count(predict(unseen, scenes, head, thresholds), unseen)
        total.append(counts)
    return np.array(total)


def main():
    """Runs the calibration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="shared/photos")
    parser.add_argument("--out", type=Path, required=True, help="results.json")
    parser.add_argument("--write", action="store_true", help="replace the fitted files")
    args = parser.parse_args()

    train = read_photos(args.photos, "train/")
    grid = count_grid(train, SEEDS)
    ridge, *thresholds = setting = choose(grid)
    nested = cross_validate(train, SEEDS[:5], SEEDS[:2])
    scenes = choose_scenes(train)
    kernel, bias = head = fit(train, scenes, ridge)
    settings = {
        "scenes": scenes,
        "thing_threshold": thresholds[0],
        "scene_threshold": thresholds[1],
    }
    results = {
        "setting": {"ridge": ridge, **settings},
        "train, cross-validated": describe(grid[setting] / len(SEEDS)),
        "train, cross-validated with its settings": describe(nested.mean(0)),
        "the same, by seed": [describe(counts) for counts in nested],
        "train, cross-validated, things only": describe(things_only(train, thresholds)),
    }
    for name, reduce in (("val", 1), ("val, reduced x4", 4)):
        photos = read_photos(args.photos, "val/", reduce)
        predicted = predict(photos, scenes, head, thresholds)
        results[name] = describe(count(predicted, photos))
        results[f"{name}, tags"] = dict(
            zip(photos.names, map(sorted, predicted), strict=True)
        )
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    if args.write:
        arrays = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
        source = "experiments/202611_tagger"
        Path(str(light.SCENES_FILE)).write_bytes(save(arrays, {"source": source}))
        text = json.dumps(settings, indent=1) + "\n"
        Path(str(light.SETTINGS_FILE)).write_text(text)


def things_only(photos, thresholds):
    """Counts without the scenes; nothing of it is fitted but the threshold."""
    head = (np.zeros((photos.features.shape[1], 0)), np.zeros(0))
    return count(predict(photos, [], head, thresholds), photos)


if __name__ == "__main__":
    main()
