"""Converts Gemma 2, SANA's text encoder, to a folder for `linearsr text`.

    linearsr convert --from gemma2 gemma-2-2b-it --to weights/gemma2

The source is transformers' folder of the model (config.json, one or several
safetensors, tokenizer.json), or diffusers' folder of a SANA pipeline, which contains
the model in text_encoder and tokenizer.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from linearsr_jax.convert.name_map import (
    Change,
    Part,
    check_names,
    check_shapes,
    dense,
    read_part,
    same,
)
from linearsr_jax.convert.safetensors_stream import (
    ConvertError,
    Sources,
    find_weights,
    open_weights,
    weight_files,
)
from linearsr_jax.core.files import sha256, write_sums, written_whole
from linearsr_jax.core.tensor_files import write_tensors
from linearsr_jax.core.version import __version__
from linearsr_jax.text_encoder.encoder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    describe_encoder,
)
from linearsr_jax.text_encoder.gemma2 import Gemma2Config, parameter_shapes
from linearsr_jax.text_encoder.tokenizer import TOKENIZER_FILE

# Known tensors that are not needed, by the ends of their names, with the reason.
DROPPED_SUFFIXES = {
    "lm_head.weight": "predicts words; a copy of the embedding",
    ".rotary_emb.inv_freq": "computed",
}

_OUTSIDE: tuple[tuple[str, str, Change], ...] = (
    ("embedding", "embed_tokens", same),
    ("norm.weight", "norm", same),
)
_LAYER: tuple[tuple[str, str, Change], ...] = (
    ("query.kernel", "self_attn.q_proj", dense),
    ("key.kernel", "self_attn.k_proj", dense),
    ("value.kernel", "self_attn.v_proj", dense),
    ("out.kernel", "self_attn.o_proj", dense),
    ("gate.kernel", "mlp.gate_proj", dense),
    ("up.kernel", "mlp.up_proj", dense),
    ("down.kernel", "mlp.down_proj", dense),
    ("attention_norm.weight", "input_layernorm", same),
    ("attention_out_norm.weight", "post_attention_layernorm", same),
    ("mlp_norm.weight", "pre_feedforward_layernorm", same),
    ("mlp_out_norm.weight", "post_feedforward_layernorm", same),
)
# Their names for the fields of Gemma2Config.
_FIELDS = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "hidden": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_size": "head_dim",
    "eps": "rms_norm_eps",
    "query_scalar": "query_pre_attn_scalar",
    "logit_cap": "attn_logit_softcapping",
    "window": "sliding_window",
    "bos": "bos_token_id",
    "pad": "pad_token_id",
}
# Allowed values of what has no field in Gemma2Config.
_FIXED = {
    "model_type": ("gemma2",),
    "hidden_activation": ("gelu_pytorch_tanh",),
    "attention_bias": (False, None),
    "use_bidirectional_attention": (False, None),
    "rope_scaling": (None,),
    "quantization_config": (None,),
}


def config_of(fields: dict[str, Any]) -> Gemma2Config:
    """Reads the sizes from the fields of transformers' config.json.

    The older form has `rope_theta` and no `layer_types`; the newer has
    `rope_parameters`. Missing fields get the defaults of `Gemma2Config`, which are
    those of transformers.

    Raises:
      ConvertError: the config describes another model, or an unsupported Gemma 2.
    """
    for name, allowed in _FIXED.items():
        is_missing = name != "model_type" and name not in fields
        if not is_missing and fields.get(name) not in allowed:
            raise ConvertError(
                f"{name} is {fields.get(name)!r}; Gemma 2 has {allowed[0]!r}"
            )
    sizes = {
        ours: fields[theirs] for ours, theirs in _FIELDS.items() if theirs in fields
    }
    rope = fields.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise ConvertError(f"rope_type is {rope['rope_type']!r}, not 'default'")
    for found in (fields, rope):
        if "rope_theta" in found:
            sizes["rope_base"] = found["rope_theta"]
    try:
        config = Gemma2Config(**sizes)
    except ValueError as error:
        raise ConvertError(f"does not describe a Gemma 2: {error}") from error
    kinds = ("sliding_attention", "full_attention")
    alternating = [kinds[layer % 2] for layer in range(config.layers)]
    if fields.get("layer_types", alternating) != alternating:
        raise ConvertError("layer_types do not alternate as in Gemma 2")
    return config


def tensor_parts(config: Gemma2Config, prefix: str = "model.") -> dict[str, list[Part]]:
    """Lists the source tensors that each of our tensors is made of.

    Args:
      config: sizes.
      prefix: prefix of the source's names; empty for a model without its head.

    Returns:
      By our name, one part, or for stacked tensors one part per layer.
    """

    def part(theirs, change):
        return Part((f"{prefix}{theirs}.weight",), change)

    outside = {ours: [part(theirs, change)] for ours, theirs, change in _OUTSIDE}
    stacked = {
        f"layers.{ours}": [
            part(f"layers.{layer}.{theirs}", change) for layer in range(config.layers)
        ]
        for ours, theirs, change in _LAYER
    }
    return outside | stacked


def match_sources(tensors: Sources, config: Gemma2Config) -> dict[str, list[Part]]:
    """Matches `tensor_parts` to the tensors of a source.

    Raises:
      ConvertError: tensors are unknown, missing or of another shape; the message lists
        them.
    """
    what = "not the Gemma 2 of its config.json"
    prefix = "model." if any(name.startswith("model.") for name in tensors) else ""
    parts = tensor_parts(config, prefix)
    known = {part.theirs[0] for listed in parts.values() for part in listed}
    dropped = tuple(DROPPED_SUFFIXES)
    found = {name for name in tensors if name in known or not name.endswith(dropped)}
    check_names(found, known, what)
    shapes = parameter_shapes(config)
    check_shapes(
        tensors,
        (
            (part, shapes[name][1:] if _is_stacked(name) else shapes[name])
            for name, listed in parts.items()
            for part in listed
        ),
        what,
    )
    return parts


def convert(source: Path, folder: Path) -> int:
    """Converts a text encoder, with one tensor in memory at a time.

    The weights stay bfloat16 if all of them are bfloat16; else they become float32.

    Args:
      source: transformers' folder, or diffusers' folder of a pipeline; if the folder
        has several precisions, the file or index of one.
      folder: folder to write, which must be missing or empty. It appears when complete.

    Returns:
      The number of parameters.

    Raises:
      ConvertError: the folder exists, a file is missing or cannot be read, or the
        tensors do not fit.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConvertError(f"{folder}: exists; remove it or choose another --to")
    weights, tokenizer = _find(source)
    config = _read_config(weights.parent / CONFIG_FILE)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(folder) as temporary:
        temporary.mkdir()
        return _write(weights, tokenizer, config, temporary)


