"""The denoisers of videos whose blocks no spec describes, as their pipelines call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from c4d.core.example import Example as Denoiser
from c4d.core.example import noise as rand
from c4d.models import any_flow


def _anyflow_far(x: Tensor, t: float) -> Mapping[str, Any]:
    """The fourth chunk of frames: the keys and values of the ones before it are given, of the first one compressed."""
    return dict(
        **any_flow.EXAMPLE.arguments(x, t),
        chunk_partition=[1, 3, 3, 3],
        kv_cache={
            layer: dict(
                full_cache=rand(2, 1, 2, 144, 12, seed=50 + layer),
                compressed_cache=rand(2, 1, 2, 24, 12, seed=60 + layer),
            )
            for layer in range(3)
        },
        kv_cache_flag={"num_cached_chunks": 3, "is_cache_step": False},
    )


ENTRIES: tuple[Denoiser, ...] = (
    Denoiser(
        "AnyFlowFARTransformer3DModel",
        dict(**any_flow.EXAMPLE.config, chunk_partition=(1, 3, 3, 3)),
        any_flow.EXAMPLE.latents,
        _anyflow_far,
    ),
)

NOT_DENOISERS: dict[str, str] = {}
