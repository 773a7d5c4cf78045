"""Boundaries of experts from a schedule, against the paper's and closed forms."""

import numpy as np
import pytest

from linearsr_jax.diffusion.experts import EXPERT_BOUNDARIES
from linearsr_jax.diffusion.log_snr import (
    bisect_log_snr,
    flow_log_snr,
    scaled_linear_log_snr,
)
from linearsr_jax.diffusion.schedule import shift_sigma


def test_published_boundaries_follow_for_a_clean_end_of_5_85():
    found = bisect_log_snr(scaled_linear_log_snr(), 4, clean=5.85)
    assert found == pytest.approx(EXPERT_BOUNDARIES, abs=1e-3)


def test_schedules_own_clean_end_gives_another_lower_boundary():
    found = bisect_log_snr(scaled_linear_log_snr(), 4)
    assert found[0] == pytest.approx(0.153, abs=1e-3)


def test_flow_at_a_half_is_symmetric():
    """Log-SNR is 0 at a half; the other boundaries have -2 and 2 by construction."""
    found = bisect_log_snr(flow_log_snr(), 4, anchor=0.5, clean=4.0, noisy=-4.0)
    e = np.e
    assert found == pytest.approx((1 / (1 + e), 0.5, e / (1 + e)))


def test_shifted_flow_is_flow_in_shifted_levels():
    shifted = bisect_log_snr(flow_log_snr(3.0), 6, anchor=0.6, clean=5.0, noisy=-7.0)
    anchor = float(shift_sigma(0.6, 3.0))
    plain = bisect_log_snr(flow_log_snr(), 6, anchor=anchor, clean=5.0, noisy=-7.0)
    assert len(shifted) == 5
    np.testing.assert_allclose(shift_sigma(np.array(shifted), 3.0), plain, rtol=1e-6)


def test_one_expert_has_no_boundary_and_two_have_the_anchor():
    assert bisect_log_snr(flow_log_snr(), 1) == ()
    assert bisect_log_snr(flow_log_snr(), 2, anchor=0.9) == (0.9,)


@pytest.mark.parametrize(
    ("n_experts", "settings", "message"),
    [
        (0, {}, "1 or even"),
        (3, {}, "1 or even"),
        (2, {"anchor": 1.0}, r"anchor must be in \(0, 1\)"),
        (4, {}, "give clean and noisy"),
        (4, {"clean": -5.0, "noisy": -9.0}, "must contain the anchor's"),
    ],
)
def test_refusals(n_experts, settings, message):
    with pytest.raises(ValueError, match=message):
        bisect_log_snr(flow_log_snr(), n_experts, **settings)
