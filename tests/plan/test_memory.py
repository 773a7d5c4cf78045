"""What is said of a program that a compiler refuses."""

import jax
import pytest

from linearsr_jax.plan.memory import compile_program
from linearsr_jax.plan.topologies import PlanError

GIB = 2**30


def refusing(text):
    def compile():
        raise jax.errors.JaxRuntimeError(text)

    return compile


@pytest.mark.parametrize(
    ("text", "arguments", "temporaries"),
    [
        ("RESOURCE_EXHAUSTED: Used 20.00G of 16.00G hbm", 1, 19),
        # The compiler does not say how much; it is more than there is.
        ("RESOURCE_EXHAUSTED: out of memory", 1, 15),
        ("RESOURCE_EXHAUSTED: out of memory", 20, 0),
    ],
)
def test_a_refused_program(text, arguments, temporaries):
    found = compile_program(refusing(text), arguments * GIB, 16 * GIB)
    assert (found.text, found.temporaries) == ("", temporaries * GIB)


def test_another_refusal_is_an_error():
    with pytest.raises(PlanError, match="refuses the program: INTERNAL: no"):
        compile_program(refusing("INTERNAL: no"), 0, 16 * GIB)
