"""Every case that needs several ranks, as a test of its own; all of a world size come from one launch."""

from __future__ import annotations

import fcntl
import functools
import json
import os

import pytest

from tests.parallel.launch import launch
from tests.parallel.matrix import LAUNCHER, PARTS
from tests.sampled import sampled

NTH = {2: 18, 4: 32}  # of every part, make test runs each case of which the number divides by this
LONG = "compiled"  # takes as long as all other cases together, and is nightly
MATRIX = [
    param
    for world, nth in NTH.items()
    for part in PARTS
    for param in sampled([world], part.cases(world), nth=nth, complete=False, never=LONG)
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def launched(request, tmp_path_factory):
    """What a launch of all selected cases found. One at a time, and one for all workers of xdist, which may not keep a
    group together."""
    asked = {world: [] for world in NTH}
    for item in request.session.items:
        if getattr(item, "originalname", "") == "test_on":
            asked[item.callspec.params["world"]].append(item.callspec.params["name"])
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    @functools.cache
    def once(world, *names):
        kept = shared / f"ranks-{world}-{len(names)}.json"
        with (shared / "ranks.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                kept.write_text(json.dumps(launch(world, *names or asked[world])))
        return json.loads(kept.read_text())

    return once


@pytest.mark.parametrize("world, name", MATRIX)
def test_on(launched, world, name):
    found = launched(world)
    said = found[name] if name in found else found[""]
    if any(said):
        pytest.fail("\n".join(f"rank {rank}: {what or 'right'}" for rank, what in enumerate(said)), pytrace=False)


def test_a_rank_that_fails_or_ends_is_told(launched):
    """The launcher itself: rank 1 alone fails in one case, and ends within the next."""
    found = launched(2, *LAUNCHER)
    fine, failed = found["launcher: a rank fails"]
    assert fine is None and "AssertionError: on purpose" in failed
    assert "did not get to it" in found["launcher: a rank ends"][1]
