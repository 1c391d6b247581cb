"""DiCache beside its definition, on what goes into and comes out of the blocks of an uncached model."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import c4d
from c4d.core.integration.blocks import bind, streams
from c4d.models import spec_for
from tests.tiny import CASES, rand

STEPS = 12


class States(NamedTuple):
    """The hidden state before the blocks, after the probe, and after all blocks."""

    before: Tensor
    probe: Tensor
    after: Tensor


def states(case, model, x, t, depth):
    spec, seen = spec_for(model), {}
    stack = next(stack for stack in spec.stacks if not stack.side)
    blocks = model.get_submodule(stack.path)

    def into(block, args, kwargs):
        seen["before"] = bind(stack, args, kwargs)["hidden_states"]

    handles = [
        blocks[0].register_forward_pre_hook(into, with_kwargs=True),
        blocks[depth - 1].register_forward_hook(
            lambda _, args, out: seen.update(probe=streams(stack, out)["hidden_states"])
        ),
        model.get_submodule(spec.exit).register_forward_pre_hook(lambda _, args: seen.update(after=args[0])),
    ]
    case.run(model, x, t)
    for handle in handles:
        handle.remove()
    return States(**seen)


def size(x):
    return x.abs().sum().item()


def change(now, before):
    return size(now - before) / size(before)


def error(now, then, kind):
    probe = change(now.probe, then.probe)
    return probe if kind == "delta_y" else abs(probe - change(now.before, then.before))


def plainly(found, threshold, retention, kind):
    """What the head gets on each step, and the timeline."""
    outs, line, acc, kept = [], "", 0.0, []
    for s, now in enumerate(found):
        if int(retention * STEPS) < s < STEPS - 1:
            acc += error(now, found[s - 1], kind)
            if acc < threshold:
                (r2, old), (r1, new) = kept[-2:] if len(kept) > 1 else [kept[-1]] * 2
                g = min(max(size(now.probe - now.before - r2) / size(r1 - r2), 1.0), 1.5) if len(kept) > 1 else 1.0
                outs.append(now.before + old + g * (new - old))
                line += "r"
                continue
        acc, line = 0.0, line + "C"
        kept.append((now.probe - now.before, now.after - now.before))
        outs.append(now.after)
    return outs, line


@pytest.mark.parametrize("name", ["wan-t2v", "wan-vace", "hunyuan-t2v", "flux", "qwen"])
@pytest.mark.parametrize(
    ("depth", "retention", "kind"),
    [(1, 0.2, "delta_y"), (2, 0.0, "delta_y"), (1, 0.0, "delta_minus"), (2, 0.2, "delta_minus")],
)
def test_dicache_is_its_definition(name, depth, retention, kind):
    case, outs = CASES[name], []
    model = case.build()
    start, end = rand(*case.latents, seed=98), rand(*case.latents, seed=99)
    xs = [start + (s / STEPS) ** 2 * end for s in range(STEPS)]
    found = [states(case, model, x, 900.0 - 40 * s, depth) for s, x in enumerate(xs)]
    moved = [error(b, a, kind) for a, b in pairwise(found)]
    threshold = 2.2 * sum(moved) / len(moved)
    wanted, line = plainly(found, threshold, retention, kind)
    model.get_submodule(spec_for(model).exit).register_forward_hook(lambda _, args, out: outs.append(args[0]))
    options = f"threshold={threshold!r},depth={depth},retention={retention},error={kind}"
    with c4d.cached(model, f"dicache:{options}") as session:
        session.begin(range(STEPS))
        for s, x in enumerate(xs):
            case.run(model, x, 900.0 - 40 * s)
    report = session.report()
    assert report.timelines == {"0": line} and "rr" in line and "rC" in line
    chain = [len(model.get_submodule(stack.path)) for stack in spec_for(model).stacks if not stack.side]
    side = [len(model.get_submodule(stack.path)) for stack in spec_for(model).stacks if stack.side]
    assert report.blocks_entered == line.count("C") * sum(chain) + line.count("r") * depth + STEPS * sum(side)
    # A wait for each forward that has a step before it, and one more where a forecast asks how far the probe is.
    assert report.host_reads >= STEPS - 1 + sum(line[:s].count("C") > 1 and c == "r" for s, c in enumerate(line))
    for a, b in zip(outs, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
