"""Delta-DiT: which blocks run before and after the turn, and what stands for the others."""

from __future__ import annotations

import pytest
import torch

import c4d
from c4d.core.integration.blocks import bind, streams
from c4d.models import spec_for
from tests.tiny import CASES, rand

STEPS = 9  # the turn comes at step 5


@pytest.mark.parametrize("name", ["wan-t2v", "wan-vace", "qwen", "hunyuan-t2v", "flux"])
def test_delta_dit_is_its_definition(name):
    case = CASES[name]
    model = case.build()
    stacks = [stack for stack in spec_for(model).stacks if not stack.side]
    chain = [(stack, block) for stack in stacks for block in model.get_submodule(stack.path)]
    seen = [[None] * STEPS for _ in chain]  # streams that a block is given, and returns, by step
    now = [0]

    def note(module, args, kwargs, out, i):
        stack = chain[i][0]
        given = bind(stack, args, kwargs)
        seen[i][now[0]] = {name: given[name] for name in stack.returns}, streams(stack, out)

    for i, (_, block) in enumerate(chain):
        block.register_forward_hook(lambda *a, i=i: note(*a, i), with_kwargs=True)
    xs = [rand(*case.latents, seed=1) + 0.1 * s * rand(*case.latents, seed=2) for s in range(STEPS)]
    whole = [None] * STEPS  # what the first block gets, uncached
    for now[0] in range(STEPS):
        case.run(model, xs[now[0]], 900.0 - 50 * now[0])
        whole[now[0]] = seen[0][now[0]][0]
    for calls in seen:
        calls[:] = [None] * STEPS
    ends = []
    model.get_submodule(spec_for(model).exit).register_forward_hook(lambda _, args, out: ends.append(args[0]))
    with c4d.cached(model, "delta-dit:interval=3,first=2,last=1") as session:
        session.begin(range(STEPS))
        for now[0] in range(STEPS):
            case.run(model, xs[now[0]], 900.0 - 50 * now[0])
    assert session.report().timelines == {"0": "CrrCrCrrC"}
    ran = ["".join("x" if call else "." for call in calls) for calls in seen]
    assert ran == ["xxxxxx..x"] * 2 + ["x..x.x..x"] * (len(chain) - 3) + ["x..x.xxxx"]
    for step, computed in ((1, 0), (2, 0), (4, 3)):
        made, before = (seen[1][s][1]["hidden_states"] for s in (step, computed))
        torch.testing.assert_close(ends[step], made + (ends[computed] - before), atol=1e-5, rtol=1e-5)
    for step in (6, 7):
        for stream, x in seen[-1][step][0].items():
            made = whole[step][stream] + (seen[-1][5][0][stream] - whole[5][stream])
            torch.testing.assert_close(x, made, atol=1e-5, rtol=1e-5)


def test_after_the_turn_no_forecast_is_made_of_other_blocks():
    """With one feature a line has no slope: the first step after the turn's is that of plain reuse."""
    case, made = CASES["wan-t2v"], []
    for forecast in ("", "+taylor:order=1"):
        model = case.build()
        with c4d.cached(model, f"delta-dit:interval=3,first=2,last=1{forecast}") as session:
            session.begin(range(STEPS))
            outs = [case.run(model, (1 + 0.1 * s) * rand(*case.latents), 900.0 - 50 * s) for s in range(STEPS)]
        made.append(outs)
    plain, line = made
    assert torch.equal(plain[6], line[6]) and not torch.equal(plain[4], line[4])


def test_more_blocks_than_there_are_is_told():
    case = CASES["wan-t2v"]
    with (
        pytest.raises(ValueError, match="first_blocks=1 and last_blocks=4 leave none of the 4 blocks"),
        c4d.cached(case.build(), "delta-dit:interval=2,first=1,last=4"),
    ):
        pass
    with c4d.cached(case.build(), "delta-dit:interval=2,first=3,last=3") as session:  # never at once
        case.loop(session._attachments[0].transformer, 4, session.begin)
    assert session.report().reused == 4
