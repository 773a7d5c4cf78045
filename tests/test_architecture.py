"""The shape of the packages: who may import whom, and what is installed.

Imports are read from the source, those inside functions included; what stands under
`if TYPE_CHECKING:` does not count.
"""

import ast
import graphlib
import re
import sys
from pathlib import Path

from linearsr_jax.cli import main

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("linearsr_jax", "kernels_pallas")
CONFIG = "linearsr_jax.config.loading"
MAX_LINES = 500

# The folders of linearsr_jax from top to bottom. A module imports from its own folder
# and from those below; kernels_pallas is below all. A new folder gets its place here.
FOLDERS = (
    "__main__",
    "cli",
    "plan",
    "training",
    "benchmarks",
    "inference",
    "convert",
    "pretrained",
    "evaluation",
    "data",
    "codecs",
    "models",
    "diffusion",
    "text_encoder",
    "tagging",
    "metrics",
    "esgf",
    "config",
    "core",
)

# Whole folders, and beside them the only modules, that have to do with ConfigDicts.
CONFIG_FOLDERS = ("linearsr_jax.config.", "linearsr_jax.cli.")
CONFIG_READERS = {
    "linearsr_jax.training.setup",
    "linearsr_jax.training.loop",
    "linearsr_jax.training.stages",
    "linearsr_jax.training.finetune",
}

# Pillow images that never were a file of their own; all other use is core/image_*.py's.
PILLOW_IN_MEMORY = {
    "linearsr_jax.data.pipeline": "scales crops",
    "linearsr_jax.cli.demo_page": "pictures for the browser to compare",
    "linearsr_jax.evaluation.baselines": "the baselines bicubic and unsharp mask",
    "linearsr_jax.metrics.lr_consistency": "reduces the output to its input's size",
    "linearsr_jax.tagging.resizing": "makes the squares that the networks take",
    "linearsr_jax.inference.fidelity": "names Pillow's bicubic filter",
    "linearsr_jax.inference.pictures": "takes and returns Pillow images",
    "linearsr_jax.inference.sizes": "scales channels",
    "linearsr_jax.inference.transparency": "scales planes",
}

# Imported only where they are installed; elsewhere other code does the work, or an
# error says what to install.
OPTIONAL = {
    "linearsr_jax.training.cloud_goodput": {"ml_goodput_measurement"},
    "linearsr_jax.convert.torch_pickle": {"torch"},
    "linearsr_jax.core.image_deep": {"pillow_heif"},
    "linearsr_jax.cli.demo_page": {"gradio"},
    "linearsr_jax.esgf.report": {"matplotlib"},
    "linearsr_jax.esgf.run_report": {"matplotlib"},
    "linearsr_jax.metrics.pyiqa_adapter": {"pyiqa", "torch"},
    "linearsr_jax.text_encoder.tokenizer": {"tokenizers"},
    "linearsr_jax.training.writers": {"tensorflow"},
}

# Where a requirement is not called as it is imported.
DISTRIBUTIONS = {
    "absl": "absl-py",
    "orbax": "orbax-checkpoint",
    "PIL": "pillow",
    "tensorflow_datasets": "tensorflow-datasets",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module_name(path): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


class ImportedNames(ast.NodeVisitor):
    """Collects what a module imports, as dotted names."""

    def __init__(self):
        self.names: set[str] = set()

    def visit_Import(self, node):
        self.names |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node):
        assert node.level == 0, "relative imports are not used in this project"
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            # `from package import x`: a module of it, or a name inside it.
            self.names.add(name if name in FILES else node.module)

    def visit_If(self, node):
        if getattr(node.test, "id", None) != "TYPE_CHECKING":
            self.generic_visit(node)


def imports(name: str) -> set[str]:
    visitor = ImportedNames()
    visitor.visit(ast.parse(FILES[name].read_text("utf-8")))
    return visitor.names


def imported_roots(name: str) -> set[str]:
    return {imported.partition(".")[0] for imported in imports(name)}


def depth(name: str) -> int:
    folder = name.split(".")[1]
    assert folder in FOLDERS, f"{folder} has no place: add it to FOLDERS"
    return FOLDERS.index(folder)


def test_imports_point_downwards():
    depths = {name: depth(name) for name in FILES if name.startswith("linearsr_jax.")}
    assert not [
        f"{name} imports {imported}"
        for name in depths
        for imported in imports(name) & depths.keys()
        if depths[imported] < depths[name]
    ]


def test_root_has_no_loose_modules():
    loose = {path.name for path in (ROOT / "linearsr_jax").glob("*.py")}
    assert loose == {"__init__.py", "__main__.py"}


def test_imports_have_no_cycle():
    # The root imports lazily what users ask for, and has the version all may ask for.
    inner = FILES.keys() - {"linearsr_jax"}
    graph = {name: imports(name) & inner for name in inner}
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_kernels_stand_alone():
    assert not [
        name
        for name in FILES
        if name.startswith("kernels_pallas") and "linearsr_jax" in imported_roots(name)
    ]


