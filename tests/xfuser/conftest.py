import warnings

import pytest

from tests.xfuser.install import NotHere, prepared


@pytest.fixture(scope="session")
def site():
    """The folder of xfuser and yunchang, which is on no process's path but where the tests put it."""
    try:
        return prepared()
    except NotHere as why:
        warnings.warn(f"NOT TESTED: xfuser cannot run here: {why}", stacklevel=1)
        pytest.skip(str(why))
