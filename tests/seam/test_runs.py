"""Runs and steps are read from the scheduler: real schedulers, real loops, a tiny real transformer."""

from __future__ import annotations

import copy
import gc
import threading
import warnings
from types import SimpleNamespace

import pytest
import torch

import c4d
from c4d.core.runtime.steps import RunError, noise_known, noise_levels
from tests.tiny import CASES, rand

CASE = CASES["wan-t2v"]


def schedulers():
    from diffusers import (
        DDIMScheduler,
        DPMSolverMultistepScheduler,
        FlowMatchEulerDiscreteScheduler,
        FlowMatchHeunDiscreteScheduler,
        HeunDiscreteScheduler,
        UniPCMultistepScheduler,
    )

    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    return {
        "unipc": UniPCMultistepScheduler(**flow),
        "euler": FlowMatchEulerDiscreteScheduler(),
        "dpm++": DPMSolverMultistepScheduler(**flow),
        "heun": HeunDiscreteScheduler(),
        "flow-heun": FlowMatchHeunDiscreteScheduler(),
        "ddim": DDIMScheduler(),
    }


NAMES = tuple(schedulers())
PASSES = {"heun": 11, "flow-heun": 11}  # Heun calls the model twice a step, but for the last


def denoise(pipe, steps=6, skipped=0, *, stop=None, tell=True, branches=("cond", "uncond"), twice=False):
    """A pipeline's loop. ``skipped`` leaves out the first scheduler steps, as image-to-image with ``strength`` does;
    ``tell`` says so by set_begin_index, as most pipelines do."""
    pipe.scheduler.set_timesteps(steps)
    if twice:
        pipe.scheduler.set_timesteps(steps)
    scheduler, first = pipe.scheduler, skipped * pipe.scheduler.order
    if tell and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    x = rand(*CASE.latents, seed=3)
    for i, t in enumerate(scheduler.timesteps[first:]):
        if i == stop:
            break
        for name in branches:
            if name is None:
                out = CASE.run(pipe.transformer, x, float(t))
            else:
                with pipe.transformer.cache_context(name):
                    out = CASE.run(pipe.transformer, x, float(t))
        x = scheduler.step(out, t, x, return_dict=False)[0]
    return x


def steps_of(session, branch="cond", run=None):
    run = session.report().runs - 1 if run is None else run
    return [(e.step.index, e.step.total) for e in session.trace if e.step.branch == branch and e.run == run]


def expected(passes):
    return [(i, passes) for i in range(passes)]


@pytest.fixture(params=NAMES)
def pipe(request):
    return SimpleNamespace(transformer=CASE.build(), scheduler=schedulers()[request.param], name=request.param)


def test_every_pass_of_a_run_is_placed(pipe):
    with c4d.cached(pipe, "fora:interval=2") as session:
        denoise(pipe)
        denoise(pipe, 4)
    passes = PASSES.get(pipe.name, 6)
    assert steps_of(session, run=0) == steps_of(session, "uncond", run=0) == expected(passes)
    assert steps_of(session, run=1) == expected(7 if pipe.name in PASSES else 4)
    assert session.report().runs == 2


@pytest.mark.parametrize("tell", [True, False])
def test_strength_leaves_what_remains(pipe, tell):
    with c4d.cached(pipe, "fora:interval=2") as session:
        denoise(pipe, 6, skipped=2, tell=tell)
    placed = steps_of(session)
    passes = len(placed)
    assert passes == (7 if pipe.name in PASSES else 4)
    assert [index for index, _ in placed] == list(range(passes))
    # A scheduler that is not told where it begins finds out by itself in its first step; the total is right from then.
    known_at_once = tell or pipe.name == "ddim"
    assert all(total == passes for _, total in (placed if known_at_once else placed[1:]))


def test_set_timesteps_twice_is_one_run(pipe):
    with c4d.cached(pipe, "fora:interval=2") as session:
        denoise(pipe, twice=True)
    assert session.report().runs == 1 and steps_of(session) == expected(PASSES.get(pipe.name, 6))


def test_a_deepcopied_scheduler_is_followed(pipe):
    with c4d.cached(pipe, "fora:interval=2") as session:
        first = denoise(pipe)
        pipe.scheduler = copy.deepcopy(pipe.scheduler)
        second = denoise(pipe)
    assert steps_of(session, run=0) == steps_of(session, run=1)
    assert torch.equal(first, second)


