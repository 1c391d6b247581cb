"""Every denoiser of diffusers that no spec describes, as a tiny random model: one entry a class.

A class of diffusers that is neither here nor described by a spec is in :data:`NOT_DENOISERS`, with its reason.
"""

from __future__ import annotations

from c4d.core.example import Example as Denoiser
from c4d.core.example import noise as rand
from tests.denoisers import images, others, videos

ENTRIES: tuple[Denoiser, ...] = (*images.ENTRIES, *videos.ENTRIES, *others.ENTRIES, *others.VARIANTS)
NOT_DENOISERS = {**images.NOT_DENOISERS, **videos.NOT_DENOISERS, **others.NOT_DENOISERS}

__all__ = ["ENTRIES", "NOT_DENOISERS", "Denoiser", "rand"]
