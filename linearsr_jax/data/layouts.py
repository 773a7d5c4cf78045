"""Lists the folders of known datasets, as their archives unpack.

Only high-resolution photographs are listed, since training makes its own LR images.
To add a dataset, add an entry to DATASETS.
"""

import dataclasses
import pathlib
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Layout:
    """The folders of a dataset.

    Attributes:
      title: description with source.
      splits: folder of each split by its name, relative to the root of the dataset and
        searched recursively. Splits whose folder is missing are skipped.
    """

    title: str
    splits: Mapping[str, str]

    def describe(self) -> str:
        """Describes the expected folders in words."""
        folders = (f"{folder}/ ({split})" for split, folder in self.splits.items())
        return " and ".join(folders)

    def find_splits(self, root: pathlib.Path) -> dict[str, pathlib.Path]:
        """Returns the folder of each split that exists.

        Raises:
          FileNotFoundError: no split exists.
        """
        folders = {split: root / folder for split, folder in self.splits.items()}
        found = {split: path for split, path in folders.items() if path.is_dir()}
        if not found:
            raise FileNotFoundError(
                f"{root}: not laid out as expected; must contain {self.describe()}."
            )
        return found


DATASETS: dict[str, Layout] = {
    "photos": Layout(
        "Photographs of your own; photos.jsonl beside the folders may hold tags.",
        {"train": "train", "val": "val"},
    ),
    "div2k": Layout(
        "DIV2K (Agustsson and Timofte, NTIRE 2017): 800 + 100 photographs, 2K.",
        {"train": "DIV2K_train_HR", "val": "DIV2K_valid_HR"},
    ),
    "flickr2k": Layout(
        "Flickr2K (Timofte et al., NTIRE 2017): 2,650 photographs, 2K.",
        {"train": "Flickr2K/Flickr2K_HR"},
    ),
    # The archives unpack to folders of a thousand: 0001000/, 0002000/, ...
    "lsdir": Layout(
        "LSDIR (Li et al., CVPRW 2023): 84,991 photographs; the numbered folders of "
        "its archives go into train/.",
        {"train": "train", "val": "val"},
    ),
    "ffhq": Layout(
        "FFHQ (Karras et al., CVPR 2019): 70,000 faces, 1024x1024.",
        {"train": "images1024x1024"},
    ),
}
