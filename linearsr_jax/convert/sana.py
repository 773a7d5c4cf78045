"""Converts SANA 1.0 and 1.5 to a model folder that training can start from.

    linearsr convert --from sana PIPELINE_FOLDER --to sana
    linearsr convert --from sana Sana_1600M_1024px.pth --codec dc_ae --to sana

The LR image has no effect at first: its columns of the patch embedding are zero, and
the LR stem has our initial values for seed 0. The model computes what SANA computes,
whatever the LR image.
"""

import dataclasses
import json
from contextlib import AbstractContextManager
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from linearsr_jax.codecs import DcAeCodec, load_codec
from linearsr_jax.codecs import dc_ae as dc_ae_codec
from linearsr_jax.convert import dc_ae, sana_names
from linearsr_jax.convert.name_map import check_shapes, read_part
from linearsr_jax.convert.safetensors_stream import (
    ConvertError,
    Sources,
    find_weights,
    open_weights,
    weight_files,
)
from linearsr_jax.convert.torch_pickle import PICKLE_SUFFIXES, open_pickle
from linearsr_jax.core.array_types import PyTree
from linearsr_jax.core.files import sha256, written_whole
from linearsr_jax.core.tensor_files import write_tensors
from linearsr_jax.core.version import __version__
from linearsr_jax.models.embeddings import LRStem
from linearsr_jax.models.parameter_shapes import parameter_shapes
from linearsr_jax.models.presets import PRESETS, Preset
from linearsr_jax.pretrained.model_folder import (
    CONFIG_FILE,
    NULL_CONDITION_FILE,
    WEIGHTS_FILE,
    describe_folder,
    write_null_condition,
)

STEM_SEED = 0
_FILES = "diffusion_pytorch_model"
_CARD = """# SANA as a LinearSR model ({name})

Weights of SANA (arXiv 2410.10629), from {files}, converted with linearsr_jax {version}.
They are under the licence of their source.

Not trained for super-resolution: the LR image changes nothing yet. Start training from
this folder (`init_from`).
"""


def convert(source: Path, folder: Path, codec: Path | None = None) -> int:
    """Converts SANA's weights to a model folder, with one tensor in memory at a time.

    Args:
      source: diffusers' folder of the transformer or of the whole pipeline, its weights
        file or index, or an official .pth file.
      folder: folder to write, which must be missing or empty. It appears when complete.
      codec: folder made by `linearsr convert --from dc-ae`, or a source for it; by
        default the vae of the pipeline.

    Returns:
      The number of parameters, without those of the codec.

    Raises:
      ConvertError: the folder exists, a source cannot be read, or its tensors do not
        fit.
      CodecError: see `codecs.load_codec`.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConvertError(f"{folder}: exists; remove it or choose another --to")
    weights = _find_weights(source)
    if codec is None:
        codec = source / "vae"
        if not codec.is_dir():
            raise ConvertError(
                f"{source}: has no vae folder; give SANA's DC-AE with --codec"
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(folder) as temporary:
        temporary.mkdir()
        return _write(weights, temporary, codec)


def _write(weights: Path, folder: Path, codec_source: Path) -> int:
    with _open(weights) as tensors:
        try:
            preset = _preset(weights, tensors)
            parts = sana_names.match_sources(set(tensors), preset)
        except ConvertError as error:
            raise ConvertError(f"{weights}: {error}") from error
        shapes = parameter_shapes(preset)
        latent_shape = (preset.latent_channels, preset.width)

        def expected(name):
            if name == "patch_embed.kernel":
                return latent_shape
            return shapes[name][1:] if _is_stacked(name) else shapes[name]

        check_shapes(
            tensors,
            ((part, expected(name)) for name in parts for part in parts[name]),
            str(weights),
        )
        codec = _write_codec(codec_source, folder, preset)
        stem = _initial_stem(preset)

        def read(name):
            if name in stem:
                return stem[name]
            if _is_stacked(name):
                return (read_part(tensors, part)[None] for part in parts[name])
            array = read_part(tensors, parts[name][0])
            if name == "patch_embed.kernel":
                rows = shapes[name][0] - len(array)
                return np.pad(array, ((0, rows), (0, 0)))
            return array

        write_tensors(folder / WEIGHTS_FILE, shapes, read, {})
        files = [WEIGHTS_FILE, dc_ae_codec.WEIGHTS_FILE]
        if sana_names.NULL_CONDITION in tensors:
            null_condition = tensors[sana_names.NULL_CONDITION]()
            write_null_condition(
                folder, null_condition.reshape(-1, preset.condition_features)
            )
            files.append(NULL_CONDITION_FILE)
    sources = {path.name: sha256(path) for path in weight_files(weights)}
    names = [name for name, known in PRESETS.items() if known == preset]
    describe_folder(
        folder,
        files,
        preset,
        codec,
        boundaries=(),
        training={
            "converted_from": sources,
            "stem_seed": STEM_SEED,
            "versions": {"linearsr_jax": __version__},
        },
        card=_CARD.format(
            name=names[0] if names else "no preset's sizes",
            files=", ".join(sources),
            version=__version__,
        ),
    )
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _is_stacked(name: str) -> bool:
    return name.startswith("blocks.")


def _find_weights(source: Path) -> Path:
    if source.is_file():
        return source
    for folder in (source, source / "transformer"):
        if found := find_weights(folder, _FILES):
            return found
    raise ConvertError(
        f"{source}: no weights; give diffusers' folder of SANA, a .safetensors file of "
        "one, or an official .pth"
    )


def _open(weights: Path) -> AbstractContextManager[Sources]:
    if weights.suffix in PICKLE_SUFFIXES:
        return open_pickle(weights)
    return open_weights(weights)


def _preset(weights: Path, tensors: Sources) -> Preset:
    if sana_names.is_official(set(tensors)):
        return sana_names.preset_of_shapes(tensors)
    path = weights.parent / CONFIG_FILE
    try:
        config = json.loads(path.read_text("utf-8"))
        return sana_names.preset_of_config(config)
    except ConvertError as error:
        raise ConvertError(f"its {CONFIG_FILE} {error}") from error
    except (OSError, ValueError, AttributeError) as error:
        raise ConvertError(f"its {CONFIG_FILE} cannot be read: {error}") from error


def _write_codec(source: Path, folder: Path, preset: Preset) -> DcAeCodec:
    """Writes the codec into a folder and returns it without its weights."""
    if (source / dc_ae_codec.WEIGHTS_FILE).is_file():
        codec = load_codec("dc_ae", source)
        codec.save_weights(folder)
    else:
        dc_ae.convert(source, folder)
        codec = load_codec("dc_ae", folder)
    assert isinstance(codec, DcAeCodec)  # As the name says.
    found = (codec.factor, codec.channels)
    if found != (preset.codec_factor, preset.latent_channels):
        raise ConvertError(
            f"{source}: is a codec of factor {found[0]} and {found[1]} channels; this "
            f"SANA needs {preset.codec_factor} and {preset.latent_channels}"
        )
    return dataclasses.replace(codec, params=None)


def _initial_stem(preset: Preset) -> dict[str, PyTree]:
    model = preset.make_model()
    stem = LRStem(model.stem_widths, model.stem_strides, jnp.float32)
    # Compiling removes the forward pass of init.
    init = jax.jit(stem.init)
    params = init(jax.random.key(STEM_SEED), jnp.zeros((1, 8, 8, 3)))["params"]
    flat = traverse_util.flatten_dict(nn.meta.unbox(params), sep=".")
    return {f"stem.{name}": np.asarray(value) for name, value in flat.items()}
