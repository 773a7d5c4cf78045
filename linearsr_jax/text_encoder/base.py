"""The error of the text encoder."""

from linearsr_jax.core.errors import LinearSRError


class TextError(LinearSRError):
    """Raised for an unusable text or encoder; one line that says what to do."""
