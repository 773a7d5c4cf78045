"""The shipped model against what needs no model, on the photograph in docs/images."""

from pathlib import Path

import pytest

from linearsr_jax import Upscaler
from linearsr_jax.core.image_io import read_image
from linearsr_jax.core.scale import SCALE
from linearsr_jax.data import degradations
from linearsr_jax.evaluation.baselines import BASELINES
from linearsr_jax.metrics import get_metrics

PHOTO = Path(__file__).resolve().parents[2] / "docs" / "images" / "sample.png"


@pytest.mark.parametrize("name", BASELINES)
def test_nano_beats(name):
    (metric,) = get_metrics(["psnr"])
    score = metric.load()
    image_hr = read_image(PHOTO).pixels
    image_lr = degradations.bicubic(image_hr, SCALE)
    # The end of the slider for PSNR; the other one pays for sharpness with PSNR.
    sr = Upscaler.from_pretrained("nano")(image_lr, fidelity=0.0)
    ours = score(sr, image_hr)
    assert ours > score(BASELINES[name](image_lr), image_hr) + 1.0  # dB