def test_an_aborted_run_leaves_no_trace_in_the_next(pipe):
    method = "taylorseer-lite:interval=3@blocks"
    with c4d.cached(pipe, method):
        fresh = denoise(pipe)
    with c4d.cached(pipe, method) as session:
        denoise(pipe, stop=4)
        again = denoise(pipe)
        fewer = denoise(pipe, 4)
    assert torch.equal(fresh, again)
    with c4d.cached(pipe, method):
        assert torch.equal(fewer, denoise(pipe, 4))
    assert session.report().runs == 3


def test_unnamed_calls_are_told_apart_by_their_place_in_the_step(pipe):
    """HunyuanVideo-I2V, FLUX Kontext and others never name their branches."""
    with c4d.cached(pipe, "fora:interval=2") as session:
        if pipe.name == "ddim":  # no step_index: the calls of one step cannot be told apart, and that must be said
            with pytest.raises(RunError, match=r"timestep is 830, and .* stands at 664.*name the calls of"):
                denoise(pipe, branches=(None, None))
            return
        denoise(pipe, branches=(None, None))
    assert set(session.report().timelines) == {"0", "1"}
    assert steps_of(session, "0") == steps_of(session, "1") == expected(PASSES.get(pipe.name, 6))


def test_equal_names_in_one_step_are_two_branches(pipe):
    with c4d.cached(pipe, "fora:interval=2") as session:
        if pipe.name == "ddim":
            with pytest.raises(RunError, match=r"timestep is 830, and .* stands at 664"):
                denoise(pipe, branches=("cond", "cond"))
            return
        denoise(pipe, branches=("cond", "cond"))
    assert set(session.report().timelines) == {"cond", "cond#1"}


def simple(name="euler"):
    return SimpleNamespace(transformer=CASE.build(), scheduler=schedulers()[name])


def test_a_skipped_branch_does_not_shift_the_other():
    pipe = simple()
    pipe.scheduler.set_timesteps(6)
    x = rand(*CASE.latents)
    with c4d.cached(pipe, "fora:interval=3") as session:
        for i, t in enumerate(pipe.scheduler.timesteps):
            for name in ("cond", "uncond") if i != 2 else ("cond",):
                with pipe.transformer.cache_context(name):
                    out = CASE.run(pipe.transformer, x, float(t))
            x = pipe.scheduler.step(out, t, x, return_dict=False)[0]
    assert session.report().timelines == {"cond": "CrrCrr", "uncond": "CrCrr"}
    assert [i for i, _ in steps_of(session, "uncond")] == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("change", ["size", "batch", "text", "dtype"])
def test_another_shape_within_a_run_begins_anew(change):
    model, x = CASE.build(), rand(*CASE.latents)
    inputs = CASE.inputs()
    with c4d.cached(model, "taylorseer-lite:interval=9@blocks") as session:
        session.begin([900.0] * 6)
        call = lambda x, **kw: model(hidden_states=x, timestep=torch.full((x.shape[0],), 900.0), **{**inputs, **kw})  # noqa: E731
        call(x), call(x)
        if change == "size":
            call(rand(1, 4, 2, 8, 16))
        elif change == "batch":
            call(rand(2, 4, 2, 16, 16), encoder_hidden_states=rand(2, 12, 16))
        elif change == "text":
            call(x, encoder_hidden_states=rand(1, 7, 16))
        else:
            model.to(torch.float64)
            call(x.double(), encoder_hidden_states=inputs["encoder_hidden_states"].double())
    assert session.report().timelines == {"0": "CrC"}


