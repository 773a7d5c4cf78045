"""The rows of the table: baselines, other people's networks, models of ours.

A method is a function from a uint8 (h, w, 3) RGB image to one of (4h, 4w, 3).
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from linearsr_jax import Upscaler
from linearsr_jax.evaluation.baselines import bicubic, bicubic_unsharp
from linearsr_jax.pretrained.model_folder import PretrainedModel, load_pretrained

Upscale = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        name: as the table has it.
        version: changes with the weights and settings: outputs of another version
            are not taken for this one's.
        load: makes the function; reads weights and compiles.
        parameters: how many numbers were learned, see `_count_parameters`.
    """

    name: str
    version: str
    load: Callable[[], Upscale]
    parameters: int

    @property
    def key(self) -> str:
        """A file name for what is known of this row."""
        return f"{self.name}-{self.version}"


def lanczos(image_lr: np.ndarray) -> np.ndarray:
    """Upscales x4 with Pillow's Lanczos filter (a = 3)."""
    height, width = image_lr.shape[:2]
    size = (4 * width, 4 * height)
    return np.asarray(Image.fromarray(image_lr).resize(size, Image.Resampling.LANCZOS))


BASELINES = (
    Method("bicubic", "1", lambda: bicubic, 0),
    Method("Lanczos", "1", lambda: lanczos, 0),
    Method("bicubic + unsharp", "1", lambda: bicubic_unsharp, 0),
)

# By row: the stem of the .param and .bin file.
RIVALS = {
    "realesr-general-x4v3": "RealESRGAN_General_x4_v3",
    "realesr-general-wdn-x4v3": "RealESRGAN_General_WDN_x4_v3",
    "4xLSDIRCompactC3": "4xLSDIRCompactC3",
    "Real-ESRGAN x4plus": "realesrgan-x4plus",
}


def find_rivals(folder: Path, threads: int) -> list[Method]:
    """Lists the networks of RIVALS, whose ncnn files are in a folder.

    Args:
        folder: holds a .param and a .bin file for each.
        threads: how many CPU threads each may take.

    Raises:
        FileNotFoundError: one of the files is not there.
    """
    methods = []
    for name, stem in RIVALS.items():
        param, weights = (folder / f"{stem}{suffix}" for suffix in (".param", ".bin"))
        for file in (param, weights):
            if not file.is_file():
                raise FileNotFoundError(f"{file}: needed for {name}; see README.md")

        def load(param: Path = param, weights: Path = weights) -> Upscale:
            return load_ncnn(param, weights, threads)

        # The numbers are stored in 16 bits each, with a few bytes of tags between.
        parameters = weights.stat().st_size // 2
        version = hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
        methods.append(Method(name, version, load, parameters))
    return methods


def load_ncnn(param: Path, weights: Path, threads: int) -> Upscale:
    """Loads a network of ncnn's that takes "data" in [0, 1] and gives "output".

    Args:
        param: the structure, text.
        weights: the numbers.
        threads: how many CPU threads it may take.

    Raises:
        ValueError: ncnn cannot read the files.
    """
    # Only this experiment needs ncnn: pip install ncnn.
    import ncnn

    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = threads
    if net.load_param(str(param)) or net.load_model(str(weights)):
        raise ValueError(f"{param}, {weights}: ncnn cannot read them")

    def upscale(image_lr: np.ndarray) -> np.ndarray:
        planes = np.ascontiguousarray(image_lr.transpose(2, 0, 1), np.float32) / 255
        # The Mat does not own its memory: `planes` must live until the output is
        # there, and the output is copied before ncnn frees it.
        with net.create_extractor() as extractor:
            extractor.input("data", ncnn.Mat(planes))
            status, output = extractor.extract("output")
            if status:
                raise RuntimeError(f"{param}: ncnn's extract returned {status}")
            result = np.array(output)
        levels = np.rint(np.clip(result, 0, 1) * 255).astype(np.uint8)
        return np.ascontiguousarray(levels.transpose(1, 2, 0))

    return upscale


def parse_model(text: str) -> Method:
    """Makes a row of a model.

    Args:
        text: "name=folder", "name=folder@steps" or "name=folder@steps@fidelity"; in
            place of a folder a bundled name; steps is a whole number, fidelity is in
            [0, 1].

    Raises:
        ValueError: text is not so.
        PretrainedError: the folder is no model.
    """
    name, _, rest = text.partition("=")
    folder, *settings = rest.split("@")
    if not (name and folder) or len(settings) > 2:
        raise ValueError(f"{text!r}: must be name=folder[@steps[@fidelity]]")
    kinds = zip(("steps", "fidelity"), (int, float), settings, strict=False)
    options = {option: kind(value) for option, kind, value in kinds}
    model = load_pretrained(folder)
    version = "@".join([_digest(model), *settings])

    def load() -> Upscale:
        upscaler = Upscaler.from_pretrained(folder)
        return lambda image_lr: upscaler(image_lr, **options)

    return Method(name, version, load, _count_parameters(model))


def _digest(model: PretrainedModel) -> str:
    """Shortens the SHA-256 of all weights, the slider's second set included."""
    digest = hashlib.sha256()
    for weights in jax.tree.leaves((model.experts, model.mean_experts)):
        digest.update(np.asarray(weights).tobytes())
    return digest.hexdigest()[:8]


def _count_parameters(model: PretrainedModel) -> int:
    """Counts what an image takes: the experts, without the table of tags.

    Of the table an image reads a few rows; the slider's second set is mixed into the
    first before.
    """
    leaves = jax.tree_util.tree_leaves_with_path(model.experts)
    return sum(
        weights.size
        for path, weights in leaves
        if "'tags'" not in jax.tree_util.keystr(path)
    )
