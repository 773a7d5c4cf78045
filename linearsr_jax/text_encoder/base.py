"""What all of the text encoder may raise."""


class TextError(Exception):
    """A text, or an encoder, that cannot be used; one line, says what to do."""