def test_packages_import_nothing_that_is_not_installed():
    """configs/ are read by path; experiments/ and tests/ only use the packages."""
    not_installed = {"configs", "experiments", "tests"}
    assert not [name for name in FILES if imported_roots(name) & not_installed]


def test_config_objects_go_no_further_than_to_setup():
    """The command and the stages hand them on; setup makes typed values of them."""
    readers = {
        name
        for name in FILES
        if "ml_collections" in imported_roots(name) or CONFIG in imports(name)
    }
    assert {n for n in readers if not n.startswith(CONFIG_FOLDERS)} == CONFIG_READERS


def test_image_files_are_read_and_written_in_one_place():
    # Degradations and packing encode in memory.
    data = ("linearsr_jax.data.degradations", "linearsr_jax.data.prepare")
    touches_files = ("linearsr_jax.core.image_", *data)
    others = [name for name in FILES if not name.startswith(touches_files)]
    with_pillow = {name for name in others if "PIL" in imported_roots(name)}
    assert with_pillow <= PILLOW_IN_MEMORY.keys()
    for name in with_pillow:
        source = FILES[name].read_text("utf-8")
        assert "Image.open" not in source, name
        assert ".save(" not in source, name


def setup_literal(name: str) -> list[str]:
    """A list in setup.py: an argument of setup() or a constant, by name."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text("utf-8"))):
        targets = [node.arg] if isinstance(node, ast.keyword) else []
        if isinstance(node, ast.Assign):
            targets = [getattr(target, "id", None) for target in node.targets]
        if name in targets:
            return ast.literal_eval(node.value)
    raise AssertionError(f"setup.py has no {name}")


def test_setup_lists_every_package():
    folders = {path.parent.relative_to(ROOT) for path in FILES.values()}
    listed = setup_literal("packages")
    assert sorted(listed) == sorted(".".join(folder.parts) for folder in folders)
    # Without an __init__.py a folder is no package to other tools.
    assert [f for f in folders if not (ROOT / f / "__init__.py").is_file()] == []


def third_party(names) -> set[str]:
    """Distributions that modules import, but for those that are optional."""
    imported = set().union(
        *(imported_roots(name) - OPTIONAL.get(name, set()) for name in names)
    )
    roots = imported - sys.stdlib_module_names - set(PACKAGES)
    return {DISTRIBUTIONS.get(name, name) for name in roots}


def required(name: str) -> set[str]:
    return {re.match(r"[\w-]+", r)[0] for r in setup_literal(name)}


def reached(names) -> set[str]:
    """Modules that these import, directly or not, with the packages they are in."""
    seen, waiting = set(), list(names)
    while waiting:
        if (name := waiting.pop()) in seen:
            continue
        seen.add(name)
        parents = {name.rpartition(".")[0]} - {""}
        waiting += (imports(name) | parents) & FILES.keys()
    return seen


def test_setup_requires_exactly_what_is_imported():
    assert third_party(FILES) == required("REQUIREMENTS") | required("TRAIN")
    assert not required("REQUIREMENTS") & required("TRAIN")


def test_only_training_needs_the_extra():
    """All other commands work with `pip install .` alone."""
    names = ("train", "finetune", "plan", "prepare")
    training = {f"linearsr_jax.cli.{name}" for name in names}
    # main imports all commands, and they only what they share until they run.
    others = {
        name
        for name in FILES
        if name.startswith("linearsr_jax.cli.") and name not in training
    } - {"linearsr_jax.cli.main"}
    # What flax brings in any case is listed for its upper bound.
    bounded = {"optax", "orbax-checkpoint"}
    assert third_party(reached(others)) == required("REQUIREMENTS") - bounded


def test_the_command_names_the_packages_of_the_extra():
    names = {DISTRIBUTIONS.get(name, name) for name in main.TRAINING_PACKAGES}
    assert names == required("TRAIN")


def test_the_container_installs_what_there_is():
    text = (ROOT / "Dockerfile").read_text("utf-8")
    named = re.findall(r"--build-arg EXTRAS=([\w,]+)", text)
    source = (ROOT / "setup.py").read_text("utf-8")
    for extra in ",".join(named).split(","):
        assert f'"{extra}": ' in source, extra


def test_errors_have_one_base():
    """Whoever catches LinearSRError catches all that is refused."""
    bases = {
        node.name: [getattr(base, "id", None) for base in node.bases]
        for name, path in FILES.items()
        if name.startswith("linearsr_jax.")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
    }
    assert [
        name
        for name, of in bases.items()
        if name != "LinearSRError" and of[0] not in {"LinearSRError", *bases}
    ] == []


def test_every_file_says_what_it_is():
    assert not [
        name
        for name, path in FILES.items()
        if (source := path.read_text("utf-8"))
        and not ast.get_docstring(ast.parse(source))
    ]


def test_no_file_is_too_long():
    """Over 500 lines a file has two topics."""
    lengths = {
        name: len(path.read_text("utf-8").splitlines()) for name, path in FILES.items()
    }
    assert not {name: n for name, n in lengths.items() if n > MAX_LINES}
