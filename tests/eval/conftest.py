"""Shared fixtures of the eval tests. Clips are drawn once; tests must not write into them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from c4d.bundled import COMBINATIONS, as_tensor, render


@pytest.fixture(scope="session")
def combinations() -> Tensor:
    """All 216 combinations of attributes, int64 [216, 4]."""
    return as_tensor(COMBINATIONS)


@pytest.fixture(scope="session")
def drawn(combinations: Tensor) -> Tensor:
    """One drawn clip of each combination, [216, 3, 13, 32, 32]."""
    return render(combinations, torch.Generator().manual_seed(11))


@pytest.fixture(scope="session")
def bundled_model() -> Path:
    return Path(__file__).resolve().parents[2] / "c4d" / "bundled" / "wan_tiny"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums of several threads are not the same twice."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
