"""Adapts the metrics of pyiqa: MUSIQ, MANIQA, CLIPIQA, FID, ...

They need torch, and weights that pyiqa downloads when first used, so they are not part
of this package (`pip install pyiqa`; its licence is non-commercial). This module calls
pyiqa as the field's tables do (pyiqa 0.1.10):

- Images are RGB in [0, 1], float32 (1, 3, H, W): the value / 255.
- PSNR and SSIM use the Y of YCbCr. Asked for by name alone, pyiqa uses RGB for one and
  the full-range luma of YIQ for the other, whose PSNR is exactly 1.32 dB below the
  published tables.

pyiqa chooses the device: a CUDA GPU if torch sees one. JAX takes most of a GPU's
memory when it starts; XLA_PYTHON_CLIENT_PREALLOCATE=false leaves room for both.
"""

import contextlib
import difflib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np

from linearsr_jax.core.errors import LinearSRError
from linearsr_jax.metrics.psnr_ssim import check_image, check_pair

# Metrics of pyiqa that take a colour space and are published on the Y of YCbCr. NIQE
# takes one too, but is published with pyiqa's default.
_Y_CHANNEL_METRICS = ("psnr", "psnry", "ssim", "ms_ssim", "cw_ssim")
_Y_CHANNEL = {"test_y_channel": True, "color_space": "ycbcr"}


class PyiqaError(LinearSRError):
    """Raised if pyiqa is missing or fails; one line that says what to do."""


class PyiqaMetric(NamedTuple):
    """Facts about a metric of pyiqa.

    Attributes:
        compares_with: "hr", or None for a metric without reference.
        over: whether it judges single images or a whole folder.
        higher_is_better: whether a larger value is better.
    """

    compares_with: Literal["hr"] | None
    over: Literal["image", "folder"]
    higher_is_better: bool


def describe(name: str) -> PyiqaMetric:
    """Looks up a metric in the installed pyiqa, without loading its weights.

    Raises:
        PyiqaError: pyiqa is not installed.
        ValueError: pyiqa has no such metric; the message suggests the nearest.
    """
    _import_pyiqa(name)
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    if name not in DEFAULT_CONFIGS:
        near = difflib.get_close_matches(name.lower(), DEFAULT_CONFIGS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"pyiqa has no metric {name!r}{hint}")
    config = DEFAULT_CONFIGS[name]
    if "fid" in name:
        return PyiqaMetric("hr", "folder", higher_is_better=False)
    return PyiqaMetric(
        "hr" if config["metric_mode"] == "FR" else None,
        "image",
        higher_is_better=not config.get("lower_better", False),
    )


def load_pyiqa(name: str) -> Callable[..., float]:
    """Loads a metric of pyiqa.

    Args:
        name: a name in `pyiqa.list_models()`.

    Returns:
        A function of (sr), or of (sr, hr) for a full-reference metric, which are uint8
        (H, W, 3) RGB arrays; for FID, of the paths (sr_folder, hr_folder).

    Raises:
        PyiqaError: pyiqa is not installed, or cannot load the metric, for example
            because its weights cannot be downloaded.
        ValueError: see `describe`.
    """
    pyiqa = _import_pyiqa(name)
    description = describe(name)
    options = _Y_CHANNEL if name in _Y_CHANNEL_METRICS else {}
    with _prints_to_stderr():
        try:
            metric = pyiqa.create_metric(name, **options)
        # Downloads, archives and torch raise almost anything.
        except Exception as error:
            raise PyiqaError(
                f"pyiqa cannot load {name!r} ({' '.join(str(error).split())}); "
                "it downloads weights when first used, so check the connection"
            ) from error

    def of_folders(sr_folder, hr_folder) -> float:
        with _prints_to_stderr():
            return float(metric(str(sr_folder), str(hr_folder)))

    def of_images(sr: np.ndarray, *hr: np.ndarray) -> float:
        if hr:
            check_pair(sr, *hr)
        check_image("sr", sr)
        with _prints_to_stderr():
            return float(metric(*map(_to_tensor, (sr, *hr))))

    return of_folders if description.over == "folder" else of_images


def _to_tensor(image: np.ndarray):
    import torch

    planes = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
    return torch.from_numpy(planes).to(torch.float32) / 255


def _import_pyiqa(name: str) -> ModuleType:
    try:
        with _prints_to_stderr():
            import pyiqa
    except ModuleNotFoundError as error:
        if error.name != "pyiqa":
            raise PyiqaError(
                f"{name} comes from pyiqa, which lacks {error.name!r}; "
                "pip install pyiqa again"
            ) from error
        raise PyiqaError(
            f"{name} comes from pyiqa, which is not installed; "
            "pip install pyiqa (with torch, several GB)"
        ) from error
    # An unfitting torchvision raises RuntimeError, a broken library OSError.
    except Exception as error:
        raise PyiqaError(
            f"pyiqa cannot be imported ({' '.join(str(error).split())}); "
            "install it again, in a new environment if need be"
        ) from error
    return pyiqa


def _prints_to_stderr() -> contextlib.AbstractContextManager:
    # pyiqa announces downloads on standard output, which is reserved for results.
    return contextlib.redirect_stdout(sys.stderr)
