"""The parts of spreading that one process can check: cuts, merges, and how near is the same."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from c4d.backends import load
from c4d.backends.reference import Reference
from c4d.core.runtime.signals import SignalReader, SingleProcess
from c4d.core.types import RelativeL1, Signal
from c4d.parallel import Job, agree, attention
from c4d.parallel.agree import Agreement, DisagreementError, near, sample
from c4d.parallel.sharding import TokenShard
from c4d.parallel.start import attempt
from c4d.pipelines.runs import Cost, together
from tests.tiny import rand

LENGTHS, RANKS = st.integers(1, 40), st.integers(1, 9)


def cuts(length, ranks):
    made = [TokenShard(position, ranks) for position in range(ranks)]
    for cut in made:
        cut.length = length
    return made


@given(LENGTHS, RANKS, st.integers(1, 3), st.integers(0, 2), st.booleans())
def test_what_is_cut_is_all_there_once_and_filled_at_the_end(length, ranks, ndim, dim, backwards):
    dim %= ndim
    shape = [2] * ndim
    shape[dim] = length
    x = torch.arange(1.0, math.prod(shape) + 1).view(shape)
    parts = [cut(x, dim - ndim if backwards else dim) for cut in cuts(length, ranks)]
    whole = torch.cat(parts, dim)
    assert torch.equal(whole.narrow(dim, 0, length), x)
    assert not whole.narrow(dim, length, whole.shape[dim] - length).any()
    assert len({part.shape for part in parts}) == 1 and parts[0].shape[dim] == math.ceil(length / ranks)
    assert all(part.is_contiguous() and part.untyped_storage().nbytes() == part.nbytes for part in parts)


@given(LENGTHS, RANKS, st.integers(0, 50))
def test_counts(length, ranks, count):
    made = cuts(length, ranks)
    assert sum(cut.here for cut in made) == length
    assert all(cut.each == math.ceil(length / ranks) >= cut.here for cut in made)
    assert sum(cut.before(count) for cut in made) == min(count, ranks * made[0].each)
    leading = torch.arange(length) < count  # what a rank has of the tokens that are counted, counted by hand
    for cut in made:
        assert min(cut.before(count), cut.here) == int(cut(leading.float(), 0).sum())


@given(LENGTHS, RANKS, st.integers(0, 5))
def test_what_stands_before_the_tokens_stays(length, ranks, words):
    x = rand(words + length, 2)
    tails = [cut.tail(x, 0) for cut in cuts(length, ranks)]
    assert all(torch.equal(tail[:words], x[:words]) for tail in tails)
    assert torch.equal(torch.cat([tail[words:] for tail in tails])[:length], x[words:])


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), RANKS)
def test_a_grid_is_cut_in_the_order_in_which_it_is_flattened(frames, height, width, ranks):
    x = rand(2, 3, frames, height, width)
    tokens = x.flatten(2).transpose(1, 2)
    for cut in cuts(frames * height * width, ranks):
        mine = cut.tokens(x)
        assert mine.ndim == 5
        assert torch.equal(mine.flatten(2).transpose(1, 2), cut.tokens(tokens))


# -- merges


@given(st.lists(st.integers(0, 6), min_size=2, max_size=5), st.integers(1, 4), st.floats(0.1, 30.0))
def test_parts_over_some_keys_merge_to_all(sizes, queries, scale):
    """Against fp64 over all keys at once, in any split of them, also one that is empty.

    As far as fp32 goes: a weight is the exponential of a score, so its error is that of rounding the largest score.
    """
    if not sum(sizes):
        sizes = [*sizes, 1]
    backend, keys = load("cpu"), sum(sizes)
    q, k, v = (rand(2, n, 3, 4, seed=i) for i, n in enumerate((queries, keys, keys)))
    q = q * scale
    want, lse = backend.attention_lse(q.double(), k.double(), v.double())
    parts = [backend.attention_lse(q, a, b) for a, b in zip(k.split(sizes, 1), v.split(sizes, 1), strict=True)]
    total = parts[0]
    for part in parts[1:]:
        total = attention.merged(total, part)
    assert total[0].dtype == torch.float32
    largest = torch.einsum("bqhd,bkhd->bhqk", q, k).abs().max() / math.sqrt(q.shape[-1])
    rounding = 2 * torch.finfo(torch.float32).eps * (1 + largest)
    assert (total[0] - want).abs().max() < rounding * v.abs().max()
    assert (total[1] - lse).abs().max() < rounding


def test_a_query_that_saw_nothing_stays_zero():
    nothing = torch.zeros(1, 2, 1, 3), torch.full((1, 1, 2), -math.inf)
    out, lse = attention.merged(nothing, nothing)
    assert not out.any() and (lse == -math.inf).all()
    something = rand(1, 2, 1, 3), torch.tensor([[[0.5, -2.0]]])
    for merged in (attention.merged(nothing, something), attention.merged(something, nothing)):
        assert torch.equal(merged[0], something[0]) and torch.equal(merged[1], something[1])


# -- agreement


def test_near():
    """A length, and directions in parts of it."""
    assert near([10.0, -0.5], [10.0, -0.5])
    assert near([10.0, -0.5], [10.19, -0.5]) and not near([10.0, -0.5], [10.21, -0.5])  # 0.02 of the length
    assert near([10.0, -0.5], [10.0, -0.519]) and not near([10.0, -0.5], [10.0, -0.521])
    assert near([0.0, 0.0], [0.0, 0.0]) and not near([0.0, 0.0], [1e-9, 0.0])
    assert near([math.inf, 1.0], [math.inf, 1.0]) and not near([1.0, 1.0], [math.inf, 1.0])
    assert not near([1.0, 1.0], [math.nan, 1.0]) and not near([math.nan], [1.0])
    assert near([math.nan, 1.0], [math.nan, 1.0])  # broken alike: for the reports, not a disagreement
    assert not near([math.nan, 1.0], [math.nan, 2.0])


@given(st.integers(2, 20000), st.integers(0, 99))  # single numbers may be near each other
def test_a_sample_tells_inputs_apart(count, seed):
    make = torch.Generator().manual_seed(seed)
    x, other = (torch.randn(1, count, generator=make) for _ in range(2))
    found = sample(x)
    assert found.shape == (agree.SAMPLED,) and found.dtype == torch.float32
    assert found[0] == pytest.approx(x.norm().item(), rel=1e-5)
    assert torch.equal(found, sample(x.view(count, 1))) and near(found.tolist(), sample(x * 1.001).tolist())
    assert not near(found.tolist(), sample(other).tolist())


def test_a_short_prompt_in_much_filling_is_told_from_another():
    words, others = rand(1, 6, 64), rand(1, 6, 64, seed=1)
    others[:, 0] = words[:, 0]  # both begin alike
    filling = torch.zeros(1, 506, 64)
    one, other = (sample(torch.cat((text, filling), 1)).tolist() for text in (words, others))
    assert not near(one, other)


def test_a_sample_of_more_numbers_than_fp32_counts():
    sample(torch.zeros(1).expand(2**24 + 9))


@pytest.fixture
def ranks(monkeypatch):
    """Three ranks in one process: what the others would send."""
    said = SimpleNamespace(others=[])
    monkeypatch.setattr(agree, "gather", lambda x, group: torch.stack([x, *said.others]))
    return said


class Two(SingleProcess):
    """Two ranks that measure the same; ``told`` is what this one told the other."""

    def all_sum(self, partial, counts, failed, apart=False):
        self.told = list(counts), failed
        return [] if failed else (2 * partial).tolist()


def test_a_change_is_that_of_all_ranks():
    both, now, before = Two(), torch.tensor([1.0, 3.0]), torch.tensor([2.0, 5.0])
    measured = SignalReader(Reference(), both).read({Signal.INPUT: (now, before)}, {Signal.INPUT: 4})
    assert measured == {Signal.INPUT: RelativeL1(6.0, 14.0)} and both.told == ([(2, 4)], False)


def test_ranks_measure_their_signals_in_one_order():
    """Sets of signals have another one in each process."""
    now, told = {Signal.OUTPUT: torch.zeros(3), Signal.INPUT: torch.zeros(2)}, []
    for signals in (list(now), list(now)[::-1]):
        both, wholes = Two(), {signal: 2 * len(now[signal]) for signal in signals}
        SignalReader(Reference(), both).read({signal: (now[signal], now[signal]) for signal in signals}, wholes)
        told.append(both.told)
    assert told == [([(2, 4), (3, 6)], False)] * 2


def test_the_other_ranks_are_told_before_a_failure_is_raised():
    both, now = Two(), torch.zeros(2)
    with pytest.raises(ValueError):
        SignalReader(Reference(), both).read({Signal.INPUT: (now, torch.zeros(3))}, {Signal.INPUT: 4})
    assert both.told == ([(2, 4)], True)


class Told(NamedTuple):
    """A job of two in one process, whose other rank has heard all that is ``said``."""

    rank: int
    said: list
    world: int = 2
    led = Job.led

    def first(self, act):
        if self.rank == 0:
            self.said.append(attempt(act))
        given, raised = self.said[-1] if self.rank == 0 else self.said.pop(0)
        if raised is not None:
            raise raised
        return given


def test_the_first_rank_says_what_all_do_next():
    said, acts = [], {0: [], 1: []}

    def act(rank, x):
        acts[rank].append(x)
        if x < 0:
            raise ValueError("out of luck")
        return 10 * x

    def asking(*wanted):
        return lambda together: [together(x) for x in wanted]

    assert Told(0, said).led(functools.partial(act, 0), asking(1, 2)) == [10, 20] and len(said) == 3
    assert Told(1, said).led(functools.partial(act, 1), asking(7)) is None
    assert acts == {0: [1, 2], 1: [1, 2]} and not said
    for rank in (0, 1):
        with pytest.raises(ZeroDivisionError):
            Told(rank, said).led(functools.partial(act, rank), lambda together: together(3) / 0)
    assert acts[1] == [1, 2, 3] and not said, "between two acts every rank fails"
    with pytest.raises(ValueError):
        Told(0, said).led(functools.partial(act, 0), asking(-1))
    assert said == [((-1,), None)], "the others may be in that act: nothing more is said"
    assert Job().led(functools.partial(act, 0), asking(5)) == [50], "one rank alone"


def test_what_a_clip_costs_on_all_ranks():
    def cost(done, total, held):
        return Cost({"what": "blocks", "done": done, "total": total, "ratio": total / done}, total, held, 100)

    branches = together([cost(3, 6, 7), cost(5, 6, 9)], sequence=1)  # each made one branch of guidance
    assert branches == Cost({"what": "blocks", "done": 8, "total": 12, "ratio": 1.5}, 12, 9, 200)
    assert together([cost(3, 6, 7), cost(3, 6, 9)], sequence=2) == cost(3, 6, 9)._replace(flops=200)
    assert together([Cost(None, None, 0, 5)] * 2, sequence=2) == Cost(None, None, 0, 10)


def test_sums_are_in_the_order_of_the_ranks(ranks):
    """And exact: the numbers of which the sum is made do not decide it by their order."""
    ranks.others = [torch.tensor([[1e20, 2.0, 5.0, 15.0, 0.0]]), torch.tensor([[-1e20, 4.0, 5.0, 15.0, 0.0]])]
    own = Agreement(None, 3)
    assert own.all_sum(torch.tensor([[0.5, 1.0]]), [(5, 15)], False) == [[0.5, 7.0]]
    assert own.calls == 1


def test_a_rank_that_failed_is_named(ranks):
    ranks.others = [torch.tensor([[0.0, 0.0, 5.0, 15.0, 1.0]]), torch.tensor([[1.0, 1.0, 5.0, 15.0, 0.0]])]
    with pytest.raises(DisagreementError, match="rank 1 of this request failed"):
        Agreement(None, 3).all_sum(torch.tensor([[0.5, 1.0]]), [(5, 15)], False)


@pytest.mark.parametrize(
    "sequence, counts, wholes, fine",
    [
        (3, (5, 5, 5), (15, 15, 15), True),
        (3, (5, 3, 0), (8, 8, 8), True),  # filled up at the end, and a rank of nothing but filling
        (3, (5, 5, 5), (13, 13, 13), False),  # filling was measured
        (3, (5, 3, 3), (13, 13, 13), False),
        (3, (5, 5, 5), (15, 15, 16), False),
        (1, (5, 5, 5), (5, 5, 5), True),  # each a branch of its own
        (1, (5, 5, 3), (5, 5, 5), False),
        (3, (400_000_001, 400_000_001, 399_995_123), (1_199_995_125,) * 3, True),  # more than fp32 counts
        (3, (400_000_001, 400_000_001, 399_990_003), (1_199_995_125,) * 3, False),  # a token less
    ],
)
def test_ranks_measure_all_of_one_whole(ranks, sequence, counts, wholes, fine):
    mine, *ranks.others = [torch.tensor([[1.0, 1.0, *pair, 0.0]]) for pair in zip(counts, wholes, strict=True)]
    act = functools.partial(Agreement(None, sequence).all_sum, mine[:, :2], [(counts[0], wholes[0])], False)
    if fine:
        assert act() == [[3.0, 3.0]]
    else:
        with pytest.raises(DisagreementError, match="numbers, in their order, as parts of"):
            act()
