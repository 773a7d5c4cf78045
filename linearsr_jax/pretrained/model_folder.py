"""Reads and writes released models: safetensors, config.json, SHA256SUMS and a card.

Nothing is unpickled. The config contains every field of the preset that the weights
were trained with, so that a preset may change without old folders losing their meaning.

A model with one expert has model.safetensors. One with several has
model_0.safetensors, model_1.safetensors, ..., from clean to noisy, each with the names
and shapes of one expert. Each can therefore be used as a model of its own, and writing
several takes memory for one.

A model with a fidelity slider has a second set of weights in mean.safetensors (of
several experts mean_0.safetensors and so on), the slider's end where the answer is the
mean; the other end is the first set, and between them the weights are interpolated.

A model with an embedding of "no text" has it in null_condition.safetensors.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
from flax import traverse_util

from linearsr_jax.codecs import Codec, CodecError, describe_codec, make_codec
from linearsr_jax.core.array_types import Float, HostOrDevice, PyTree
from linearsr_jax.core.errors import LinearSRError
from linearsr_jax.core.files import SUMS_FILE, check_sums, sha256, write_sums
from linearsr_jax.core.tensor_files import (
    TensorFileError,
    read_params,
    read_tensors,
    write_tensors,
)
from linearsr_jax.diffusion.experts import check_boundaries
from linearsr_jax.models.parameter_shapes import parameter_shapes
from linearsr_jax.models.presets import Preset
from linearsr_jax.pretrained.model_config import (
    CONFIG_FILE,
    FORMAT,
    NO_TAGGER,
    ModelConfig,
    read_config,
)

CARD_FILE = "README.md"
WEIGHTS_FILE = "model.safetensors"
NULL_CONDITION_FILE = "null_condition.safetensors"
_NULL_CONDITION = "null_condition"
# Matches all forms, also files of an earlier model in the folder.
_WEIGHTS_FILE = re.compile(r"(model|mean)(_\d+)?\.safetensors")


class PretrainedError(LinearSRError):
    """Raised for a model folder that cannot be used; one line."""


@dataclasses.dataclass(frozen=True)
class PretrainedModel:
    """A model ready to run.

    Attributes:
      name: name of the folder or of the bundled model.
      preset: sizes, and the meaning of the output.
      codec: codec between images and latents.
      experts: parameters of each expert, clean to noisy; float32, on the host.
      boundaries: noise levels between the experts; see `diffusion.experts`.
      training: record of the training, from the config.
      null_condition: condition tokens that stand for "no condition", in models that
        were trained with them (SANA's caption dropout).
      mean_experts: the slider's weights of fidelity 0, those of 1 being experts; None
        for a model without slider.
      default_fidelity: where the slider stands if nobody moves it.
      tagger: tagger that `linearsr upscale` runs by default, see
        `tagging.load_tagger`; "none" unless tags were measured to help this model.
    """

    name: str
    preset: Preset
    codec: Codec
    experts: tuple[PyTree, ...]
    boundaries: tuple[float, ...]
    training: dict[str, Any]
    null_condition: Float[HostOrDevice, "T F"] | None = None
    mean_experts: tuple[PyTree, ...] | None = None
    default_fidelity: float = 1.0
    tagger: str = NO_TAGGER

    @property
    def is_of_one_step(self) -> bool:
        """Whether a single step was trained to be its best answer, as nano's is."""
        return self.mean_experts is not None and self.preset.default_steps == 1

    def experts_at(self, fidelity: float) -> tuple[PyTree, ...]:
        """Returns the weights of a place on the slider, in [0, 1].

        Raises:
          ValueError: it lies outside, or the model has no slider.
        """
        if not 0 <= fidelity <= 1:
            raise ValueError(f"fidelity must be in [0, 1], got {fidelity}")
        if self.mean_experts is None:
            raise ValueError(f"model {self.name} has no fidelity slider")
        if fidelity == 1:
            return self.experts
        # In this form the ends are the two sets, to the bit.
        return jax.tree.map(
            lambda mean, own: mean + np.float32(fidelity) * (own - mean),
            self.mean_experts,
            self.experts,
        )


def bundled_models() -> list[str]:
    """Lists the names of the models that come with the package."""
    folder = resources.files("linearsr_jax") / "weights"
    return sorted(
        entry.name for entry in folder.iterdir() if (entry / CONFIG_FILE).is_file()
    )


def save_pretrained(
    folder: str | Path,
    experts: Sequence[PyTree],
    preset: Preset,
    codec: Codec,
    *,
    boundaries: Sequence[float] = (),
    training: dict[str, Any],
    card: str,
    null_condition: Float[HostOrDevice, "T F"] | None = None,
    mean_experts: Sequence[PyTree] | None = None,
    default_fidelity: float = 1.0,
    tagger: str = NO_TAGGER,
) -> None:
    """Writes a model folder.

    Args:
      folder: folder to write; created if missing, and its files are replaced.
      experts: parameters of the preset's network for each expert, clean to noisy.
      preset, codec: stored in the config with all their fields.
      boundaries: noise levels between the experts; see `diffusion.experts`.
      training: record of the training, in values that JSON can store.
      card: model card in Markdown.
      null_condition, mean_experts, default_fidelity, tagger: see `PretrainedModel`.

    Raises:
      ValueError: the boundaries are bad, or do not fit the number of experts.
    """
    boundaries = check_boundaries(boundaries)
    sets = {"model": experts} | ({"mean": mean_experts} if mean_experts else {})
    for own in sets.values():
        if len(own) != len(boundaries) + 1:
            raise ValueError(
                f"{len(boundaries)} boundaries separate {len(boundaries) + 1} experts, "
                f"got {len(own)}"
            )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: params
        for kind, own in sets.items()
        for name, params in zip(_weights_files(boundaries, kind), own, strict=True)
    }
    for name in _found_weights(folder) - weights.keys():
        (folder / name).unlink()
    for name, params in weights.items():
        _write(folder / name, traverse_util.flatten_dict(params, sep="."))
    (folder / NULL_CONDITION_FILE).unlink(missing_ok=True)
    files = [*weights, *codec.save_weights(folder)]
    if null_condition is not None:
        write_null_condition(folder, null_condition)
        files.append(NULL_CONDITION_FILE)
    describe_folder(
        folder,
        files,
        preset,
        codec,
        boundaries=boundaries,
        training=training,
        card=card,
        default_fidelity=default_fidelity if mean_experts else None,
        tagger=tagger,
    )


