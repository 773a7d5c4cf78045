"""The image-quality metrics by name; an entry of METRICS adds one.

Importing this module imports neither JAX nor NumPy, so that `linearsr eval --help` can
name the metrics; each imports what it needs when it is loaded.
"""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

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
        needs: what has to be installed for it beside this package; "" for nothing.
    """

    name: str
    compares_with: Literal["hr", "lr"] | None
    higher_is_better: bool
    load: Callable[[], Callable[..., float]]
    over: Literal["image", "folder"] = "image"
    needs: str = ""


def _load_psnr() -> Callable[..., float]:
    from linearsr_jax.metrics.psnr_ssim import psnr_y

    return psnr_y


def _load_ssim() -> Callable[..., float]:
    from linearsr_jax.metrics.psnr_ssim import ssim_y

    return ssim_y


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


def _load_lr_psnr() -> Callable[..., float]:
    from linearsr_jax.metrics.lr_consistency import lr_psnr

    return lr_psnr


def _load_grid_energy() -> Callable[..., float]:
    from linearsr_jax.metrics.grid import grid_energy

    return grid_energy


def _pyiqa(name: str) -> Callable[[], Callable[..., float]]:
    def load():
        from linearsr_jax.metrics.pyiqa_adapter import load_pyiqa

        return load_pyiqa(name)

    return load


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", "hr", higher_is_better=True, load=_load_psnr),
        Metric("ssim", "hr", higher_is_better=True, load=_load_ssim),
        Metric("lpips", "hr", higher_is_better=False, load=_load_lpips),
        Metric("niqe", None, higher_is_better=False, load=_load_niqe),
        Metric("lr_psnr", "lr", higher_is_better=True, load=_load_lr_psnr),
        Metric("grid_energy", "lr", higher_is_better=False, load=_load_grid_energy),
        Metric(
            "lpips_vgg",
            "hr",
            higher_is_better=False,
            load=_load_lpips_vgg,
            needs="the extra judges",
        ),
        Metric(
            "dists",
            "hr",
            higher_is_better=False,
            load=_load_dists,
            needs="the extra judges",
        ),
        Metric(
            "musiq", None, higher_is_better=True, load=_pyiqa("musiq"), needs="pyiqa"
        ),
        Metric(
            "maniqa-pipal",
            None,
            higher_is_better=True,
            load=_pyiqa("maniqa-pipal"),
            needs="pyiqa",
        ),
        Metric(
            "clipiqa",
            None,
            higher_is_better=True,
            load=_pyiqa("clipiqa"),
            needs="pyiqa",
        ),
        Metric(
            "fid",
            "hr",
            higher_is_better=False,
            load=_pyiqa("fid"),
            over="folder",
            needs="pyiqa",
        ),
    )
}


def describe_metrics() -> str:
    """Lists the names of all metrics, by what they need."""
    names: dict[str, list[str]] = {}
    for metric in METRICS.values():
        names.setdefault(metric.needs, []).append(metric.name)
    names["pyiqa"].append(f"{PYIQA_PREFIX}NAME")
    own = ", ".join(names.pop(""))
    others = [f"with {needs} {', '.join(found)}" for needs, found in names.items()]
    return "; ".join([own, *others])


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
        from linearsr_jax.metrics.pyiqa_adapter import describe

        pyiqa_name = name.removeprefix(PYIQA_PREFIX)
        description = describe(pyiqa_name)
        return Metric(name, load=_pyiqa(pyiqa_name), **description._asdict())
    near = difflib.get_close_matches(name.lower(), METRICS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"unknown metric {name!r}; {hint}known are {_known()}")


def _known() -> str:
    return f"{', '.join(METRICS)} and {PYIQA_PREFIX}NAME"
