"""Codecs by name, and from the folders that hold their settings and weights.

Such a folder is a released model's, or what `linearsr convert --from dc-ae` makes:
config.json with a field "codec", and beside it the weights, if the codec has any.
"""

import json
from pathlib import Path
from typing import Any

from linearsr_jax.codecs.base import Codec, CodecError
from linearsr_jax.codecs.dc_ae import DcAeCodec
from linearsr_jax.codecs.pixel import PixelCodec

CODECS: dict[str, type[Codec]] = {"pixel": PixelCodec, "dc_ae": DcAeCodec}
CONFIG_FILE = "config.json"


def describe_codec(codec: Codec) -> dict[str, Any]:
    """Describes a codec by name and settings, JSON-able, for `make_codec`."""
    names = {codec_type: name for name, codec_type in CODECS.items()}
    return {"name": names[type(codec)], **codec.settings()}


def make_codec(description: dict[str, Any], folder: Path | None) -> Codec:
    """Makes a codec from `describe_codec`'s description and the weights of a folder.

    Raises:
      CodecError: see `Codec.load`.
      KeyError, ValueError: no such codec or setting.
    """
    settings = dict(description)
    return CODECS[settings.pop("name")].load(settings, folder)


def load_codec(name: str, folder: str | Path) -> Codec:
    """Loads the codec to train with.

    Args:
      name: key of CODECS.
      folder: folder of its weights; "" for a codec without weights.

    Raises:
      CodecError: weights are missing, not needed, or belong to another codec.
    """
    if not folder:
        return CODECS[name].load({}, None)
    path = Path(folder) / CONFIG_FILE
    try:
        description = json.loads(path.read_text("utf-8"))["codec"]
        found = description["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CodecError(f"{path}: no codec is described there: {error!r}") from error
    if found != name:
        raise CodecError(f"{path}: describes codec {found}, and {name} is needed")
    try:
        return make_codec(description, Path(folder))
    except ValueError as error:
        raise CodecError(f"{path}: unusable: {error}") from error