def test_each_branch_is_forecast_over_its_own_times():
    """In the same step two branches may have computed at different ones."""
    model, method = CASE.build(), "taylorseer-lite:interval=3,order=1@blocks"
    other = {"cond": (), "uncond": (3,)}

    def run(names):
        outs = {name: [] for name in names}
        scheduler = SimpleNamespace(timesteps=torch.arange(8.0), step_index=None, begin_index=0)
        with c4d.cached(model, method, scheduler=scheduler) as session:
            for i in range(8):
                scheduler.step_index = i
                for name in names:
                    if i in other[name]:
                        continue
                    with model.cache_context(name):
                        outs[name].append(CASE.run(model, rand(*CASE.latents, seed=i), 900.0 - 50 * i))
        return outs, session.report().timelines

    both, lines = run(("cond", "uncond"))
    assert lines == {"cond": "CrrCrrCr", "uncond": "CrrCrrC"}
    for name in both:
        alone, line = run((name,))
        assert line[name] == lines[name]
        assert all(torch.equal(a, b) for a, b in zip(both[name], alone[name], strict=True))


def test_a_scheduler_whose_index_goes_back_begins_another_run():
    """Also over the very same timesteps."""
    model, scheduler = CASE.build(), SimpleNamespace(timesteps=torch.arange(4.0), step_index=None, begin_index=0)
    with c4d.cached(model, "fora:interval=3", scheduler=scheduler) as session:
        for i in (0, 1, 2, 0, 1):
            scheduler.step_index = i
            CASE.run(model, rand(*CASE.latents), float(i))
    assert [(e.run, e.step.index, e.computed) for e in session.trace] == [
        (0, 0, True), (0, 1, False), (0, 2, False), (1, 0, True), (1, 1, False),
    ]  # fmt: skip


def test_a_bare_transformer_needs_a_run():
    model, x = CASE.build(), rand(*CASE.latents)
    with c4d.cached(model, "fora:interval=2") as session:
        with pytest.raises(RunError, match=r"no run to be found.*session\.begin"):
            CASE.run(model, x, 1.0)
        session.begin([2.0, 1.0])
        CASE.run(model, x, 2.0), CASE.run(model, x, 1.0)
        with pytest.raises(RunError, match="forward 3 of branch '0' in a run of 2 steps"):
            CASE.run(model, x, 0.0)
        session.begin(torch.tensor([2.0, 1.0]))
        CASE.run(model, x, 2.0)
        with pytest.raises(ValueError, match="at least one timestep"):
            session.begin([])
    assert session.report().runs == 2


def test_a_scheduler_without_timesteps_is_an_error():
    pipe = SimpleNamespace(transformer=CASE.build(), scheduler=SimpleNamespace(timesteps=None))
    with c4d.cached(pipe, "fora:interval=2"), pytest.raises(RunError, match="set_timesteps"):
        CASE.run(pipe.transformer, rand(*CASE.latents), 1.0)


def test_a_bare_transformer_with_its_scheduler():
    pipe = simple("unipc")
    with c4d.cached(pipe.transformer, "fora:interval=2", scheduler=pipe.scheduler) as session:
        denoise(pipe)
    assert steps_of(session) == expected(6)


def test_a_forward_that_raises_leaves_nothing_behind():
    model, x = CASE.build(), rand(*CASE.latents)
    with c4d.cached(model, "taylorseer-lite:interval=9@blocks") as session:
        session.begin([900.0] * 5)
        CASE.run(model, x, 900.0)
        handle = model.proj_out.register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyError("broken")))
        with pytest.raises(KeyError):
            CASE.run(model, x, 900.0)
        handle.remove()
        CASE.run(model, x, 900.0)
    assert session.report().timelines == {"0": "CC"} and session.current is None


def test_a_module_that_runs_twice_in_a_forward_cannot_be_cached():
    model, x = CASE.build(), rand(*CASE.latents)
    block = model.blocks[0]
    block.norm3.register_forward_hook(lambda _, args, out: block.ffn(out) * 0 + out)
    with c4d.cached(model, "fora:interval=2") as session:
        session.begin([900.0] * 3)
        with pytest.raises(RuntimeError, match=r"mlp:blocks\.0\.ffn ran twice in one forward"):
            CASE.run(model, x, 900.0)


def test_a_second_thread_in_one_transformer_is_an_error():
    model, x, errors = CASE.build(), rand(*CASE.latents), []

    def intrude(*_):
        def other():
            try:
                CASE.run(model, x, 900.0)
            except RuntimeError as error:
                errors.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    with c4d.cached(model, "fora:interval=2") as session:
        session.begin([900.0] * 3)
        model.patch_embedding.register_forward_hook(intrude)
        CASE.run(model, x, 900.0)
    assert len(errors) == 1 and "another thread" in errors[0]
    assert session.report().timelines == {"0": "C"}


