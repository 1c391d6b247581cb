"""SpeCa: what it drafts, verifies and computes again, beside a plain implementation, TaylorSeer, and no cache."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import c4d
from c4d.core.types import Action, RelativeL1, Signal, Step
from tests.core.test_policy import play
from tests.sampled import sampled
from tests.tiny import CASES, block_count, rand

STEPS = 12
MODELS = ("wan-t2v", "wan-vace", "hunyuan-t2v", "flux", "qwen", "dit")


def loop(name, method=None):
    case = CASES[name]
    model = case.build()
    if method is None:
        return case.loop(model, STEPS), None
    with c4d.cached(model, method) as session:
        return case.loop(model, STEPS, session.begin), session.report()


@pytest.mark.parametrize("name", MODELS)
def test_strict_without_tolerance_is_the_uncached_run(name):
    """Bit for bit: a rejected draft leaves nothing in the pass that takes its place."""
    found, report = loop(name, "speca:threshold=0,mode=strict,order=2")
    assert all(torch.equal(a, b) for a, b in zip(found, loop(name)[0], strict=True))
    assert report.reused == 0 and report.host_reads == 2 * (STEPS - 1)
    # Each step but the first: a draft, its last block computed, and then the whole.
    assert report.blocks_entered == 2 * (block_count(name) * (2 * STEPS - 1) + STEPS - 1)


@pytest.mark.parametrize(("name", "mode"), sampled(MODELS, ["lagged", "strict"], nth=2))
def test_with_every_tolerance_it_is_taylorseer(name, mode):
    wanted, plain = loop(name, "taylorseer:interval=4,order=2,warmup=2")
    found, report = loop(name, f"speca:threshold=1e30,max_drafts=3,order=2,warmup=2,unchecked=1,mode={mode}")
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert report.timelines == plain.timelines and report.modules_reused == plain.modules_reused
    verified = 2 * sum(line == "r" and (i - 1) % 4 != 1 for i, line in enumerate(plain.timelines["cond"]))
    assert report.blocks_entered == plain.blocks_entered + verified  # of a last block each


class Toy(nn.Module):
    """Two blocks of an attention and an MLP whose outputs move with the step and with what they are given."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks, self.head = nn.ModuleList([Block(0.3), Block(0.6)]), nn.Identity()

    def forward(self, hidden_states, step):
        for block in self.blocks:
            hidden_states = block(hidden_states, step)
        return self.head(hidden_states)


class Part(nn.Module):
    def __init__(self, speed):
        super().__init__()
        self.inner, self.speed = nn.Linear(4, 4).double(), speed

    def forward(self, x, step):
        return torch.sin(self.inner(x) + self.speed * step)


class Block(nn.Module):
    def __init__(self, speed):
        super().__init__()
        self.attn, self.mlp = Part(speed), Part(speed / 2)

    def forward(self, hidden_states, step):
        hidden_states = hidden_states + 0.7 * self.attn(hidden_states, step)
        return hidden_states + 0.4 * self.mlp(hidden_states, step)


class Plain:
    """SpeCa by itself: features in lists, forecasts by a first difference, errors as they are defined."""

    def __init__(self, toy):
        self.toy, self.features = toy, {part: [] for block in toy.blocks for part in (block.attn, block.mlp)}

    def ahead(self, part, s):
        *_, (before, old), (at, new) = [(0, None), *self.features[part]]
        return new if old is None else new + (s - at) * (new - old) / (at - before)

    def run(self, h, s, blocks, how):
        """``how``: "drafted" takes forecasts, "computed" keeps what is computed, "checked" does not."""
        for part, weight in [pair for block in blocks for pair in ((block.attn, 0.7), (block.mlp, 0.4))]:
            made = self.ahead(part, s) if how == "drafted" else part(h, s)
            if how == "computed":
                self.features[part].append((s, made))
            h = h + weight * made
        return h

    def error(self, x, s, kind):
        *others, last = self.toy.blocks
        h = self.run(x, s, others, "drafted")
        made, right = (self.run(h, s, [last], how) - h for how in ("drafted", "checked"))
        if kind == "norms":
            return float((made - right).abs().sum() / right.abs().sum())
        return float(((made - right).abs() / (right.abs() + 1e-10)).mean())


