"""Calls without condition that are spared: what stands for them, whose they are, and what is refused."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

import c4d
from c4d.core.runtime.guidance import PAIRS
from c4d.core.runtime.spectrum import slow_waves
from c4d.core.runtime.steps import RunError
from c4d.core.types import Action
from tests.seam.test_any import Strange
from tests.seam.test_isolation import BEFORE
from tests.subjects import SUBJECTS, built
from tests.tiny import CASES, rand

STEPS = 8
TIMES = [1000.0 * (1 - k / STEPS) for k in range(STEPS)]
SKIP = "cfg-skip:ratio=0.4"  # of 8 steps the last 3
NAMED = ("cond", "uncond")


def pairs(case, method, names=NAMED, model=None, step=0.1, unlike=True):
    """What the two calls of each step return, and the session; the loop is driven by the first of them."""
    model = model or case.build()
    x, found = rand(*case.latents, seed=3), []
    with c4d.cached(model, method) if method else nullcontext() as session:
        if session is not None:
            session.begin(TIMES, [t / 1000 for t in TIMES])
        for t in TIMES:
            out = []
            for i, name in enumerate(names):
                with model.cache_context(name) if name and hasattr(model, "cache_context") else nullcontext():
                    out.append(case.run(model, (1.0 - 0.1 * i * unlike) * x, t).clone())
            found.append(out)
            x = x - step * torch.nn.functional.pad(out[0], (0, 0) * (x.ndim - 2) + (0, x.shape[1] - out[0].shape[1]))
    return found, session


@pytest.mark.parametrize("name", ["wan-t2v", "wan-i2v", "hunyuan-t2v", "dit"])
def test_a_spared_call_returns_what_the_conditional_one_did(name):
    """And nothing of it runs; every other call is bit for bit what it is without a cache."""
    plain, _ = pairs(CASES[name], None)
    found, session = pairs(CASES[name], SKIP)
    assert session.report().timelines == {"cond": "CCCCCCCC", "uncond": "CCCCCrrr"}
    assert session.report().blocks_entered * 16 == session.report().blocks_total * 13
    for k, ((cond, uncond), (a, b)) in enumerate(zip(found, plain, strict=True)):
        assert torch.equal(cond, a) and torch.equal(uncond, a if k >= 5 else b)


def test_all_calls_spared_is_the_pipeline_without_guidance():
    subject, pipe = SUBJECTS["wan"], built("wan")
    plain = subject.ask(pipe, guidance=1.0)
    with c4d.cached(pipe, "cfg-skip:ratio=1") as session:
        spared = subject.ask(pipe)
        assert torch.equal(spared, plain) and session.bytes() == 0
        assert session.report().timelines["uncond"] == "r" * STEPS
    assert not torch.equal(subject.ask(pipe), plain)


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("cfg-skip:ratio=0.001", "CCCCCCCC"),
        ("cfg-skip:ratio=0.25", "CCCCCCrr"),
        ("guidance-interval:low=0.3,high=0.8", "rrCCCCrr"),
        ("guidance-interval:low=0.25,high=0.75", "rrCCCCrr"),  # above the one, and up to the other
        ("guidance-interval", "CCCCCCCC"),
        ("cfg-cache:interval=3,high=801", "CCrCrrCr"),
        ("cfg-cache:interval=2,low=500,high=801", "CCCrCCCC"),
    ],
)
def test_when_calls_are_spared(method, line):
    _, session = pairs(CASES["wan-t2v"], method)
    report = session.report()
    assert report.timelines == {"cond": "C" * STEPS, "uncond": line}
    assert len(report.why) == ("r" not in line)
    assert [entry.guidance for entry in session.trace if entry.step.branch == "cond"] == [None] * STEPS


def low(x):
    """By Fourier transforms, as the paper has it: a disc of a fifth of the shorter side."""
    h, w = x.shape[-2:]
    k, m = (torch.fft.fftfreq(n, 1 / n) for n in (h, w))
    keep = k[:, None] ** 2 + m**2 <= (min(h, w) // 5) ** 2
    return torch.fft.ifft2(torch.fft.fft2(x.double()) * keep).real


@pytest.mark.parametrize("shape", [(1, 3, 2, 10, 16), (2, 4, 11, 7), (1, 2, 4, 4)])
def test_slow_waves_are_a_disc_of_the_fourier_transform(shape):
    x = rand(*shape)
    torch.testing.assert_close(slow_waves(x, 0.2).double(), low(x), atol=1e-5, rtol=1e-5)


def test_cfg_cache_is_its_definition():
    """The difference of the last two grows in its slow and in its fast part on each spared step, within its window."""
    case = CASES["wan-t2v"]
    plain, _ = pairs(case, None)
    found, session = pairs(case, "cfg-cache:interval=4,high=1001,low_weight=1.3,high_weight=0.7")
    assert session.report().timelines["uncond"] == "CrrrCrrr"
    slow = fast = torch.zeros(())
    for k, (t, (cond, uncond), (a, b)) in enumerate(zip(TIMES, found, plain, strict=True)):
        assert torch.equal(cond, a)
        if k % 4 == 0:
            assert torch.equal(uncond, b)
            slow, fast = low(b - a), (b - a).double() - low(b - a)
            continue
        slow, fast = slow * (1.3 if 99 < t < 901 else 1), fast * (0.7 if t < 301 else 1)
        torch.testing.assert_close(uncond.double(), a + slow + fast, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["flux", "qwen-edit"])
def test_tokens_lie_in_the_boxes_of_the_grid(name):
    case = CASES[name]
    boxes = {"flux": [(4, 5)], "qwen-edit": [(4, 5), (2, 3), (3, 2)]}[name]
    plain, _ = pairs(case, None, unlike=True)
    found, _ = pairs(case, "cfg-cache:interval=2,low=100,high=801,low_weight=2,high_weight=1")
    (a0, b0), (a, _) = plain[2], plain[3]
    wanted = [
        a_ + d + low(d.mT.unflatten(2, box)).flatten(2).mT
        for a_, d, box in zip(*(x.split([h * w for h, w in boxes], 1) for x in (a, b0 - a0)), boxes, strict=True)
    ]
    torch.testing.assert_close(found[3][1].double(), torch.cat(wanted, 1).double(), atol=1e-5, rtol=1e-4)


def test_without_a_grid_tokens_have_no_waves():
    case = CASES["flux"]
    model = case.build()
    spec = replace(c4d.models.spec_for(model), grid=None)
    with c4d.cached(model, "cfg-cache:interval=2,high=1001", spec=spec) as session:
        session.begin([500.0, 400.0])
        for t in (500.0, 400.0):
            for name in NAMED:
                refused = t == 400.0 and name == "uncond"
                said = pytest.raises(RuntimeError, match="20 tokens, and its spec does not tell the grid")
                with model.cache_context(name), said if refused else nullcontext():
                    case.run(model, rand(*case.latents), t)


@pytest.mark.parametrize("forecast", ["", "+reuse", "+taylor:order=1"])
def test_the_same_input_makes_the_same_guidance(forecast):
    case, outs = CASES["wan-t2v"], []
    model = case.build()
    with c4d.cached(model, f"cfg-cache:interval=3,high=1001,low_weight=1,high_weight=1{forecast}") as session:
        session.begin([700.0] * 5)
        for _ in range(5):
            for seed, name in enumerate(NAMED):
                with model.cache_context(name):
                    outs.append(case.run(model, rand(*case.latents, seed=seed), 900.0))
    assert session.report().timelines["uncond"] == "CrrCr" and not torch.allclose(outs[0], outs[1])
    assert max((out - outs[1]).norm() for out in outs[3::2]) <= 2e-6 * outs[1].norm()


# -- beside another method


AT_BLOCKS = "taylorseer-lite:interval=2{}@blocks"
WATCHES = "easycache:threshold=0.2,warmup=2"


@pytest.mark.parametrize("inner", ["taylorseer-lite:interval=2", AT_BLOCKS, "fora:interval=2", WATCHES])
def test_it_goes_with_every_kind_of_method(inner):
    """The conditional branch is what it is without it, and the other up to where it is spared."""
    case = CASES["wan-t2v"]
    alone, other = pairs(case, inner.format(""))
    both, session = pairs(case, inner.format(f"+{SKIP}") if "{}" in inner else f"{inner}+{SKIP}")
    lines, before = session.report().timelines, other.report().timelines
    assert lines["cond"] == before["cond"] and lines["uncond"] == before["uncond"][:5] + "rrr"
    for k, ((a, b), (c, d)) in enumerate(zip(both, alone, strict=True)):
        assert torch.equal(a, c) and torch.equal(b, c if k >= 5 else d)
    spared = [e for e in session.trace if e.guidance is Action.REUSE]
    assert len(spared) == 3 and not any(e.blocks or e.modules or e.actions for e in spared)


def test_a_step_that_is_spared_leaves_the_other_method_as_it_was():
    """Of the inner interval, too: what was spared counts as a step that never came."""
    case = CASES["wan-t2v"]
    _, session = pairs(case, "fora:interval=3+cfg-cache:interval=2,low=300,high=801")
    assert session.report().timelines == {"cond": "CrrCrrCr", "uncond": "CrrrCrrC"}


@pytest.mark.parametrize("before", sorted(set(BEFORE) - {"unnamed calls stopped between two"}))
def test_no_trace_in_the_next_generation(before):
    subject, method = SUBJECTS["wan"], "taylorseer-lite:interval=3+cfg-cache:interval=2,high=1001@blocks"
    with c4d.cached(built("wan", copy=1), method) as alone:
        expected = subject.ask(built("wan", copy=1))
    with c4d.cached(built("wan"), method) as session:
        BEFORE[before](subject, built("wan"))
        assert torch.equal(subject.ask(built("wan")), expected) and session.bytes() == 0
    assert session.report().timelines == alone.report().timelines


def test_both_experts():
    subject, pipe = SUBJECTS["wan-experts"], built("wan-experts")
    with c4d.cached(pipe, "cfg-cache:interval=9,high=1001") as session:
        subject.ask(pipe)
    assert all(part.startswith("C") and "r" in part for part in session.report().timelines["uncond"].split("|"))


# -- whose calls they are


def test_the_unconditional_call_first_is_an_error():
    with pytest.raises(RunError, match="in step 0 'uncond' comes without or before 'cond'"):
        pairs(CASES["wan-t2v"], "cfg-skip:ratio=0.1", names=("uncond", "cond"))


def test_an_answer_of_another_step_is_none():
    case = CASES["wan-t2v"]
    model = case.build()
    with c4d.cached(model, "cfg-skip:ratio=1") as session:
        session.begin(TIMES)
        with model.cache_context("cond"):
            case.run(model, rand(*case.latents), TIMES[0])
            case.run(model, rand(*case.latents), TIMES[1])
        with (
            pytest.raises(RunError, match="in step 0 'uncond' comes without or before 'cond'"),
            model.cache_context("uncond"),
        ):
            case.run(model, rand(*case.latents), TIMES[0])


def test_calls_that_cannot_be_told_apart_are_refused():
    with pytest.raises(RunError, match="this one has no name, and is no batch of both with each latent twice"):
        pairs(CASES["wan-t2v"], SKIP, names=(None, None))


def test_a_run_without_guidance_is_told_so_and_holds_nothing():
    _, session = pairs(CASES["wan-t2v"], SKIP, names=("cond",))
    assert session.report().why == ("no call was spared: none was named uncond or pred_uncond (there were cond)",)
    assert session.report().timelines == {"cond": "C" * STEPS}
    case, held = CASES["wan-t2v"], []
    model, x = case.build(), rand(*case.latents)
    with c4d.cached(model, SKIP) as session:
        session.begin(TIMES)
        for t in TIMES:
            with model.cache_context("cond"):
                case.run(model, x, t)
            held.append(session.bytes())
    assert held == [x.nbytes] * (STEPS - 1) + [0]  # an answer that nobody may ask for any more


def test_guiders_names_and_repeated_ones_are_pairs_too():
    """Of calls that share a name the first belongs to the first; a call of another name is none of a pair."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    case, scheduler, outs = CASES["wan-t2v"], FlowMatchEulerDiscreteScheduler(), []
    (uncond, cond), *_ = [pair for pair in PAIRS.items() if pair[0] != "uncond"]
    model, x = case.build(), rand(*case.latents)
    with c4d.cached(model, "cfg-skip:ratio=0.5", scheduler=scheduler) as session:
        scheduler.set_timesteps(4)
        for t in scheduler.timesteps:
            outs.append([])
            for i, name in enumerate((cond, cond, "other", uncond, uncond)):
                with model.cache_context(name):
                    outs[-1].append(case.run(model, (1 + i / 9) * x, float(t)))
            x = scheduler.step(outs[-1][0], t, x, return_dict=False)[0]
    lines = session.report().timelines
    assert {lines.pop(uncond), lines.pop(f"{uncond}#1")} == {"CCrr"} and set(lines.values()) == {"CCCC"}
    assert torch.equal(outs[-1][3], outs[-1][0]) and torch.equal(outs[-1][4], outs[-1][1])


def test_a_pipeline_may_change_what_it_was_given_in_place():
    case = CASES["wan-t2v"]
    model, x = case.build(), rand(*case.latents)
    with c4d.cached(model, "cfg-skip:ratio=1") as session:
        session.begin([900.0])
        with model.cache_context("cond"):
            cond = case.run(model, x, 900.0)
        before = cond.clone()
        cond.mul_(7.0)
        with model.cache_context("uncond"):
            assert torch.equal(case.run(model, x, 900.0), before)


def test_a_model_without_a_description():
    model = Strange()  # its forward counts its calls
    with c4d.cached(model, "cfg-skip:ratio=0.5") as session:
        session.begin([2.0, 1.0])
        outs = []
        for t in (2.0, 1.0):
            for name in NAMED:
                with model.cache_context(name):
                    outs.append(model(rand(2, 8, seed=len(outs)), None, t))
    assert session.report().timelines == {"cond": "CC", "uncond": "Cr"} and model.calls == 3
    assert torch.equal(outs[3]["velocity"], outs[2]["velocity"]) and outs[3]["extra"] is None
