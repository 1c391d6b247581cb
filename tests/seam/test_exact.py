"""The seam is exact: every variant of every spec, every site, every way of deciding."""

from __future__ import annotations

import contextlib
import copy
import pickle

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import c4d
from c4d.core.integration.blocks import bind
from c4d.core.types import Signal
from c4d.models import spec_for
from tests.sampled import sampled
from tests.tiny import CASES, block_count, hold_methods, rand, signal_of

KINDS = tuple(hold_methods("wan-t2v"))
EVERY = [
    "fora:interval=1",
    "taylorseer:interval=1,order=2",
    "taylorseer-lite:interval=1",
    "schedule:computed=0/1/2/3/4/5",
    "first-block:threshold=1e-9",
    "teacache:threshold=1e-9,coefficients=1/0,signal={signal}",
    "first-block:threshold=1e-9,first_blocks=2,last_blocks=1",
    "hicache:interval=1,order=2",
    "foca:interval=1",
    "freqca:interval=1",
    "dmd:interval=1",
    "magcache:curve=wan2.1-t2v-1.3b,threshold=1e-9,max_skips=1",
    "seacache:threshold=1e-9",
    "easycache:threshold=1e-9,warmup=2@blocks",
    "pab:attn=1",
    "fastercache:weight=0.5,attn=1",
    "lemica:computed=0/1/2/3/4/5,steps=6",
    "dbcache:Fn=2,Bn=1,threshold=1e-9,warmup=1",
    "dbcache:Fn=2,Bn=1,scm=111111,scm_policy=static",
    "spectrum:window=1,alpha=0",
    "fora:interval=1+cfg-skip:ratio=0.001",
    "cfg-cache:interval=1",
    "guidance-interval",
    "meancache:computed=0/1/2/3/4/5,orders=1/1/1/1/1/1",
    "dicache:threshold=1e-9",
    "delta-dit:interval=1,first=1,last=2,turn=0.4",
    "speca:threshold=0,mode=strict",
    "speca:threshold=1,warmup=6",
    "toca:interval=1",
    "duca:interval=1",
    "clusca:interval=1",
]
WHOLE = ("wan-t2v", "hunyuan-t2v", EVERY[0], EVERY[2], EVERY[3], EVERY[5], EVERY[6])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_reuse_equals_compute_on_the_same_input(name, kind):
    case = CASES[name]
    model, x = case.build(), rand(*case.latents)
    with c4d.cached(model, hold_methods(case.name)[kind]) as session:
        session.begin([900.0, 900.0])
        computed, reused = (case.run(model, x, 900.0) for _ in range(2))
    assert set(session.report().timelines.values()) == {"Cr"}  # of each sample, where there are several
    assert (computed - reused).norm() <= 1e-6 * computed.norm()


def test_the_seam_would_notice_a_hint_counted_twice():
    """What the test above would miss if VACE's hints had no weight in the result."""
    case = CASES["wan-vace"]
    model, x = case.build(), rand(*case.latents)
    full = case.run(model, x, 900.0)
    without = case.run(model, x, 900.0, control_hidden_states_scale=torch.zeros(2))
    assert (full - without).norm() > 1e-2 * full.norm()


