"""The tests in ``simulated`` import torch_npu and run in processes of their own, which test_simulated.py starts."""

import os

import pytest

from tests import apart
from tests.ascend.install import WHAT, prepared, required

collect_ignore = [] if os.environ.get("C4D_SIM_DEVICES") else ["simulated"]


@pytest.fixture(scope="session")
def libraries():
    """The folder of the stand-in for CANN; torch_npu lies beside it."""
    return apart.fixture(WHAT, prepared, required())
