"""The base of the errors that this package raises on purpose."""


class LinearSRError(Exception):
    """Something that was given cannot be used; one line with the fault and the cure."""
