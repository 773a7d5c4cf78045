"""What XLA plans for the 1.6B network on an H100, compiled without one; slow."""

import importlib.util
import re
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "experiments" / "202611_speed" / "compiled.py"


@pytest.fixture
def compiled():
    pytest.importorskip("jax_cuda13_plugin", reason="compiles with jax's CUDA packages")
    spec = importlib.util.spec_from_file_location("compiled", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_loop_copies_weights_and_none_is_left_unrolled(compiled):
    rolled = compiled.compile_network(implementation="reference")
    # Attention's two, cross-attention's two, Mix-FFN's two.
    assert len(compiled.copied_weights(rolled)) >= 6
    depth = compiled.DEPTH
    network = compiled.compile_network(implementation="gpu", scan_unroll=depth)
    assert not compiled.copied_weights(network)
    assert compiled.count_launches(network.compiled) < compiled.count_launches(
        rolled.compiled
    )
    text = network.compiled.as_text()
    assert " while(" not in text
    entry = text[text.rindex("\nENTRY") :]
    # State and output, and the convolution; cuDNN's attention.
    assert len(re.findall(r" custom-call\(.*mosaic_gpu", entry)) == 3 * depth
    assert len(re.findall(r" custom-call\(.*fmha", entry)) == depth
    assert network.compiled.memory_analysis().temp_size_in_bytes < 100e6


@pytest.mark.slow
def test_the_gradient_has_all_kernels(compiled):
    """In a loop over the blocks, as training has it."""
    network = compiled.compile_network(
        gradient=True, implementation="gpu", scan_unroll=1
    )
    text = network.compiled.as_text()
    # Of a block: state, output and convolution, and the gradient of each.
    assert len(re.findall(r" custom-call\(.*mosaic_gpu", text)) == 6
    # cuDNN's attention, and its gradient.
    assert len(re.findall(r" custom-call\(.*fmha", text)) == 2
    # Mostly what the blocks keep for the gradient.
    assert network.compiled.memory_analysis().temp_size_in_bytes < 4e9