def save_model(folder: str | Path, model: PretrainedModel, card: str) -> None:
    """Writes a model that was loaded, or `dataclasses.replace` made of one.

    Args:
      folder: see `save_pretrained`.
      model: all of it is written but the name, which is the folder's.
      card: model card in Markdown.

    Raises:
      ValueError: see `save_pretrained`.
    """
    save_pretrained(
        folder,
        model.experts,
        model.preset,
        model.codec,
        boundaries=model.boundaries,
        training=model.training,
        card=card,
        null_condition=model.null_condition,
        mean_experts=model.mean_experts,
        default_fidelity=model.default_fidelity,
        tagger=model.tagger,
    )


def write_null_condition(
    folder: Path, null_condition: Float[HostOrDevice, "T F"]
) -> None:
    """Writes the null condition to a model folder; `describe_folder` records it."""
    _write(folder / NULL_CONDITION_FILE, {_NULL_CONDITION: null_condition})


def describe_folder(
    folder: Path,
    files: Sequence[str],
    preset: Preset,
    codec: Codec,
    *,
    boundaries: Sequence[float],
    training: dict[str, Any],
    card: str,
    default_fidelity: float | None = None,
    tagger: str = NO_TAGGER,
) -> None:
    """Completes a folder of weights to a model folder: config, card and checksums.

    Args:
      folder: folder to write to.
      files: names of the files in it: weights, codec, null condition.
      preset, codec, boundaries, training, card: see `save_pretrained`.
      default_fidelity: slider's place by default, if the model has one.
      tagger: see `PretrainedModel`.
    """
    config = {
        "format": FORMAT,
        "preset": dataclasses.asdict(preset),
        "boundaries": boundaries,
        "codec": describe_codec(codec),
        "training": training,
    }
    if default_fidelity is not None:
        config["default_fidelity"] = default_fidelity
    if tagger != NO_TAGGER:
        config["tagger"] = tagger
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    (folder / CARD_FILE).write_text(card)
    write_sums(folder, (*files, CONFIG_FILE, CARD_FILE))


