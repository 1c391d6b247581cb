"""Which NPUs have the fused operators. The documentation names A2 for all of them and A3 for all but
``npu_fusion_attention``, which others run there; of the 950 torch_npu's own code knows."""

from __future__ import annotations

import re

# What the driver calls a chip -> what it is. Plain "Ascend910B" is of the first generation, like the 910A.
FUSED = {r"Ascend910B\d.*": "Atlas A2", r"Ascend910_93\d+": "Atlas A3", r"Ascend950.*": "Atlas 950"}


def fused(chip: str | None) -> bool:
    return chip is not None and any(re.fullmatch(pattern, chip) for pattern in FUSED)


def lacking(chip: str | None) -> str | None:
    """What keeps the fused operators from running on a chip of this name (None: there is none)."""
    if chip is None:
        return "has no NPU here"
    return None if fused(chip) else f"needs one of {', '.join(FUSED.values())}; this NPU is an {chip}"
