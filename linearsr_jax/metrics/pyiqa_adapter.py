"""Metrics of pyiqa, where a user has installed it: MUSIQ, MANIQA, CLIPIQA, FID, ...

They need torch and weights that pyiqa downloads at the first use, so they are no
part of this package (`pip install pyiqa`; its licence is non-commercial). This file
gives pyiqa what the field's tables were made with (pyiqa 0.1.10):

- images RGB in [0, 1], float32 (1, 3, H, W), the value / 255;
- PSNR and SSIM on the Y of YCbCr. Asked for by name alone, pyiqa takes RGB for the
  one and the full-range luma of YIQ for the other, and its luma PSNR is exactly
  1.32 dB below everybody's tables.

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

from linearsr_jax.metrics.psnr_ssim import check_image, check_pair

# The metrics of pyiqa that take a colour space and whose tables mean YCbCr's Y. NIQE
# takes one too, but its tables have pyiqa's default.
_Y_CHANNEL_METRICS = ("psnr", "psnry", "ssim", "ms_ssim", "cw_ssim")
_Y_CHANNEL = {"test_y_channel": True, "color_space": "ycbcr"}


class PyiqaError(Exception):
    """pyiqa is absent, or fails at what it is asked; one line, says what to do."""


class PyiqaMetric(NamedTuple):
    """What pyiqa says about one of its metrics.

    Attributes:
        compares_with: "hr", or None for a metric without reference.
        over: whether it judges an image or a whole folder.
        higher_is_better: whether a larger value is better.
    """

    compares_with: Literal["hr"] | None
    over: Literal["image", "folder"]
    higher_is_better: bool


def describe(name: str) -> PyiqaMetric:
    """Looks a metric up in the installed pyiqa, without loading its weights.

    Raises:
        PyiqaError: pyiqa is absent.
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
    """Makes one of pyiqa's metrics.

    Args:
        name: as in `pyiqa.list_models()`.

    Returns:
        A function (sr), or (sr, hr) for a full-reference metric, of uint8 (H, W, 3)
        RGB arrays, or for FID (sr_folder, hr_folder) of paths.

    Raises:
        PyiqaError: pyiqa is absent or cannot make the metric (its weights cannot be
            downloaded, for one).
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
                "it downloads weights at the first use, so check the connection"
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
    # Standard output is for results: pyiqa announces downloads and folders there.
    return contextlib.redirect_stdout(sys.stderr)
