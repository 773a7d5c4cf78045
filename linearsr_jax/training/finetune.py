"""Teaches a model the user's own photographs, and compares before with after.

A tenth of the photographs is held out; the loop of `loop.py` trains the model on the
others. Then the model upscales the held-out photographs as it was before and after.
They stay in the workdir as data sets for `linearsr eval`.

A model with a slider goes on with the losses that made its sharp end, and keeps the
slider.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from linearsr_jax.config.defaults import default_config
from linearsr_jax.config.loading import apply_overrides
from linearsr_jax.config.one_step import train_for_the_eye
from linearsr_jax.core.array_types import UInt8
from linearsr_jax.core.errors import LinearSRError
from linearsr_jax.core.image_io import find_images, read_image, write_image
from linearsr_jax.core.images import Image
from linearsr_jax.core.scale import SCALE
from linearsr_jax.data.degrading import used
from linearsr_jax.data.sources import open_source
from linearsr_jax.evaluation import tables
from linearsr_jax.evaluation.baselines import BASELINES, bicubic
from linearsr_jax.evaluation.runner import evaluate
from linearsr_jax.inference.upscaler import Upscaler
from linearsr_jax.models.presets import PRESETS
from linearsr_jax.pretrained.model_folder import (
    CARD_FILE,
    PretrainedModel,
    load_pretrained,
    save_model,
)
from linearsr_jax.training.loop import train_and_evaluate
from linearsr_jax.training.validation import degrade_fixed

# Held-out photographs are cropped to this many HR pixels per side around their centre,
# because LPIPS of a whole camera image would need gigabytes.
MAX_SIDE = 768
METRICS = ("psnr", "ssim", "lpips")
# Number of photographs in the picture, and LR pixels per side of each.
_SHOWN = 4
_SHOWN_SIDE = 64
# In the card.
_SLIDER = """## Slider
`fidelity` 1 is what was trained, from fidelity 1 of {origin.name}; 0 is that of
{origin.name}, unchanged; the default is {origin.default_fidelity:g}.
"""


class FinetuneError(LinearSRError):
    """Raised for a model or folder that cannot be used; one line."""


class Comparison(NamedTuple):
    """The model before and after, on the held-out photographs.

    Attributes:
      model: folder of the result.
      tables: for each degradation, the rows of the baselines, "before" and "after".
    """

    model: Path
    tables: Mapping[str, Sequence[tables.Row]]


def finetune_config(
    photos: Path, model: str, overrides: Sequence[str] = ()
) -> ConfigDict:
    """Makes the locked training config of a fine-tuning run.

    Args:
      photos: photographs; see `data.sources.open_source`.
      model: name of a bundled model, or model folder.
      overrides: see `config.load_config`.

    Raises:
      FinetuneError: the model has the sizes of no preset, or nothing is held out.
      PretrainedError: see `pretrained.load_pretrained`.
      ConfigError: see `config.load_config`.
    """
    before = load_pretrained(model)
    preset = before.preset
    names = [name for name, known in PRESETS.items() if known == preset]
    if not names:
        raise FinetuneError(
            f"{model}: its sizes are those of no preset ({', '.join(PRESETS)}); only "
            "models of this version's presets can be fine-tuned"
        )
    config = default_config()
    config.steps = 3_000
    # A tenth of the flow models' rate: enough to adapt without forgetting much.
    config.optimizer.learning_rate = 2e-4
    if before.is_of_one_step:
        # The flow loss would make its answer the mean again, without texture.
        train_for_the_eye(config)
        # About as long on a CPU, with the discriminator; a tenth of that stage's rate.
        config.steps = 1_500
        config.optimizer.learning_rate = 6e-5
    config.preset = names[0]
    config.init_from = model
    config.expert_boundaries = before.boundaries
    config.data.folder = str(photos)
    # Every codec gets the same number of latent pixels.
    config.data.crop_size *= preset.codec_factor // SCALE
    config.val.crop_size *= preset.codec_factor // SCALE
    config.val.holdout = 0.1
    config.val.every = 500
    # Enough steps for every expert to take part.
    config.val.steps = max(preset.default_steps, len(before.experts))
    config.optimizer.warmup_steps = 100
    config.optimizer.decay_steps = config.steps // 2
    config.scan_unroll = 4  # faster on CPU
    config.checkpoint_every = 500
    config.lock()
    apply_overrides(config, overrides)
    if not config.val.holdout or config.val.folder:
        raise FinetuneError(
            "val.holdout must be above 0 and val.folder empty: the comparison is on "
            "photographs held out"
        )
    return config


def finetune(
    photos: Path,
    workdir: Path,
    *,
    model: str = "nano",
    overrides: Sequence[str] = (),
    progress: Callable[[Iterable], Iterable] = iter,
) -> Comparison | None:
    """Trains, then compares before and after on the held-out photographs.

    The same call continues a run that stopped.

    Args:
      photos: two or more photographs; see `data.sources.open_source`.
      workdir: folder for what `loop.train_and_evaluate` writes (model/ is the result),
        held_out/DEGRADATION/HR and LR, and before_after.png: bicubic, before, after
        and the truth, side by side.
      model: model to start from: name of a bundled model, or model folder.
      overrides: "field=value"; see `default_config`.
      progress: wraps the held-out photographs while they are scored.

    Returns:
      The comparison; None if a signal ended training early.

    Raises:
      FinetuneError: the workdir lies inside photos; see also `finetune_config`.
      TrainError, OSError, ValueError: see `loop.train_and_evaluate`.
    """
    if workdir.resolve().is_relative_to(photos.resolve()):
        raise FinetuneError(
            f"{workdir}: lies inside {photos}, so that a later run would train on its "
            "pictures; choose a --workdir outside"
        )
    config = finetune_config(photos, model, overrides)
    if not train_and_evaluate(config, workdir).is_finished:
        return None
    origin = load_pretrained(model)
    _keep_rest(workdir / "model", origin)
    after = Upscaler.from_pretrained(workdir / "model")
    before = Upscaler(origin)
    upscalers = {
        name: functools.partial(upscaler, steps=config.val.steps)
        for name, upscaler in (("before", before), ("after", after))
    }
    compared = {}
    names = after.model.training["held_out"]
    degradations = dict.fromkeys(("bicubic", *used(config.data.degradations)))
    _write_held_out(config.data.folder, names, workdir / "held_out", degradations)
    for name in degradations:
        folder = workdir / "held_out" / name
        scores = evaluate(
            {**BASELINES, **upscalers},
            METRICS,
            hr=folder / "HR",
            lr=folder / "LR",
            progress=progress,
        )
        compared[name] = tables.summarize(scores.per_image)
    _draw_before_after(workdir / "before_after.png", folder, upscalers)
    return Comparison(workdir / "model", compared)


def _keep_rest(folder: Path, origin: PretrainedModel) -> None:
    """Gives the result what its origin has besides the weights that were trained.

    Of a slider fidelity 0 stays, and 1 is what was trained from the origin's fidelity
    1: so nano's releases went on from one another, too
    (experiments/202611_picture/go_on.py).
    """
    after = load_pretrained(folder)
    card = (folder / CARD_FILE).read_text()
    if origin.mean_experts is not None:
        card += "\n" + _SLIDER.format(origin=origin)
    whole = dataclasses.replace(
        after,
        null_condition=origin.null_condition,
        mean_experts=origin.mean_experts,
        default_fidelity=origin.default_fidelity,
        tagger=origin.tagger,
    )
    save_model(folder, whole, card)


def _write_held_out(
    photos: str, names: Sequence[str], folder: Path, degradations: Iterable[str]
) -> None:
    """Writes a data set for each degradation."""
    source = open_source(photos, min_size=1, cache_bytes=0)
    for number, name in enumerate(names):
        image_hr, _ = _centre(source[source.names.index(name)], MAX_SIDE)
        height, width = (size - size % SCALE for size in image_hr.shape[:2])
        image_hr = image_hr[:height, :width]
        for data_set in degradations:
            image_lr = degrade_fixed(image_hr, number, data_set)
            for kind, image in (("HR", image_hr), ("LR", image_lr)):
                path = folder / data_set / kind / f"{number:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, Image(image), overwrite=True)


def _draw_before_after(
    output: Path, data_set: Path, upscalers: Mapping[str, Callable]
) -> None:
    images_hr, images_lr = (
        [read_image(path).rgb for path in find_images(data_set / kind)[:_SHOWN]]
        for kind in ("HR", "LR")
    )
    side = min(_SHOWN_SIDE, *(n for lr in images_lr for n in lr.shape[:2]))
    rows = []
    for image_hr, image_lr in zip(images_hr, images_lr, strict=True):
        image_lr, (top, left) = _centre(image_lr, side)
        window = np.s_[SCALE * top :, SCALE * left :]
        truth = image_hr[window][: SCALE * side, : SCALE * side]
        outputs = [upscale(image_lr) for upscale in upscalers.values()]
        rows.append(np.concatenate([bicubic(image_lr), *outputs, truth], axis=1))
    picture = np.concatenate(rows)
    write_image(output, Image(picture), overwrite=True)


def _centre(
    image: UInt8[np.ndarray, "H W 3"], side: int
) -> tuple[UInt8[np.ndarray, "y x 3"], tuple[int, int]]:
    """Crops the centre to at most `side`; returns it and its (top, left)."""
    height, width = (min(side, size) for size in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width], (top, left)
