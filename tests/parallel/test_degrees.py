"""Which way of dividing ranks is chosen, what is refused, and who stands where."""

from __future__ import annotations

from datetime import timedelta
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from c4d.parallel.degrees import Degrees, SequenceParallel, possible
from c4d.parallel.mesh import build, layout

WORLDS, HEADS = st.integers(1, 64), st.integers(1, 48)
DEGREES = st.builds(Degrees, st.integers(1, 4), st.integers(1, 4), st.integers(1, 2), st.integers(1, 3))


@given(WORLDS, st.integers(1, 16), HEADS, st.integers(1, 2))
def test_what_is_chosen_uses_every_rank_once(world, node, heads, branches):
    d = SequenceParallel().degrees(world, node=node, heads=heads, branches=branches)
    assert prod(d) == d.world == world and d.data == 1
    assert d.ulysses <= heads and d.cfg <= branches
    assert d in possible(world, heads, branches)
    assert d.cfg == (2 if branches == 2 and world % 2 == 0 else 1)


@given(WORLDS, HEADS, st.integers(1, 2))
def test_what_is_possible_is_all_there_is(world, heads, branches):
    every = {
        Degrees(u, r, c, d)
        for u in range(1, world + 1)
        for r in range(1, world // u + 1)
        for c in (1, 2)
        for d in range(1, world // (u * r) + 1)
        if u * r * c * d == world and u <= heads and c <= branches
    }
    found = possible(world, heads, branches)
    assert set(found) == every and len(found) == len(every)


@pytest.mark.parametrize(
    "world, node, heads, branches, chosen",
    [
        (8, 8, 12, 2, Degrees(4, 1, 2)),  # Wan 1.3B: guidance first, then what divides the heads
        (8, 8, 24, 1, Degrees(8, 1)),  # HunyuanVideo
        (16, 8, 24, 1, Degrees(8, 2)),
        (16, 8, 32, 1, Degrees(8, 2)),  # 32 heads divide by 16, but Ulysses stays inside a node
        (8, 8, 12, 1, Degrees(4, 2)),  # 12 heads do not divide by 8
        (16, 8, 40, 2, Degrees(8, 1, 2)),
        (1, 1, 24, 2, Degrees(1, 1)),
        (3, 3, 24, 2, Degrees(3, 1)),  # no half of three
        (5, 5, 24, 1, Degrees(1, 5)),  # no heads to fill up unless asked for
        (7, 7, 3, 1, Degrees(1, 7)),
    ],
)
def test_choices(world, node, heads, branches, chosen):
    assert SequenceParallel().degrees(world, node=node, heads=heads, branches=branches) == chosen


def test_what_is_asked_for_is_what_is_used():
    def asked(world=8, **given):
        return SequenceParallel(**given).degrees(world, node=8, heads=24, branches=2)

    assert asked(ulysses=2) == Degrees(2, 2, 2)
    assert asked(ring=8, cfg=1) == Degrees(1, 8)
    assert asked(cfg=1) == Degrees(8, 1)
    assert asked(data=4) == Degrees(1, 1, 2, 4)
    assert asked(12, ulysses=3, ring=2) == Degrees(3, 2, 2)


@pytest.mark.parametrize(
    "how, world, heads, branches, asked, listed",
    [
        (dict(ulysses=4, ring=4), 8, 24, 1, "ulysses=4, ring=4", "ulysses 4, ring 2"),
        (dict(ulysses=4, cfg=1), 4, 3, 1, "ulysses=4", "ulysses 2, ring 2"),  # a rank without a head
        (dict(cfg=2), 8, 24, 1, "cfg=2", "ulysses 8"),  # no second branch
        (dict(cfg=2), 3, 24, 2, "cfg=2", "ulysses 3"),
        (dict(ring=3), 8, 24, 2, "ring=3", "ring 8"),
        (dict(data=3), 8, 24, 1, "data=3", "ulysses 8"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(how, world, heads, branches, asked, listed):
    with pytest.raises(ValueError) as refused:
        SequenceParallel(**how).degrees(world, node=8, heads=heads, branches=branches)
    said = str(refused.value)
    assert said.startswith(f"{asked} does not fit {world} ranks, {heads} heads and {branches} branch")
    assert listed in said.split("possible are: ")[1].split("; ")


@pytest.mark.parametrize(
    "how, says",
    [
        (dict(ulysses=0), "ulysses must be a whole number of at least 1, got 0"),
        (dict(ring=-1), "ring must be"),
        (dict(ulysses=2.0), "ulysses must be"),
        (dict(data=True), "data must be"),
        (dict(cfg=3), "cfg must be 1 or 2"),
        (dict(groups="mpi"), "groups must be 'auto', 'xfuser' or 'torch', got 'mpi'"),
        (dict(timeout=0), "timeout must be seconds above 0"),
        (dict(timeout=float("nan")), "timeout must be"),
    ],
)
def test_nonsense_is_refused(how, says):
    with pytest.raises(ValueError, match=says):
        SequenceParallel(**how)


# -- who stands where


@given(DEGREES)
def test_every_rank_is_in_one_group_of_each_kind(d):
    sizes = dict(ulysses=d.ulysses, ring=d.ring, sequence=d.sequence, cfg=d.cfg, request=d.sequence * d.cfg)
    for kind, groups in layout(d).items():
        assert sorted(rank for group in groups for rank in group) == list(range(d.world)), kind
        assert {len(group) for group in groups} == {sizes[kind]}


class Handle:
    group_name = ""


@given(DEGREES)
def test_groups_meet_where_they_should(d):
    """Ulysses and Ring of a rank span its sequence, and its counterparts of the other branch stand where it does."""
    groups = {kind: {rank: group for group in found for rank in group} for kind, found in layout(d).items()}
    made = [list[tuple[int, ...]]() for _ in range(d.world)]
    for rank in range(d.world):

        def new_group(ranks, limit, rank=rank):
            assert limit == timedelta(seconds=7)
            made[rank].append(tuple(ranks))
            return Handle()

        here = build(d, rank, new_group, 7.0)
        spanned = {other for peer in groups["ulysses"][rank] for other in groups["ring"][peer]}
        assert sorted(spanned) == sorted(groups["sequence"][rank])
        assert groups["sequence"][rank][here.position] == rank
        for other in groups["cfg"][rank]:
            there = build(d, other, lambda ranks, limit: Handle(), 7.0)
            assert (there.position, there.replica) == (here.position, here.replica)
            assert other == rank or there.branch != here.branch
        for kind in ("ulysses", "ring", "sequence", "cfg", "request"):
            group, found = groups[kind][rank], getattr(here, kind)
            assert (found is None) == (len(group) == 1)
            assert found is None or (found.size, group[found.rank]) == (len(group), rank)
        assert here.ulysses is None or abs(groups["ulysses"][rank][-1] - groups["ulysses"][rank][0]) == d.ulysses - 1
    assert all(made[rank] == made[0] for rank in range(d.world))  # or making them would hang
    assert len(set(made[0])) == len(made[0]) and all(len(ranks) > 1 for ranks in made[0])
