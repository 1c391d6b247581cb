"""What the libraries print while a pipeline is looked at or loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(*, bars: bool, remarks: bool = True) -> Iterator[None]:
    """Bars of diffusers and transformers on or off, and no report by the latter: an error has what matters of it.

    ``remarks``: those of diffusers. Both libraries are left as they were.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [library.is_progress_bar_enabled() for library in libraries]
    verbosity = [library.get_verbosity() for library in libraries]
    transformers_logging.set_verbosity_error()
    if not remarks:
        diffusers_logging.set_verbosity_error()
    try:
        for library in libraries:
            library.enable_progress_bar() if bars else library.disable_progress_bar()
        yield
    finally:
        for library, level, enabled in zip(libraries, verbosity, before, strict=True):
            library.set_verbosity(level)
            library.enable_progress_bar() if enabled else library.disable_progress_bar()
