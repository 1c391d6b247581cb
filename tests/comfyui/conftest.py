"""The tests in ``inside`` import ComfyUI's engine and run in a process of their own, which test_inside.py starts."""

import os

import pytest

from tests import apart
from tests.comfyui.install import WHAT, prepared, required

collect_ignore = [] if os.environ.get("C4D_INSIDE_COMFYUI") else ["inside"]


@pytest.fixture(scope="session")
def site():
    """The folder of ComfyUI's engine."""
    return apart.fixture(WHAT, prepared, required())
