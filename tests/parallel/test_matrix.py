"""Every case that needs several ranks, as a test of its own; all of a world size come from one launch."""

from __future__ import annotations

import fcntl
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
    """World size -> what a launch of all its selected cases found; at 0, the launcher's own. One process forks them
    all, once for all workers of xdist, which may not keep a group together."""
    asked = {world: [] for world in (*NTH, 0)}
    for item in request.session.items:
        name = getattr(item, "originalname", "")
        if name == "test_on":
            asked[item.callspec.params["world"]].append(item.callspec.params["name"])
        elif name == test_a_rank_that_fails_or_ends_is_told.__name__:
            asked[0] = list(LAUNCHER)
    worlds = [world for world, names in asked.items() if names]
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    kept = shared / "ranks.json"
    with (shared / "ranks.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_text(json.dumps(launch(*((world or 2, asked[world]) for world in worlds))))
    return dict(zip(worlds, json.loads(kept.read_text()), strict=True))


@pytest.mark.parametrize("world, name", MATRIX)
def test_on(launched, world, name):
    found = launched[world]
    said = found[name] if name in found else found[""]
    if any(said):
        pytest.fail("\n".join(f"rank {rank}: {what or 'right'}" for rank, what in enumerate(said)), pytrace=False)


def test_a_rank_that_fails_or_ends_is_told(launched):
    """The launcher itself: rank 1 alone fails in one case, and ends within the next."""
    found = launched[0]
    fine, failed = found["launcher: a rank fails"]
    assert fine is None and "AssertionError: on purpose" in failed
    assert "did not get to it" in found["launcher: a rank ends"][1]
