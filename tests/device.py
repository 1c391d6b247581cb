"""Where tests that any device can run put their models: the host, with ``C4D_TEST_DEVICE=1`` the accelerator."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.utils import _pytree as pytree

DEVICE = (torch.accelerator.current_accelerator() if os.environ.get("C4D_TEST_DEVICE") else None) or torch.device("cpu")


def there(inputs: Any) -> Any:
    """With every tensor on ``DEVICE``."""
    return pytree.tree_map_only(torch.Tensor, lambda x: x.to(DEVICE), inputs)
