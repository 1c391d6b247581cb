"""What is planned on tensors without numbers is what is measured on real ones, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import c4d
from c4d.core.runtime.history import HistoryConfig
from c4d.core.text.grammar import parse
from c4d.models import spec_for
from c4d.plan.ranks import MOVED, STILL
from c4d.plan.run import PlanError, Setup, run
from tests.sampled import sampled
from tests.tiny import CASES, rand

PROFILES = Path(__file__).parents[1] / "core/profiles"
FAMILIES = ("wan-t2v", "wan-i2v", "wan-vace", "flux", "qwen", "hunyuan-t2v", "hunyuan-image")
METHODS = (
    "taylorseer-lite:interval=2,order=1",  # the output
    "taylorseer-lite:interval=2,order=1@blocks",  # the blocks' residual
    "fora:interval=2",  # modules in the blocks
    "taylorseer:interval=2,order=1",
    "foca:interval=3,warmup=2",  # forecasts are kept, too
    "spectrum:weight=0.5",  # all computed features
    "freqca:interval=2",  # a basis of slow waves
    "dmd:interval=3",
    "first-block:threshold=0.1",  # signals
    "seacache:threshold=1.0,max_skips=2",
    "easycache:threshold=0.05,warmup=2",
    "dicache:threshold=0.4",
    "speca:threshold=0.3,max_drafts=4,mode=strict",
    "toca:interval=4,ratio=0.1",  # tokens
    "clusca:interval=5,clusters=16",
    "cfg-cache:interval=5",  # answers of the other branch
    f"l2p:path={PROFILES / 'l2p.json'}",  # latents beside the features
)
STEPS = 8
DECIDED = {("wan-i2v", "easycache:threshold=0.05,warmup=2")}  # its inputs have more channels than its outputs
HALF, FULL = torch.bfloat16, torch.float32


def arguments(case, dtype):
    given = {**case.inputs(), "hidden_states": rand(*case.latents, seed=3)}
    kept = ("txt_ids", "img_ids", "guidance")
    given = {k: v.to(dtype) if k not in kept and is_float(v) else v for k, v in given.items()}
    return {**given, "timestep": torch.full((1,), 500.0 * case.unit, dtype=dtype if case.alike else None)}


def is_float(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def measured(case, method, dtype, branches, kept):
    model, given = case.build().to(dtype), arguments(case, dtype)
    with c4d.cached(model, method, backend="cpu", history_dtype=kept) as session, torch.no_grad():
        session.begin([1000.0 * (1 - k / STEPS) for k in range(STEPS)], [1 - k / STEPS for k in range(STEPS)])
        for k in range(STEPS):
            for name in ("cond", "uncond")[:branches]:
                session.name = name if branches > 1 else None
                model(**{**given, "hidden_states": given["hidden_states"] * (1 - 0.05 * k)}, return_dict=False)
    return session.report()


def planned(case, method, dtype, branches, kept, **how):
    model = case.build().to(dtype).to("meta")
    storage = HistoryConfig(kept)
    given = {**arguments(case, dtype), "return_dict": False}
    return run(Setup(model, spec_for(model), given, parse(method), STEPS, branches, storage), **how)


WAYS = [  # dtype of the model, what features are kept in, branches of guidance
    (FULL, None, 2),
    (HALF, None, 2),
    (FULL, HALF, 1),
    (HALF, FULL, 2),
    (FULL, torch.int8, 1),  # with scales
]


@pytest.mark.parametrize("family, method, dtype, kept, branches", sampled(FAMILIES, METHODS, WAYS, nth=11))
def test_planned_cache_is_the_measured_one(family, method, dtype, kept, branches):
    branches = 2 if method.startswith("cfg-cache") else branches
    case = CASES[family]
    found = measured(case, method, dtype, branches, kept)
    assert found.peak_bytes > 0
    changes = (STILL, MOVED) if parse(method).signals else (STILL,)
    caches = [planned(case, method, dtype, branches, kept, change=change).cache for change in changes]
    assert found.peak_bytes in caches  # the last steps may be computed or reused, by what was measured
    assert len(set(caches)) == 1 or (family, method) in DECIDED


@pytest.mark.parametrize("method", METHODS[:4])
def test_steps_that_need_no_measurement_are_those_of_a_run(method):
    found = measured(CASES["wan-t2v"], method, FULL, 2, None)
    one = planned(CASES["wan-t2v"], method, FULL, 2, None)
    did = {branch: "".join(x["did"] for x in found.forwards if x["branch"] == branch) for branch in found.timelines}
    assert one.timeline()[::2] == did["cond"] and one.timeline()[1::2] == did["uncond"]


def test_blocks_that_are_alike_count_all():
    """One of them stands for its like: the FLOPs are those of torch's counter on the real model, attention written
    out."""
    for family in ("wan-t2v", "flux"):
        case = CASES[family]
        counter = FlopCounterMode(display=False)
        model = case.build()
        with c4d.attention(model, "math", backend="cpu"), counter, torch.no_grad():
            model(**arguments(case, FULL), return_dict=False)
        model = case.build().to("meta")
        given = {**arguments(case, FULL), "return_dict": False}
        one = run(Setup(model, spec_for(model), given, None, 1)).forwards[0]
        spread = sum(each.flops(c4d.parallel.Degrees(1, 1)) for each in one.told)
        assert spread > 0 and one.flops + spread == counter.get_total_flops()


def test_a_model_that_needs_numbers_says_so():
    class Reads(torch.nn.Module):
        def forward(self, hidden_states, timestep):
            return hidden_states * hidden_states.sum().item()

    spec = c4d.ModelSpec("Reads")
    given = {"hidden_states": rand(1, 4, 8), "timestep": torch.tensor([1.0])}
    with pytest.raises(PlanError, match=r"Reads cannot be planned for 1 rank without numbers: .*item"):
        run(Setup(Reads().to("meta"), spec, given, None, 1))
