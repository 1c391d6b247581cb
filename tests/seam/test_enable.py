"""Everything in one context, or without one; what does not belong together is refused by name."""

from __future__ import annotations

import copy
import gc
import warnings

import pytest
import torch

import c4d
from c4d.core.integration.hooks import Hook
from tests.subjects import SUBJECTS, passes
from tests.tiny import CASES, rand

METHOD = "taylorseer-lite:interval=2@blocks"
SUBJECT = SUBJECTS["wan"]


@pytest.fixture
def pipe():
    return SUBJECT.build()


def test_one_context_is_its_parts(pipe):
    plain = SUBJECT.ask(pipe)
    with c4d.attention(pipe), c4d.cached(pipe, METHOD) as parts:
        expected = SUBJECT.ask(pipe)
    with c4d.accelerate(pipe, cache=METHOD, attention="auto") as both:
        assert torch.equal(SUBJECT.ask(pipe), expected) and passes(both.cache) == passes(parts)
        assert both.lines() == both.attention.lines() and both.ranks is None
        assert " through " in both.lines()[0] and "will go" not in both.lines()[0]
        assert both.bytes() == 0 and both.trace and both.report().reused
    assert torch.equal(SUBJECT.ask(pipe), plain) and both.report().reused


def test_without_a_with(pipe):
    plain = SUBJECT.ask(pipe)
    with c4d.cached(pipe, METHOD):
        expected = SUBJECT.ask(pipe)
    for end in (lambda session: session.disable(), lambda session: c4d.disable(pipe)):
        session = c4d.enable(pipe, cache=METHOD)
        assert torch.equal(SUBJECT.ask(pipe), expected)
        with pytest.raises(RuntimeError, match=r"leave its with block, or call c4d.disable\(pipe\), first"):
            c4d.enable(pipe, cache=METHOD)
        assert torch.equal(SUBJECT.ask(pipe), expected), "what was refused has changed nothing"
        end(session)
        session.disable()  # again does nothing
        assert torch.equal(SUBJECT.ask(pipe), plain) and not is_touched(pipe.transformer)
    with pytest.raises(RuntimeError, match=r"c4d.enable is not at work on this WanPipeline\.$"):
        c4d.disable(pipe)
    with c4d.cached(pipe, METHOD), pytest.raises(RuntimeError, match=r"with block of c4d\.cached, which ends it"):
        c4d.disable(pipe)


def test_it_lasts_while_nobody_holds_what_enable_gave(pipe):
    c4d.enable(pipe, cache=METHOD, attention="auto")
    gc.collect()
    assert is_touched(pipe.transformer)
    c4d.disable(pipe)
    assert not is_touched(pipe.transformer)


def is_touched(model):
    hooks = [hook for each in model.modules() for hook in each._forward_pre_hooks.values() if isinstance(hook, Hook)]
    return bool(hooks) or any(name.startswith("_c4d") for name in vars(model))


def test_a_copy_of_an_enabled_model_is_plain():
    case = CASES["wan-t2v"]
    model, x = case.build(), rand(*case.latents)
    plain = case.run(model, x, 500.0)
    c4d.enable(model, cache=METHOD)
    other = copy.deepcopy(model)
    c4d.disable(model)
    assert torch.equal(case.run(other, x, 500.0), plain) and torch.equal(case.run(model, x, 500.0), plain)
    c4d.enable(other, cache=METHOD).disable()


def test_what_is_not_asked_for_is_told(pipe):
    with pytest.raises(ValueError, match="nothing to accelerate with: give cache=, attention= or parallel="):
        c4d.accelerate(pipe)
    with c4d.accelerate(pipe, attention="auto") as session, pytest.raises(RuntimeError, match="nothing is cached here"):
        session.report()
    with pytest.raises(TypeError, match="unexpected keyword argument 'method'"):
        c4d.enable(pipe, method=METHOD)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that the attention, which is made first, was never entered
        with pytest.raises(ValueError, match="unknown method 'tailor'"):
            c4d.enable(pipe, cache="tailor:interval=2", attention="auto")
        gc.collect()
    with pytest.warns(RuntimeWarning, match=r"what c4d.accelerate\(…\) gave was never entered"):
        c4d.accelerate(pipe, cache=METHOD)
        gc.collect()


