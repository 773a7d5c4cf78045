"""The version of the package, here alone; setup.py reads it from the source."""

__version__ = "0.1.0"