def test_two_sessions_on_one_transformer_are_an_error():
    model = CASE.build()
    with c4d.cached(model, "fora:interval=2"), pytest.raises(RuntimeError, match="already in a session"):
        c4d.cached(model, "fora:interval=3").__enter__()
    with c4d.cached(model, "fora:interval=3"):
        pass


def test_memory_is_dropped_after_the_last_step_and_reported():
    model = CASE.build()
    with c4d.cached(model, "taylorseer:interval=2,order=1") as session:
        held = []
        handle = model.register_forward_hook(lambda *_: held.append(session.bytes()))
        CASE.loop(model, 4, session.begin)
        handle.remove()
        assert session.bytes() == 0
    tokens, dim, modules, branches, entries = 128, 24, 12, 2, 2
    assert session.report().peak_bytes == max(held) == tokens * dim * 4 * modules * branches * entries


@pytest.mark.parametrize("skipped", [(), (4, 5), (1, 4, 5)])
def test_nothing_is_held_after_a_run_whose_guidance_ended_early(skipped):
    model, x = CASE.build(), rand(*CASE.latents)
    with c4d.cached(model, "taylorseer:interval=2,order=1") as session:
        session.begin([900.0] * 6)
        for i in range(6):
            with model.cache_context("cond"):
                CASE.run(model, x, 900.0 - i)
            if i not in skipped:
                with model.cache_context("uncond"):
                    CASE.run(model, x, 900.0 - i)
        assert session.report().peak_bytes > 0 and session.bytes() == 0


def test_histories_in_another_dtype_or_on_the_host():
    model = CASE.build()
    reports = {}
    kinds = {"fp32": {}, "bf16": {"history_dtype": torch.bfloat16}, "host": {"history_on": "host"}}
    for name, kw in {**kinds, "int8": {"history_dtype": torch.int8}}.items():
        with c4d.cached(model, "taylorseer:interval=2", **kw) as session:
            out = CASE.loop(model, 4, session.begin)[-1]
        reports[name] = (session.report().peak_bytes, out)
    assert reports["bf16"][0] * 2 == reports["fp32"][0] == reports["host"][0]
    assert torch.equal(reports["fp32"][1], reports["host"][1])
    width = CASE.build().proj_out.in_features
    assert reports["int8"][0] * 4 * width == reports["fp32"][0] * (width + 4)
    for name in ("bf16", "int8"):
        assert 0 < (reports[name][1] - reports["fp32"][1]).norm() < 1e-2 * reports["fp32"][1].norm()


@pytest.mark.parametrize(
    "method",
    ["first-block:threshold=1e9,last=0", "teacache:threshold=1e9,coefficients=1/0,signal=modulated_input,last=0"],
)
def test_a_non_finite_measurement_computes_and_is_counted(method):
    case = CASES["hunyuan-t2v"]
    model, x = case.build(), rand(*case.latents)
    with c4d.cached(model, method) as session:
        session.begin([900.0] * 5)
        for value in (x, x, x * float("nan"), x, x):
            case.run(model, value, 900.0)
    report = session.report()
    assert report.timelines == {"0": "CrCCr"} and report.nonfinite == 2
    assert report.why == ("2 of 5 forwards measured NaN or infinity; each was computed",)
    assert report.why[0] in str(report)


def test_one_begin_is_for_one_loop():
    model, x = CASE.build(), rand(*CASE.latents)
    with c4d.cached(model, "fora:interval=3") as session:
        chunk = [900.0, 600.0, 300.0]
        with pytest.raises(ValueError, match=r"timesteps turn back: 300 is followed by 900 at step 3.*each chunk"):
            session.begin(chunk * 3)
        with pytest.raises(ValueError, match="timesteps turn back"):
            session.begin(torch.tensor(chunk[::-1] * 2))
        session.begin([900.0, 900.0, 600.0])  # Heun's method
        session.begin(range(9))
        for t in chunk:
            CASE.run(model, x, t)
        with pytest.raises(RunError, match=r"timesteps turn back, from 300 to 900 .*before every chunk"):
            CASE.run(model, x, chunk[0])
        assert len(session.trace) == 3


