"""Every test runs on a stand-in of SGLang's denoising, and in ``make nightly`` on SGLang's own, too."""

import pytest

from tests import apart
from tests.sglang import runtime as runtimes
from tests.sglang.install import WHAT, prepared


@pytest.fixture(params=["stand-in", pytest.param("wheel", marks=pytest.mark.nightly)])
def runtime(request):
    """SGLang as a plugin finds it, without any hook."""
    with runtimes.forgotten():
        yield runtimes.stand_in() if request.param == "stand-in" else runtimes.of_wheel(apart.fixture(WHAT, prepared))