def test_what_fails_half_way_leaves_nothing(pipe):
    """The attention is in place when the cache is refused."""
    with c4d.cached(pipe, METHOD):
        made = c4d.accelerate(pipe, cache=METHOD, attention="auto")
        with pytest.raises(RuntimeError, match="already in a session"):
            made.__enter__()
    assert not is_touched(pipe.transformer)
    with made, warnings.catch_warnings():
        SUBJECT.ask(pipe)


# -- other systems' caches


def diffusers_on(pipe):
    from diffusers import FirstBlockCacheConfig

    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))


def diffusers_off(pipe):
    pipe.transformer.disable_cache()


def cache_dit_on(pipe):
    import cache_dit

    cache_dit.enable_cache(pipe, cache_config=cache_dit.DBCacheConfig(Fn_compute_blocks=1, Bn_compute_blocks=0))


def cache_dit_off(pipe):
    import cache_dit

    cache_dit.disable_cache(pipe)


OTHERS = {
    "diffusers": (
        diffusers_on,
        diffusers_off,
        r"diffusers \(FirstBlockCacheConfig\) too.*\.disable_cache\(\)",
    ),
    "cache-dit": (cache_dit_on, cache_dit_off, r"cache-dit too.*cache_dit\.disable_cache\(pipe\)"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("first", [True, False], ids=["before", "inside"])
def test_another_cache_is_refused_by_name(pipe, name, first):
    on, off, words = OTHERS[name]
    if name == "cache-dit":
        pytest.importorskip("cache_dit")
    if first:
        on(pipe)
        with pytest.raises(RuntimeError, match=words):
            c4d.enable(pipe, cache=METHOD)
        off(pipe)
    with c4d.cached(pipe, METHOD) as session:
        fine = SUBJECT.ask(pipe)
        if not first:
            on(pipe)
            with pytest.raises(RuntimeError, match=words):
                SUBJECT.ask(pipe)
            off(pipe)
        assert torch.equal(SUBJECT.ask(pipe), fine) and session.report().reused


def test_a_transformer_exchanged_inside_is_told(pipe):
    ours, other = pipe.transformer, SUBJECT.build().transformer
    with c4d.cached(pipe, METHOD):
        expected = SUBJECT.ask(pipe)
        pipe.transformer = other
        with pytest.raises(RuntimeError, match=r"WanPipeline\.transformer is another WanTransformer3DModel than when"):
            SUBJECT.ask(pipe)
        pipe.transformer = torch.compile(ours, backend="eager")
        with pytest.raises(RuntimeError, match=r"WanPipeline\.transformer is another OptimizedModule than when"):
            SUBJECT.ask(pipe)
        pipe.transformer = ours
        assert torch.equal(SUBJECT.ask(pipe), expected)


# -- long sessions


def test_the_trace_is_of_the_last_runs(pipe):
    with c4d.cached(pipe, METHOD, traced_runs=2) as session:
        for steps in (5, 6, 7):
            SUBJECT.ask(pipe, steps=steps)
            assert session.report().computed + session.report().reused == 2 * steps
        assert [len([e for e in session.trace if e.run == run]) for run in range(4)] == [0, 12, 14, 0]
        assert session.report().runs == 3
    with c4d.cached(pipe, METHOD) as session:
        for _ in range(18):
            SUBJECT.ask(pipe, steps=2)
        assert {entry.run for entry in session.trace} == set(range(2, 18))
    with c4d.cached(pipe, METHOD, traced_runs=None) as session:
        for _ in range(18):
            SUBJECT.ask(pipe, steps=2)
        assert {entry.run for entry in session.trace} == set(range(18))
    for wrong in (0, True):
        with pytest.raises(ValueError, match=f"traced_runs must be a whole number of at least 1, .* got {wrong}"):
            c4d.cached(pipe, METHOD, traced_runs=wrong)


@pytest.mark.parametrize("raises", [True, False], ids=["a forward that raises", "a loop that just ends"])
def test_what_a_given_up_run_held_is_freed(raises):
    """In a loop of one's own, of both branches: at once where a forward raises, else by reset()."""
    case = CASES["wan-t2v"]
    model, x = case.build(), rand(*case.latents)
    with c4d.cached(model, "taylorseer:interval=2") as session:

        def loop(until):
            session.begin([900.0 - 100 * s for s in range(6)])
            outs = []
            for step in range(until):
                for name in ("cond", "uncond"):
                    with model.cache_context(name):
                        outs.append(case.run(model, x, 900.0 - 100 * step))
            return outs

        expected = loop(6)
        loop(3)
        assert session.bytes() > 0
        if raises:
            handle = model.blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError), model.cache_context("cond"):
                case.run(model, x, 600.0)
            handle.remove()
        else:
            session.reset()
        assert session.bytes() == 0
        assert all(torch.equal(a, b) for a, b in zip(loop(6), expected, strict=True))


# -- training


@pytest.mark.parametrize("name", ["wan-t2v", "flux", "qwen", "hunyuan-t2v"])
def test_gradient_checkpointing(name):
    """A method inside the blocks is refused where backward would run them again; one of the whole stack is exact."""
    case = CASES[name]
    model, x = case.build().train(), rand(*case.latents)
    model.enable_gradient_checkpointing()
    parameter = (
        next(p for p in model.transformer_blocks.parameters())
        if name != "wan-t2v"
        else model.blocks[0].attn1.to_q.weight
    )

    def gradient(method):
        model.zero_grad()
        with torch.enable_grad():
            if method is None:
                out = case.run(model, x, 700.0)
            else:
                with c4d.cached(model, method) as session:
                    session.begin([700.0, 700.0])
                    out, _ = (case.run(model, x, 700.0) for _ in range(2))  # what is reused has no gradient
                    assert session.report().reused or session.report().modules_reused
                    out.square().sum().backward()
                    return parameter.grad.clone()
            out.square().sum().backward()
        return parameter.grad.clone()

    expected = gradient(None)
    assert expected.abs().max() > 0
    with pytest.raises(
        RuntimeError, match=r"fora:interval=2 acts inside the blocks.*no_grad.*disable_gradient_checkpoin"
    ):
        gradient("fora:interval=2")
    torch.testing.assert_close(gradient("taylorseer-lite:interval=2@blocks"), expected, rtol=1e-4, atol=1e-6)
    with torch.no_grad(), c4d.cached(model, "fora:interval=2") as session:  # a rollout
        session.begin([700.0, 700.0])
        first, second = (case.run(model, x, 700.0) for _ in range(2))
    assert session.report().modules_reused and (first - second).norm() <= 1e-5 * first.norm()


# -- published values of another model


def test_values_that_were_published_for_another_model_are_doubted(pipe):
    words = r"published=flux.1-dev was made for FluxTransformer2DModel; on WanTransformer3DModel its values mean little"
    with pytest.warns(RuntimeWarning, match=words), c4d.cached(pipe, "magcache:published=flux.1-dev"):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        c4d.cached(pipe, "magcache:published=wan2.1-t2v-14b").unused = None


# -- what a newcomer types


@pytest.mark.parametrize("given", [5, None, "abc", ["a"]])
def test_timesteps_that_are_none_are_told(given):
    case = CASES["wan-t2v"]
    words = r"timesteps is .*; give all of a run, one number a step: scheduler.timest"
    with c4d.cached(case.build(), METHOD) as session, pytest.raises(TypeError, match=words):
        session.begin(given)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            c4d.ModelSpec("Line", stacks=(c4d.Stack("blocks"),), exit="hed"),
            r"'hed' \(exit=\), which Line has not: it has",
        ),
        (c4d.ModelSpec("Line", stacks=(c4d.Stack("block"),), exit="head"), r"'block' \(a Stack\), which Line has not"),
    ],
)
def test_a_module_that_a_spec_names_and_the_model_lacks_is_told(spec, words):
    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks, self.head = torch.nn.ModuleList([torch.nn.Identity()]), torch.nn.Identity()

    session = c4d.cached(Line(), METHOD, spec=spec)
    with pytest.raises(ValueError, match=words):
        session.__enter__()
