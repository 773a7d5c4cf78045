"""NIQE's pristine model: what is taken over, and what is refused."""

import numpy as np
import pytest

from experiments.shipped_weights.niqe_pristine import convert
from linearsr_jax.metrics.niqe import PARAMETER_SHAPES, load_parameters


def source():
    rng = np.random.default_rng(0)
    return {
        "mu_pris_param": rng.normal(size=(1, 36)),
        "cov_pris_param": rng.normal(size=(36, 36)),
        "gaussian_window": np.ones((7, 7)),
    }


def test_names_and_bits(tmp_path):
    arrays = source()
    np.savez(tmp_path / "a.npz", **arrays)
    tensors = convert(tmp_path / "a.npz")
    assert {k: v.shape for k, v in tensors.items()} == PARAMETER_SHAPES
    np.testing.assert_array_equal(tensors["mean"], arrays["mu_pris_param"][0])
    np.testing.assert_array_equal(tensors["covariance"], arrays["cov_pris_param"])


def test_refuses_what_it_does_not_know(tmp_path):
    arrays = source()
    arrays["extra"] = np.zeros(3)
    del arrays["cov_pris_param"]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=r"unknown \['extra'\].*cov_pris_param"):
        convert(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **source() | {"cov_pris_param": np.eye(35)})
    with pytest.raises(ValueError, match="cov_pris_param must be float64"):
        convert(tmp_path / "b.npz")


def test_runs_no_pickles(tmp_path):
    arrays = source() | {"mu_pris_param": np.array([print], dtype=object)}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match="allow_pickle"):
        convert(tmp_path / "a.npz")


def test_the_shipped_model_is_one():
    tensors = load_parameters()
    covariance = tensors["covariance"]
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-12)
    assert np.linalg.eigvalsh(covariance).min() > 0
    # Shapes alpha of natural images' coefficients, at both scales.
    assert 2 < tensors["mean"][0] < 4
    assert 2 < tensors["mean"][18] < 4
