"""Every denoiser of diffusers as a tiny random model, one entry a class: the examples of all specs, and those that no
spec brings.

A class of diffusers that has none is in :data:`NOT_DENOISERS`, with its reason.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from c4d.core.example import Example as Denoiser
from c4d.core.example import noise as rand
from c4d.models import SPECS
from tests.denoisers import images, others, videos

OWN = tuple(spec.example for spec in SPECS.values() if spec.example is not None)
ENTRIES: tuple[Denoiser, ...] = (*images.ENTRIES, *videos.ENTRIES, *others.ENTRIES, *others.VARIANTS, *OWN)
NOT_DENOISERS = {**images.NOT_DENOISERS, **videos.NOT_DENOISERS, **others.NOT_DENOISERS}


def changed(name: str, latents: tuple[int, ...] | None = None, config: Any = (), **arguments: Any) -> Denoiser:
    """An example with other latents, configuration and arguments."""
    entry = next(entry for entry in ENTRIES if entry.name == name)

    def given(x: Tensor, t: float) -> dict[str, Any]:
        return {**entry.arguments(x, t), **arguments}

    config = {**entry.config, **dict(config)}
    return replace(entry, latents=latents or entry.latents, config=config, arguments=given)


def lively(entry: Denoiser) -> nn.Module:
    """Its model with norms in its attentions whose weights are not one, which would hide what is wrong with them."""
    model = entry.build()
    for i, (name, weight) in enumerate(model.named_parameters()):
        if "norm" in name and weight.ndim == 1:
            weight.data = 1.0 + 0.3 * rand(*weight.shape, seed=i)
    return model


__all__ = ["ENTRIES", "NOT_DENOISERS", "Denoiser", "changed", "lively", "rand"]
