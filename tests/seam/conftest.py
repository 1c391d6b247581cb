"""Sessions are for inference: every test of the seam runs without gradients."""

import pytest
import torch


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield
