"""The adapter climbs the ladder, and mistakes do not: each is noticed on the rungs that docs/ascend.md says."""

from __future__ import annotations

import pytest

from tests.ascend.mutations import MUTATIONS, noticed, parts, table
from tests.ascend.rungs import RUNGS


@pytest.mark.parametrize("rung, check", [(rung, check) for rung in RUNGS for check in RUNGS[rung].checks])
def test_the_adapter_passes(rung, check):
    RUNGS[rung].climb(check)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mistake_is_noticed(name):
    """By numbers always: the sentences beside the table say so."""
    assert "numerics" in noticed(name)


def test_the_page_has_this_table():
    _, here, _ = parts()
    assert here == table(), "python -m tests.ascend.mutations writes it anew"