@pytest.mark.parametrize("name", [name for name in CASES if signal_of(name) == "modulated_input"])
def test_the_modulated_input_is_what_the_first_attention_gets(name):
    case, given = CASES[name], []
    model, x = case.build(), rand(*case.latents)
    spec, first = spec_for(model), model.transformer_blocks[0]
    read = spec.signals[Signal.MODULATED_INPUT].read
    first.register_forward_pre_hook(
        lambda block, args, kwargs: given.append(read(block, bind(spec.stacks[0], args, kwargs))), with_kwargs=True
    )
    (path,) = spec.stacks[0].attention
    getattr(first, path).register_forward_pre_hook(
        lambda module, args, kwargs: given.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    case.run(model, x, 900.0)
    signal, attended = given
    assert torch.equal(signal, attended)


@pytest.mark.parametrize(("name", "method"), sampled(CASES, EVERY, nth=9, shift=5))
def test_never_skipping_is_bit_exact(name, method):
    case = CASES[name]
    model = case.build()
    before = case.loop(model, 6)
    with c4d.cached(model, method.format(signal=signal_of(case.name))) as session:
        inside = case.loop(model, 6, lambda timesteps: session.begin(timesteps, [t / 1000 for t in timesteps]))
    assert session.report().reused == 0
    assert all(torch.equal(a, b) for a, b in zip(before, inside, strict=True))


@pytest.mark.parametrize(("name", "kind"), sampled(CASES, KINDS, nth=6))
def test_detaching_leaves_the_model_as_it_was(name, kind):
    case = CASES[name]
    model = case.build()
    keys, names = list(model.state_dict()), [name for name, _ in model.named_modules()]
    attributes = {name: sorted(module.__dict__) for name, module in model.named_modules()}
    types = [type(module) for module in model.modules()]
    before = case.loop(model, 3)
    attributes = {name: sorted(module.__dict__) for name, module in model.named_modules()}
    with c4d.cached(model, hold_methods(case.name)[kind]) as session:
        assert list(model.state_dict()) == keys
        assert [name for name, _ in model.named_modules()] == names
        case.loop(model, 3, session.begin)
        assert list(model.state_dict()) == keys
    assert {name: sorted(module.__dict__) for name, module in model.named_modules()} == attributes
    assert [type(module) for module in model.modules()] == types
    assert not model._forward_pre_hooks and not model._forward_hooks
    assert all(torch.equal(a, b) for a, b in zip(before, case.loop(model, 3), strict=True))


def test_a_cache_context_that_somebody_set_comes_back():
    """On the instance, before the session; and an instance that had none has none again."""
    case = CASES["wan-t2v"]
    model, given = case.build(), lambda name: contextlib.nullcontext()
    for before in ({}, {"cache_context": given}):
        vars(model).update(before)
        with c4d.cached(model, "fora:interval=2") as session:
            assert vars(model)["cache_context"] is not given
            case.loop(model, 3, session.begin)
        assert {key: value for key, value in vars(model).items() if key == "cache_context"} == before


@pytest.mark.parametrize(("name", "kind"), sampled(CASES, KINDS, nth=6, shift=1))
def test_blocks_entered_are_those_of_computed_steps(name, kind):
    case = CASES[name]
    model, entered = case.build(), []
    stacks = [
        s for s in ("blocks", "vace_blocks", "transformer_blocks", "single_transformer_blocks") if hasattr(model, s)
    ]
    first = getattr(model, stacks[0])[0]
    for name in stacks:
        for block in getattr(model, name):
            block.register_forward_hook(lambda module, args, out: entered.append(module))
    with c4d.cached(model, hold_methods(case.name)[kind]) as session:
        case.loop(model, 6, session.begin)
    report, total = session.report(), block_count(case.name)
    assert report.blocks_entered == len(entered) and report.blocks_total == 12 * total
    if kind == "modules":
        assert report.blocks_entered == 12 * total and report.modules_reused == report.modules_total / 2
    elif kind == "head":
        # The first block of the chain runs on every step; VACE's hints are needed before it can.
        always = 1 if case.name != "wan-vace" else 3
        assert len(entered) == report.computed * total + report.reused * always
        assert entered.count(first) == 12
    else:
        assert len(entered) == report.computed * total
    assert 0 < report.reused < 12


def flops_of(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_flop_counts()


@pytest.mark.parametrize(
    ("name", "kind"),
    sampled(CASES, [k for k in KINDS if k != "head"], nth=5, shift=2),
)
def test_a_reused_step_costs_embedding_and_head_alone(name, kind):
    case = CASES[name]
    model, x = case.build(), rand(*case.latents)
    with c4d.cached(model, hold_methods(case.name)[kind]) as session:
        session.begin([900.0, 800.0])
        full = flops_of(lambda: case.run(model, x, 900.0))
        reused = flops_of(lambda: case.run(model, x, 800.0))
    assert sum(reused.get("Global", {}).values()) < sum(full["Global"].values())
    if kind == "output":
        assert sum(reused.get("Global", {}).values()) == 0
        return
    # Modulation: adaptive norms, the Linear of Qwen-Image, which stands second in its place.
    allowed = ("norm", "norm1", "norm1_context", "linear", "img_mod", "txt_mod", "1")
    for name, counts in reused.items():
        inside = [part for part in name.split(".") if part.endswith("blocks") and part != "refiner_blocks"]
        if not inside or "token_refiner" in name or "context_embedder" in name or not sum(counts.values()):
            continue
        if case.name == "dit" and ".norm1.emb" in name:  # its blocks embed the timestep, the first one for the head too
            continue
        tail = name.split(inside[-1])[-1].strip(".").split(".")
        if kind == "signal":  # a modulated input is read off the first block's norm; nothing else of it runs
            assert tail[0] == "0" and all(part in allowed for part in tail[1:]), (name, counts)
        else:
            assert kind == "modules" and (len(tail) == 1 or all(part in allowed for part in tail[1:])), (name, counts)


@pytest.mark.parametrize(("name", "kind"), sampled(CASES, KINDS, nth=6, shift=3))
def test_host_reads(name, kind):
    """None for schedules; one a forward that has something to compare with otherwise, and one for each branch to tell
    samples from branches of guidance where a batch has several rows."""
    case = CASES[name]
    model = case.build()
    with c4d.cached(model, hold_methods(case.name)[kind]) as session:
        case.loop(model, 6, session.begin)
    assert session.report().host_reads == (10 + 2 * (case.latents[0] > 1) if kind in ("signal", "head") else 0)


@pytest.mark.parametrize(("name", "kind"), sampled(CASES, KINDS, nth=6, shift=4))
def test_a_copy_or_a_saved_model_is_plain(name, kind):
    case = CASES[name]
    model, x = case.build(), rand(*case.latents)
    plain = case.run(model, x, 700.0)
    with c4d.cached(model, hold_methods(case.name)[kind]) as session:
        session.begin([900.0] * 3)
        case.run(model, x, 900.0)
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        passes = len(session.trace)
        for other in copies:
            assert torch.equal(case.run(other, x, 700.0), plain)
            assert type(getattr(other, "blocks", None) or other.transformer_blocks) is torch.nn.ModuleList
        assert len(session.trace) == passes
    for other in copies:
        with c4d.cached(other, hold_methods(case.name)[kind]) as again:
            again.begin([900.0])
            case.run(other, x, 900.0)
        assert {entry.step.index for entry in again.trace} == {0} and torch.equal(case.run(other, x, 700.0), plain)