def plainly(toy, x, mode, error, threshold, decay, floor, unchecked, most, warmup):
    plain, outs, line, drafts, errors, late = Plain(toy), [], "", 0, [], -1.0
    for s in range(STEPS):
        limit = max(threshold * decay ** (s / STEPS), floor)
        compute, late = s < warmup or drafts >= most or late >= limit, -1.0
        drafts += 1
        if not compute and drafts > unchecked:
            late = plain.error(x, s, error)
            errors.append(late)
            compute = mode == "strict" and late >= limit
        outs.append(plain.run(x, s, toy.blocks, "computed" if compute else "drafted"))
        line, drafts = line + ("C" if compute else "r"), 0 if compute else drafts
        late = -1.0 if mode == "strict" else late
    return outs, line, errors


@pytest.mark.parametrize("mode", ["lagged", "strict"])
@pytest.mark.parametrize("error", ["norms", "elementwise"])
@pytest.mark.parametrize(
    ("threshold", "decay", "floor", "unchecked", "most", "warmup"),
    [(0.5, 1.0, 0.0, 0, 4, 1), (0.9, 0.3, 0.1, 1, 5, 2), (2.0, 0.05, 0.4, 0, 9, 1)],
)
def test_speca_is_its_definition(mode, error, threshold, decay, floor, unchecked, most, warmup):
    toy, x = Toy(), rand(1, 3, 4).double()
    options = dict(threshold=threshold, decay=decay, floor=floor, unchecked=unchecked, warmup=warmup)
    with torch.no_grad():
        wanted, line, errors = plainly(toy, x, mode, error, most=most, **options)
        parts = {kind: (c4d.Site(kind),) for kind in ("attn", "mlp")}
        spec = c4d.ModelSpec("Toy", stacks=(c4d.Stack("blocks", sites=parts),), exit="head")
        text = ",".join(f"{key}={value}" for key, value in options.items())
        with c4d.cached(toy, f"speca:max_drafts={most},mode={mode},error={error},{text}", spec=spec) as session:
            session.begin(range(STEPS))
            outs = [toy(x, s) for s in range(STEPS)]
    assert session.report().timelines == {"0": line} and "r" in line and ("rC" in line or mode == "strict")
    seen = [entry.seen[Signal.DRAFT].ratio for entry in session.trace if Signal.DRAFT in entry.seen]
    assert seen == pytest.approx(errors[: len(seen)], rel=1e-5) and len(seen) >= len(errors) - 1
    for a, b in zip(outs, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def speculate(**options):
    return c4d.methods.speca(**{"threshold": 1.0, **options}).rules[0].policy


def test_as_published_the_first_two_drafts_are_taken_unseen_and_the_failed_one_is_kept():
    """With an error that is always too large a cycle has four steps: two unseen, one that fails, and the computed."""
    errors = {i: RelativeL1(9.0, 1.0) for i in range(STEPS)}

    def run(policy):
        state, line, left = policy.init(), "", False
        for i in range(STEPS):
            action, state = policy.decide(state, Step(i, STEPS, "cond"), {Signal.DRAFT: errors[i]} if left else {})
            left = action is Action.REUSE and policy.verifies(state)
            line += "C" if action is Action.COMPUTE else "r"
        return line

    assert run(speculate()) == "CrrrCrrrCrrr" and run(speculate(warmup=3)) == "CCCrrrCrrrCr"
    assert run(speculate(unchecked=0, last=2)) == "CrCrCrCrCrCC"
    assert play(speculate(max_drafts=2), STEPS) == "CrrCrrCrrCrr"


def test_the_threshold_falls_over_the_run_to_its_floor():
    policy = speculate(threshold=7.0, decay=0.3, floor=2.5)
    assert [policy.at(Step(i, 10, "cond")) for i in (0, 5, 9)] == pytest.approx([7.0, 7.0 * math.sqrt(0.3), 2.5])
    said = policy.weigh(1, Step(5, 10, "cond"), {Signal.DRAFT: RelativeL1(1.0, 2.0)})
    assert said == pytest.approx(0.5 / math.sqrt(0.3))  # as much of 7 as 0.5 is of the step's own threshold


@pytest.mark.parametrize("mode", ["lagged", "strict"])
def test_an_error_that_is_no_number_computes(mode):
    case = CASES["wan-t2v"]
    model, x = case.build(), rand(*case.latents)
    with c4d.cached(model, f"speca:threshold=1e30,unchecked=0,mode={mode}") as session:
        session.begin(range(4))
        for step in range(4):
            case.run(model, x if step != 1 else x * math.nan, 900.0)
    # The strict one then has that step's features, of which every further draft is made.
    assert session.report().timelines["0"] == ("CrCr" if mode == "lagged" else "CCCC")
    assert session.report().nonfinite == (1 if mode == "lagged" else 3)