def load_pretrained(name_or_path: str | Path) -> PretrainedModel:
    """Reads a model folder, or the bundled model of that name.

    Args:
      name_or_path: name of a bundled model, or a folder. Where a folder has the name of
        a bundled model, "./NAME" and `Path("NAME")` stand for the folder.

    Raises:
      PretrainedError: there is no such model, a file is damaged, missing or not listed
        in SHA256SUMS, the config is unusable (see `model_config.read_config`) or does
        not fit the number of experts, or tensors are missing, unknown or of another
        shape.
    """
    folder = _find(name_or_path)
    try:
        files = check_sums(folder)
    except ValueError as error:
        raise PretrainedError(str(error)) from error
    try:
        config = read_config(folder)
    except (OSError, ValueError) as error:
        raise PretrainedError(f"{folder / CONFIG_FILE}: unusable: {error}") from error
    codec = _load_codec(config, folder)
    weights_files = _weights_files(config.boundaries)
    has_slider = config.default_fidelity is not None
    mean_files = _weights_files(config.boundaries, "mean") if has_slider else []
    if found := _found_weights(folder) ^ {*weights_files, *mean_files}:
        raise PretrainedError(
            f"{folder}: {CONFIG_FILE} has {len(config.boundaries)} boundaries, which "
            f"need {', '.join(weights_files)}; missing or too many: "
            + ", ".join(sorted(found))
        )
    needed = {CONFIG_FILE, *weights_files, *mean_files}
    if unlisted := sorted(needed - files.keys()):
        raise PretrainedError(
            f"{folder / SUMS_FILE}: does not list {', '.join(unlisted)}; copy the "
            "folder again"
        )
    shapes = parameter_shapes(config.preset)
    experts, means = (
        tuple(_load_expert(folder / name, shapes) for name in names)
        for names in (weights_files, mean_files)
    )
    null_condition = None
    if NULL_CONDITION_FILE in files:
        null_condition = _load_null_condition(
            folder / NULL_CONDITION_FILE, config.preset.condition_features
        )
    return PretrainedModel(
        # Of ".", too.
        folder.resolve().name,
        config.preset,
        codec,
        experts,
        config.boundaries,
        config.training,
        null_condition,
        means or None,
        config.default_fidelity if has_slider else 1.0,
        config.tagger,
    )


def _load_codec(config: ModelConfig, folder: Path) -> Codec:
    try:
        codec = make_codec(config.codec, folder)
    except (CodecError, ValueError) as error:
        raise PretrainedError(f"{folder / CONFIG_FILE}: codec: {error}") from error
    preset = config.preset
    expected = (preset.codec_factor, preset.latent_channels)
    if (codec.factor, codec.channels) != expected:
        raise PretrainedError(
            f"{folder / CONFIG_FILE}: codec has factor {codec.factor} and "
            f"{codec.channels} channels, the preset {expected[0]} and {expected[1]}"
        )
    return codec


def weights_sha256(name_or_path: str | Path) -> list[str]:
    """Computes the SHA-256 of each file of weights.

    Those of a slider's fidelity 0 come first, then those of the experts, or of fidelity
    1; each set from clean to noisy.
    """
    folder = _find(name_or_path)
    names = sorted(_found_weights(folder), key=lambda name: (len(name), name))
    return [sha256(folder / name) for name in names]


def model_sha256(name_or_path: str | Path) -> str:
    """Computes the SHA-256 of a model's SHA256SUMS, and so of all its files."""
    return sha256(_find(name_or_path) / SUMS_FILE)


def _weights_files(boundaries: Sequence[float], kind: str = "model") -> list[str]:
    """Returns the names of files of a kind, model or mean, clean to noisy."""
    if not boundaries:
        return [f"{kind}.safetensors"]
    return [f"{kind}_{expert}.safetensors" for expert in range(len(boundaries) + 1)]


def _found_weights(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if _WEIGHTS_FILE.fullmatch(p.name)}


def _find(name_or_path: str | Path) -> Path:
    # A folder that happens to be called nano must not stand for the bundled model; a
    # Path, or a name with a slash, is always a folder.
    if isinstance(name_or_path, str) and name_or_path in bundled_models():
        return Path(str(resources.files("linearsr_jax") / "weights" / name_or_path))
    path = Path(name_or_path)
    if str(name_or_path) and (path / CONFIG_FILE).is_file():
        if (path / "model" / CONFIG_FILE).is_file():
            raise PretrainedError(
                f"{path}: is the workdir of a run; use its model, {path / 'model'}"
            )
        return path
    known = ", ".join(bundled_models())
    raise PretrainedError(
        f"{str(name_or_path) or repr('')}: no such model; give one of {known} or a "
        f"folder with {CONFIG_FILE}"
    )


def _write(path: Path, arrays: Mapping[str, HostOrDevice]) -> None:
    shapes = {name: value.shape for name, value in arrays.items()}
    write_tensors(path, shapes, lambda name: np.asarray(arrays[name], np.float32), {})


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_tensors(path)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise PretrainedError(f"{path}: {error}") from error


def _load_expert(path: Path, expected: dict[str, tuple[int, ...]]) -> PyTree:
    try:
        return read_params(path, expected)
    except TensorFileError as error:
        raise PretrainedError(str(error)) from error


def _load_null_condition(path: Path, features: int) -> Float[np.ndarray, "T F"]:
    arrays = _read(path)
    shapes = {name: array.shape for name, array in arrays.items()}
    if [(name, *shape[1:]) for name, shape in shapes.items()] != [
        (_NULL_CONDITION, features)
    ]:
        raise PretrainedError(
            f"{path}: must contain {_NULL_CONDITION} (T, {features}), contains {shapes}"
        )
    return arrays[_NULL_CONDITION]
