"""What can go wrong for the user."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave does not fit; the message names the value, what is known and the way out."""


class GenerationError(RuntimeError):
    """The pipeline ran and its clip is not usable."""


class OutputError(RuntimeError):
    """A file of the result cannot be written; the message names it and the reason."""
