import pytest

from tests import apart
from tests.xfuser.install import prepared


@pytest.fixture(scope="session")
def site():
    """The folder of xfuser and yunchang, which is on no process's path but where the tests put it."""
    return apart.fixture("xfuser", prepared)