def _find(source: Path) -> tuple[Path, Path]:
    """Finds the weights and the tokenizer."""
    is_pipeline = (source / "text_encoder").is_dir()
    model = source / "text_encoder" if is_pipeline else source
    weights = source if source.is_file() else find_weights(model, "model")
    if weights is None:
        raise ConvertError(
            f"{source}: has no model*.safetensors; give transformers' folder of "
            "Gemma 2, or diffusers' of a SANA pipeline"
        )
    folder = weights.parent
    for place in (folder, folder.parent / "tokenizer"):
        if (place / TOKENIZER_FILE).is_file():
            return weights, place / TOKENIZER_FILE
    raise ConvertError(
        f"{folder / TOKENIZER_FILE}: no such file; download it too (a tokenizer.model "
        "is not enough)"
    )


def _write(weights: Path, tokenizer: Path, config: Gemma2Config, folder: Path) -> int:
    shapes = parameter_shapes(config)
    with open_weights(weights) as tensors:
        try:
            parts = match_sources(tensors, config)
        except ConvertError as error:
            raise ConvertError(f"{weights}: {error}") from error

        def read(name):
            if _is_stacked(name):
                return (read_part(tensors, part)[None] for part in parts[name])
            return read_part(tensors, parts[name][0])

        used = [tensors[part.theirs[0]] for listed in parts.values() for part in listed]
        is_half = all(tensor.is_bfloat16 for tensor in used)
        dtype = "bfloat16" if is_half else "float32"
        write_tensors(folder / WEIGHTS_FILE, shapes, read, {}, dtype)
    shutil.copyfile(tokenizer, folder / TOKENIZER_FILE)
    sources = [*weight_files(weights), tokenizer]
    description = {
        "text_encoder": describe_encoder(config, dtype),
        "converted_from": {path.name: sha256(path) for path in sources},
        "versions": {"linearsr_jax": __version__},
    }
    (folder / CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n")
    write_sums(folder, (WEIGHTS_FILE, TOKENIZER_FILE, CONFIG_FILE))
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _read_config(path: Path) -> Gemma2Config:
    try:
        return config_of(json.loads(path.read_text("utf-8")))
    except ConvertError as error:
        raise ConvertError(f"{path}: {error}") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConvertError(f"{path}: cannot be read: {error}") from error


def _is_stacked(name: str) -> bool:
    return name.startswith("layers.")
