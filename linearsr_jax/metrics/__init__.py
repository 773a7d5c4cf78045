"""The image-quality metrics by name; an entry of METRICS adds one.

Importing this module does not import JAX; a metric that needs JAX imports it when
loaded.
"""

import difflib
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from linearsr_jax.metrics import pyiqa_adapter
from linearsr_jax.metrics.grid import grid_energy
from linearsr_jax.metrics.lr_consistency import lr_psnr
from linearsr_jax.metrics.psnr_ssim import psnr_y, ssim_y

# Prefix for any other metric of pyiqa, by its name there.
PYIQA_PREFIX = "pyiqa:"


@dataclass(frozen=True)
class Metric:
    """A measure of upscaled images.

    Attributes:
        name: name on the command line and in tables.
        compares_with: what the upscaled image is compared with: the true image
            ("hr"), the image it was made from ("lr"), or nothing (None).
        higher_is_better: whether a larger value means a better image.
        load: makes the function (sr) -> value or (sr, reference) -> value of uint8
            (H, W, 3) RGB arrays, or with over="folder" of paths of folders. Weights are
            read and programs compiled no earlier than here.
        over: whether a single image has a value ("image"), or only a set of images
            ("folder").
    """

    name: str
    compares_with: Literal["hr", "lr"] | None
    higher_is_better: bool
    load: Callable[[], Callable[..., float]]
    over: Literal["image", "folder"] = "image"


def _load_lpips() -> Callable[..., float]:
    from linearsr_jax.metrics.lpips import load_lpips

    return load_lpips()


def _load_lpips_vgg() -> Callable[..., float]:
    from linearsr_jax.metrics.lpips_vgg import load_lpips_vgg

    return load_lpips_vgg()


def _load_dists() -> Callable[..., float]:
    from linearsr_jax.metrics.dists import load_dists

    return load_dists()


def _load_niqe() -> Callable[..., float]:
    from linearsr_jax.metrics.niqe import load_niqe

    return load_niqe()


def _pyiqa(name: str) -> Callable[[], Callable[..., float]]:
    return functools.partial(pyiqa_adapter.load_pyiqa, name)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", "hr", higher_is_better=True, load=lambda: psnr_y),
        Metric("ssim", "hr", higher_is_better=True, load=lambda: ssim_y),
        Metric("lpips", "hr", higher_is_better=False, load=_load_lpips),
        Metric("niqe", None, higher_is_better=False, load=_load_niqe),
        Metric("lr_psnr", "lr", higher_is_better=True, load=lambda: lr_psnr),
        Metric("grid_energy", "lr", higher_is_better=False, load=lambda: grid_energy),
        # These need VGG16's weights.
        Metric("lpips_vgg", "hr", higher_is_better=False, load=_load_lpips_vgg),
        Metric("dists", "hr", higher_is_better=False, load=_load_dists),
        # These need pyiqa.
        Metric("musiq", None, higher_is_better=True, load=_pyiqa("musiq")),
        Metric(
            "maniqa-pipal", None, higher_is_better=True, load=_pyiqa("maniqa-pipal")
        ),
        Metric("clipiqa", None, higher_is_better=True, load=_pyiqa("clipiqa")),
        Metric("fid", "hr", higher_is_better=False, load=_pyiqa("fid"), over="folder"),
    )
}


def get_metrics(names: Iterable[str]) -> list[Metric]:
    """Looks metrics up by name.

    Args:
        names: keys of METRICS, or "pyiqa:" followed by a name of pyiqa. The order is
            kept; repeated names count once.

    Returns:
        The metrics, not yet loaded.

    Raises:
        ValueError: a name is unknown (the message suggests the nearest), or there
            are no names.
        PyiqaError: a name begins with "pyiqa:", and pyiqa is not installed.
    """
    names = list(dict.fromkeys(names))
    if not names:
        raise ValueError(f"no metric named; known are {_known()}")
    return [_get_metric(name) for name in names]


def _get_metric(name: str) -> Metric:
    if name in METRICS:
        return METRICS[name]
    if name.startswith(PYIQA_PREFIX):
        pyiqa_name = name.removeprefix(PYIQA_PREFIX)
        description = pyiqa_adapter.describe(pyiqa_name)
        return Metric(name, load=_pyiqa(pyiqa_name), **description._asdict())
    near = difflib.get_close_matches(name.lower(), METRICS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"unknown metric {name!r}; {hint}known are {_known()}")


def _known() -> str:
    return f"{', '.join(METRICS)} and {PYIQA_PREFIX}NAME"
