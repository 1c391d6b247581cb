"""The transformers of a pipeline (or its U-Net), whoever has wrapped them."""

from __future__ import annotations

import json
from typing import Any, cast

from torch import nn

NAMES = (  # as the pipelines name them: the high-noise expert first; one for guidance, or with references
    "transformer",
    "transformer_2",
    "unet",
    "unconditional_transformer",
    "transformer_ref",
)


def inside(module: nn.Module) -> nn.Module:
    """The transformer in a PeftModel, DistributedDataParallel or FullyShardedDataParallel, which all call it."""
    while True:
        if callable(base := getattr(module, "get_base_model", None)):
            module = cast(nn.Module, base())
        elif type(module).__module__.startswith("torch.") and isinstance(getattr(module, "module", None), nn.Module):
            module = cast(nn.Module, module.module)
        else:
            return module


def signature(transformer: nn.Module) -> dict[str, Any]:
    """The transformer's class by name, and what its configuration says, plain types only: fine-tuned ones are alike."""
    config = getattr(transformer, "config", None) or {}
    # A module whose weights are divided over ranks is of a class that torch makes for it.
    own = next(cls for cls in type(transformer).__mro__ if not hasattr(cls, "unshard"))
    plain = json.loads(json.dumps({key: x for key, x in dict(config).items() if not key.startswith("_")}, default=str))
    return {"transformer": own.__name__, "config": plain}


def transformers_of(model: Any) -> dict[str, nn.Module]:
    """Those of a pipeline by their names in it, or a bare transformer as ``transformer``; empty if there is none."""
    found = {NAMES[0]: model} if isinstance(model, nn.Module) else {name: getattr(model, name, None) for name in NAMES}
    return {name: inside(module) for name, module in found.items() if isinstance(module, nn.Module)}
