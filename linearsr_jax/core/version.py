"""The version of the package, which setup.py reads from this file."""

__version__ = "0.2.0"
