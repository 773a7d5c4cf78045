"""Writes photographs as a TFDS dataset in array_record files, without TensorFlow.

Importing this module imports TFDS, which takes a second.
"""

import contextlib
import io
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from linearsr_jax.data.checking import check_photos
from linearsr_jax.data.folder import FolderStore
from linearsr_jax.data.layouts import DATASETS


class LinearsrPhotos(tfds.core.GeneratorBasedBuilder):
    """TFDS builder with one config for each of `layouts.DATASETS`.

    Images are stored as the bytes of their files, sorted by name. The metadata entry
    "photos" repeats, for each split, everything but the images, so that opening a
    dataset of 100 GB does not read all of it.

    Attributes:
      rejected: reason for each file that was left out, by its path relative to the
        root of the dataset; filled by `download_and_prepare`.
    """

    # TFDS 4.9.10 would look it up with importlib_resources, which it does not require.
    code_path = pathlib.Path(__file__)
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=name, description=layout.title)
        for name, layout in DATASETS.items()
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir holds, for " + "; for ".join(
        f"{name}: {layout.describe()}" for name, layout in DATASETS.items()
    )

    rejected: dict[str, str]

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "file": tfds.features.Text(),
                "width": np.int32,
                "height": np.int32,
                "tags": tfds.features.Sequence(tfds.features.Text()),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description="High-resolution photographs for training LinearSR.",
            features=features,
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator]:
        root = pathlib.Path(dl_manager.manual_dir)
        splits = DATASETS[self.builder_config.name].find_splits(root)
        self.rejected = {}
        self.info.metadata["photos"] = {}
        return {
            split: self._generate_examples(split, folder, folder.relative_to(root))
            for split, folder in splits.items()
        }

    def _generate_examples(
        self, split: str, folder: pathlib.Path, name: pathlib.Path
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        index = self.info.metadata["photos"][split] = []
        rejected = {}
        for photo in check_photos(FolderStore(folder), rejected):
            index.append(photo.entry())
            yield len(index), {"image": photo.data, **photo.entry()}
        if not index:
            raise ValueError(f"{folder}: no photograph in it can be decoded.")
        self.rejected |= {f"{name.as_posix()}/{k}": v for k, v in rejected.items()}


def prepare_dataset(
    name: str, root: pathlib.Path, data_dir: pathlib.Path, *, overwrite: bool = False
) -> tuple[pathlib.Path, dict[str, int], dict[str, str]]:
    """Writes data_dir/linearsr_photos/NAME/VERSION, whole or not at all.

    Args:
      name: key of `layouts.DATASETS`.
      root: folder that contains the folders of that layout.
      data_dir: folder of prepared datasets; created if missing.
      overwrite: whether to replace an existing dataset.

    Returns:
      The folder of the dataset, the number of photographs in each split, and
      `LinearsrPhotos.rejected`.

    Raises:
      FileExistsError: the dataset exists, and overwrite is False.
      FileNotFoundError: root has another layout.
      ValueError: a split has no usable photograph.
    """
    target = LinearsrPhotos(config=name, data_dir=data_dir).data_path
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target}: exists; --overwrite replaces it.")
    DATASETS[name].find_splits(root)  # TFDS would wrap this error in one of its own.
    data_dir.mkdir(parents=True, exist_ok=True)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    # Write to a temporary folder: TFDS removes an existing dataset before it begins.
    with tempfile.TemporaryDirectory(
        prefix=".", suffix=".part", dir=data_dir
    ) as temporary:
        builder = LinearsrPhotos(config=name, data_dir=temporary)
        with contextlib.redirect_stdout(io.StringIO()):  # it names the temporary folder
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=root),
                file_format="array_record",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            shutil.rmtree(target)
        os.rename(builder.data_path, target)
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    return pathlib.Path(target), counts, builder.rejected
