"""Docstrings of public functions and methods begin with what these do.

Only the first word is checked: a verb in the third person, or "See" for a method that
another docstring describes. Classes and properties are described by nouns.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# End in s like the verbs.
NO_VERBS = {"As", "Is", "Its", "This", "Shapes", "Means", "Images"}
NOUN_DECORATORS = {"property", "cached_property"}


def functions(tree, prefix=""):
    """Yields (name, node) of the public functions and methods of a module."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from functions(node, f"{node.name}.")
        if not isinstance(node, ast.FunctionDef):
            continue
        decorators = {
            getattr(d, "id", getattr(d, "attr", None)) for d in node.decorator_list
        }
        is_dunder = node.name.startswith("__")
        is_public = not node.name.startswith("_") or is_dunder
        if is_public and not decorators & NOUN_DECORATORS:
            yield prefix + node.name, node


def test_docstrings_begin_with_a_verb():
    wrong = []
    for package in ("linearsr_jax", "kernels_pallas", "configs"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for name, node in functions(ast.parse(path.read_text("utf-8"))):
                text = ast.get_docstring(node)
                if text is None:
                    continue
                word = text.split()[0].rstrip(".,;:")
                is_verb = word[0].isupper() and word.endswith("s")
                if word != "See" and (not is_verb or word in NO_VERBS):
                    wrong.append(f"{path.relative_to(ROOT)}: {name}: {text[:60]}")
    assert not wrong, "\n".join(wrong)
