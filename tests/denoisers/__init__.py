"""Every denoiser of diffusers as a tiny random model, one entry a class: the examples of all specs, and those that no
spec brings.

A class of diffusers that has none is in :data:`NOT_DENOISERS`, with its reason.
"""

from __future__ import annotations

from c4d.core.example import Example as Denoiser
from c4d.core.example import noise as rand
from c4d.models import SPECS
from tests.denoisers import images, others, videos

OWN = tuple(spec.example for spec in SPECS.values() if spec.example is not None)
ENTRIES: tuple[Denoiser, ...] = (*images.ENTRIES, *videos.ENTRIES, *others.ENTRIES, *others.VARIANTS, *OWN)
NOT_DENOISERS = {**images.NOT_DENOISERS, **videos.NOT_DENOISERS, **others.NOT_DENOISERS}

__all__ = ["ENTRIES", "NOT_DENOISERS", "Denoiser", "rand"]