@pytest.mark.parametrize(
    "method", ["taylorseer-lite:interval=2@blocks", "fora:interval=2", "taylorseer:interval=2", "foca:interval=2"]
)
def test_a_feature_that_its_storage_cannot_hold_is_an_error(method):
    model, x = CASE.build(), rand(*CASE.latents)
    for block in model.blocks:
        block.ffn.net[-1].bias.data.fill_(1e5)
    with c4d.cached(model, method, history_dtype=torch.float16) as session:
        session.begin([900.0] * 3)
        with pytest.raises(RuntimeError, match=r"torch.float16, whose numbers end at 65504: use .*bfloat16"):
            CASE.run(model, x, 900.0)
        assert session.report().nonfinite == 1 and session.bytes() == 0
    with c4d.cached(model, method, history_dtype=torch.bfloat16) as session:
        session.begin([900.0] * 3)
        assert all(CASE.run(model, x, 900.0).isfinite().all() for _ in range(3)) and session.report().nonfinite == 0


def peft(model):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=2, target_modules=["to_q"]))


def fsdp(model):
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)


@pytest.mark.parametrize("wrap", [peft, torch.nn.parallel.DistributedDataParallel, fsdp], ids=["peft", "ddp", "fsdp"])
def test_what_wraps_a_transformer_is_looked_into(wrap, tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model, x = CASE.build(), rand(*CASE.latents)
        wrapped = wrap(model)
        with c4d.cached(wrapped, "fora:interval=3") as session, c4d.attention(wrapped):
            session.begin([900.0, 600.0])
            with torch.no_grad():
                CASE.run(wrapped, x, 900.0), CASE.run(wrapped, x, 600.0)
        assert session.report().timelines == {"0": "Cr"}
    finally:
        torch.distributed.destroy_process_group()


def test_a_session_that_is_never_entered_says_so():
    model = CASE.build()
    for make, name in (
        (lambda: c4d.cached(model, "fora:interval=2"), "cached"),
        (lambda: c4d.attention(model), "attention"),
    ):
        with pytest.warns(RuntimeWarning, match=rf"c4d\.{name}\(…\) gave was never entered"):
            make()
            gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with make() as session:
                if name == "cached":
                    session.begin([700.0])
                CASE.run(model, rand(*CASE.latents), 700.0)


def test_an_unknown_wrapper_names_the_module_inside():
    with pytest.raises(TypeError, match=r"no spec for Sequential\. Its '1' is a WanTransformer3DModel: give c4d that"):
        c4d.cached(torch.nn.Sequential(torch.nn.Identity(), CASE.build()), "fora:interval=2")


# -- the noise level in the trace


@pytest.mark.parametrize("name", NAMES)
def test_the_trace_has_the_noise_levels_where_the_host_has_them(name):
    """Known to a method that asks for none, and equal to what one that asks is given."""
    pipe = SimpleNamespace(scheduler=schedulers()[name], transformer=CASE.build())
    with c4d.cached(pipe.transformer, "fora:interval=2", scheduler=pipe.scheduler) as session:
        denoise(pipe)
    found = [entry.noise for entry in session.trace]
    wanted = [level.noise for level in noise_levels(pipe.scheduler)][: PASSES.get(name, 6)]
    assert found == [level for level in wanted for _ in ("cond", "uncond")]
    assert 0 < found[-1] < found[0] <= 1


@pytest.mark.parametrize("table", ["sigmas", "alphas_cumprod", "timesteps"])
def test_no_noise_level_is_worth_waiting_for(table):
    """Tables on a device are not read, nor is what makes no sense; nothing is known then, and nothing raises."""
    tables = {"timesteps": torch.tensor([900, 100])}
    tables |= {"sigmas": torch.tensor([0.9, 0.1])} if table == "sigmas" else {"alphas_cumprod": torch.rand(1000)}
    assert len(noise_known(SimpleNamespace(**tables))) == 2
    assert noise_known(SimpleNamespace(**{**tables, table: tables[table].to("meta")})) == []
    assert noise_known(SimpleNamespace(**{**tables, table: tables[table][:0]})) == []
    assert noise_known(SimpleNamespace()) == []
