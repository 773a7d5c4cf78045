"""Names and shapes of a preset's parameters, without tracing the network for them."""

from linearsr_jax.models.embeddings import TIMESTEP_FEATURES
from linearsr_jax.models.presets import Preset


def parameter_shapes(preset: Preset) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of a preset's parameters, as in its weights file.

    They are those of `LinearDiT.init_params`, in the same order. Tracing that takes a
    third of a second at every start of a command; a test compares the two.
    """
    width, channels = preset.width, preset.latent_channels
    expanded = int(preset.mlp_ratio * width)
    *_, stem_width = preset.stem_widths
    shapes: dict[str, tuple[int, ...]] = {"scale_shift_table": (2, width)}
    shapes |= _dense("patch_embed", channels + stem_width, width)
    shapes |= _dense("time_embed.Dense_0", TIMESTEP_FEATURES, width)
    shapes |= _dense("time_embed.Dense_1", width, width)
    shapes |= _dense("time_embed.blocks", width, 6 * width)
    shapes |= _dense("condition.Dense_0", preset.condition_features, width)
    shapes |= _dense("condition.Dense_1", width, width)
    shapes["condition.norm.weight"] = (width,)
    shapes |= _dense("head", width, channels)
    if preset.tag_count:
        shapes["tags.table"] = (preset.tag_count, preset.condition_features)
    widths = (3, *preset.stem_widths)
    for number, sides in enumerate(zip(widths, preset.stem_widths, strict=False)):
        shapes |= _convolution(str(number), *sides)
    for block in range(preset.stem_blocks):
        for number in range(2):
            shapes |= _convolution(f"block_{block}_{number}", stem_width, stem_width)

    block: dict[str, tuple[int, ...]] = {"scale_shift_table": (6, width)}
    block["attention.qkv.kernel"] = (width, 3 * width)
    block |= _dense("attention.out", width, width)
    block |= _dense("cross_attention.q", width, width)
    block |= _dense("cross_attention.kv", width, 2 * width)
    block |= _dense("cross_attention.out", width, width)
    if preset.qk_norm:
        for part in ("attention", "cross_attention"):
            for norm in ("q_norm", "k_norm"):
                block[f"{part}.{norm}.weight"] = (width,)
    block |= _dense("ffn.expand", width, 2 * expanded)
    block |= {"ffn.kernel": (3, 3, 2 * expanded), "ffn.bias": (2 * expanded,)}
    block["ffn.project.kernel"] = (expanded, width)
    for name, shape in block.items():
        shapes[f"blocks.{name}"] = (preset.depth, *shape)
    return dict(sorted(shapes.items()))


def _dense(name, inputs, outputs):
    return {f"{name}.kernel": (inputs, outputs), f"{name}.bias": (outputs,)}


def _convolution(name, inputs, outputs):
    return {
        f"stem.kernel_{name}": (3, 3, inputs, outputs),
        f"stem.bias_{name}": (outputs,),
    }
