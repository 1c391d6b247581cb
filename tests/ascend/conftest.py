"""The tests in ``simulated`` import torch_npu and run in processes of their own, which test_simulated.py starts."""

import os
import warnings

import pytest

from tests.ascend.install import NotHere, prepared, required

collect_ignore = [] if os.environ.get("C4D_SIM_DEVICES") else ["simulated"]


@pytest.fixture(scope="session")
def libraries():
    """The folder of the stand-in for CANN; torch_npu lies beside it."""
    try:
        return prepared()
    except NotHere as why:
        if required():
            pytest.fail(f"the Ascend simulation cannot run here: {why}", pytrace=False)
        warnings.warn(f"NOT TESTED: the Ascend simulation cannot run here: {why}", stacklevel=1)
        pytest.skip(str(why))
