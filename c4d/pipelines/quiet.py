"""What the libraries print while a pipeline is looked at or loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(*, bars: bool) -> Iterator[None]:
    """Bars of diffusers and transformers on or off, and no report by the latter: an error has what matters of it.

    Both libraries are left as they were.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before, verbosity = (
        [library.is_progress_bar_enabled() for library in libraries],
        transformers_logging.get_verbosity(),
    )
    transformers_logging.set_verbosity_error()
    try:
        for library in libraries:
            library.enable_progress_bar() if bars else library.disable_progress_bar()
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for library, enabled in zip(libraries, before, strict=True):
            library.enable_progress_bar() if enabled else library.disable_progress_bar()
