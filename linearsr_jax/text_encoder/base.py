"""The error of the text encoder."""


class TextError(Exception):
    """Raised for an unusable text or encoder; one line that says what to do."""
