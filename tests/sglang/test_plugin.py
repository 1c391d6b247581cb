"""The plugin for SGLang at work in a denoising loop, and what it refuses."""

from __future__ import annotations

import logging
import types
from collections import Counter
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import tomllib
import torch
from diffusers import DDIMScheduler
from torch import nn

from c4d.core.importing import CannotImportError
from c4d.sglang import denoising
from c4d.sglang.plugin import VARIABLE, register
from tests.sglang.runtime import server_args

GROUP = "sglang.multimodal_gen.plugins"
REUSE = "taylorseer-lite:interval=2,order=0"
STEPS = 6


class Model(nn.Module):
    """A denoiser that depends on all that it is given, and counts its calls by their text."""

    def __init__(self, weight=0.5):
        super().__init__()
        self.weight, self.calls, self.failing = nn.Parameter(torch.tensor(weight)), Counter(), False

    def forward(self, hidden_states, timestep, encoder_hidden_states):
        self.calls[float(encoder_hidden_states)] += 1
        if self.failing:
            raise ArithmeticError("out of luck")
        return torch.tanh(hidden_states * self.weight + encoder_hidden_states + timestep.max() / 1000)


def hooked(runtime, monkeypatch, text):
    """SGLang with the plugin, as its server starts."""
    monkeypatch.setenv(VARIABLE, text)
    register()
    runtime.plugins.HookRegistry.apply_hooks()


def built(runtime, make, role="monolithic"):
    """The pipeline that ``make()`` gives, as the start of a server builds it."""
    args = server_args()
    args.make, args.disagg_role = make, role
    return runtime.pipelines.build_pipeline(args)


class Request:
    """What a user asks for, and the stage that makes it."""

    def __init__(
        self,
        runtime,
        second=None,
        scheduler=None,
        steps=STEPS,
        texts=(1.0, -1.0),
        warm_up=False,
        boundary=None,
        expand=None,
    ):
        self.runtime, self.model, self.second = runtime, Model(), second
        self.scheduler, self.steps, self.warm_up, self.boundary = scheduler or runtime.Euler(), steps, warm_up, boundary
        self.texts = [torch.tensor(text) for text in texts]

        class Stage(runtime.Stage):
            def _prepare_denoising_loop(stage, batch, server_args):
                return self.context()

            def _finalize_denoising_loop(stage, ctx, batch, server_args):
                self.latents = ctx.latents

        if expand is not None:
            Stage.expand_timestep_before_forward = expand
        self.stage = built(runtime, lambda: Stage(self.model, self.scheduler, transformer_2=second))

    def branches(self):
        texts = zip(("conditional", "unconditional"), self.texts, strict=False)
        return [self.runtime.Branch(name, name == "conditional", {"encoder_hidden_states": x}) for name, x in texts]

    def context(self):
        self.scheduler.set_timesteps(self.steps)
        known = {
            "scheduler": self.scheduler,
            "timesteps": self.scheduler.timesteps,
            "latents": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
            "boundary_timestep": self.boundary,
            "guidance": None,
            "is_warmup": self.warm_up,
            "cfg_policy": self.runtime.Policy(branches=self.branches()),
            "target_dtype": torch.float32,
        }
        if self.runtime.own:
            unused = dict.fromkeys(self.runtime.Context.__dataclass_fields__.keys() - {"extra"})
            known = {**unused, **known, "extra_step_kwargs": {}, "num_inference_steps": 0, "num_warmup_steps": 0}
        return self.runtime.Context(**known)

    def run(self, **asked):
        """The latents that come of it; ``asked`` is of this request."""
        of_request = {
            "enable_teacache": False,
            "enable_spectrum": False,
            "rollout": False,
            "raw_latent_shape": (1, 4, 8, 8),
            "guidance_scale": 3.0,
            "guidance_scale_2": 3.0,
            "guidance_rescale": 0.0,
            "cfg_normalization": 0.0,
            "do_classifier_free_guidance": len(self.texts) > 1,
            "image_latent": None,
            "return_trajectory_latents": False,
            "perf_dump_path": None,
            "metrics": None,
            "extra": {},
        }
        args = server_args()
        args.comfyui_mode = asked.pop("comfyui_mode", False)
        params = types.SimpleNamespace(cfg_gate_step=asked.pop("cfg_gate_step", None))
        batch = types.SimpleNamespace(sampling_params=params, **{**of_request, **asked})
        self.stage.forward(batch, args)
        return self.latents


def cache_of(runtime):
    """The one behind the hooks."""
    hooks = runtime.plugins.HookRegistry
    if not runtime.own:
        return hooks.hooks[0][1].__self__
    return next(iter(hooks._hooks.values()))[0][1].__self__


def timelines(runtime):
    return dict(cache_of(runtime).report.timelines)


def by_hand(request, computed):
    """The latents where the steps of ``computed`` are computed and the others repeat the output before."""
    request.scheduler.set_timesteps(request.steps)
    latents, outputs = request.context().latents, {}
    with torch.no_grad():
        for index, t in enumerate(request.scheduler.timesteps):
            if index in computed:
                outputs = {float(text): request.model(latents, t.repeat(1), text) for text in request.texts}
            first, *rest = outputs.values()
            noise = first if not rest else rest[0] + 3.0 * (first - rest[0])
            latents = request.scheduler.step(noise, t, latents, return_dict=False)[0]
    return latents


def test_the_entry_point_is_the_plugin():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert EntryPoint("c4d", project["entry-points"][GROUP]["c4d"], GROUP).load() is register


@pytest.mark.parametrize("text", [None, "", " "])
def test_without_a_method_nothing_is_touched(runtime, monkeypatch, text):
    before = dict(vars(runtime.Stage))
    monkeypatch.delenv(VARIABLE, raising=False)
    hooked(runtime, monkeypatch, text) if text is not None else register()
    assert dict(vars(runtime.Stage)) == before


def test_outside_of_sglang(monkeypatch):
    monkeypatch.setenv(VARIABLE, REUSE)
    with pytest.raises(CannotImportError, match="sglang cannot be imported") as caught:
        register()
    assert "inside SGLang" in caught.value.way_out


@pytest.mark.parametrize("texts", [(1.0,), (1.0, -1.0)])
def test_a_loop_is_cached(runtime, monkeypatch, texts):
    plain = Request(runtime, texts=texts).run()
    hooked(runtime, monkeypatch, REUSE)
    request = Request(runtime, texts=texts)
    for runs in (1, 2):  # the second request begins anew
        cached = request.run()
        assert request.model.calls == Counter(dict.fromkeys(texts, 3 * runs))
        assert not torch.equal(cached, plain)
        assert set(timelines(runtime).values()) == {"CrCrCr"}
        assert list(timelines(runtime)) == ["conditional", "unconditional"][: len(texts)]
    torch.testing.assert_close(cached, by_hand(request, {0, 2, 4}), rtol=0, atol=1e-6)
    assert set(vars(request.model)) == set(vars(Model())) and not request.model._forward_pre_hooks


def test_what_never_skips_changes_nothing(runtime, monkeypatch):
    plain = Request(runtime).run()
    hooked(runtime, monkeypatch, "taylorseer-lite:interval=1")
    assert torch.equal(Request(runtime).run(), plain)
    assert timelines(runtime) == {"conditional": "CCCCCC", "unconditional": "CCCCCC"}


def test_warm_ups_are_left_alone(runtime, monkeypatch):
    hooked(runtime, monkeypatch, REUSE)
    request = Request(runtime, warm_up=True)
    request.run()
    assert request.model.calls == Counter({1.0: STEPS, -1.0: STEPS}) and cache_of(runtime).report is None


def test_two_transformers_remember_for_themselves(runtime, monkeypatch):
    loops = []
    monkeypatch.setattr(denoising, "Loop", lambda *given, _loop=denoising.Loop: loops.append(_loop(*given)) or loops[0])
    hooked(runtime, monkeypatch, REUSE)
    request = Request(runtime, second=Model(0.3), boundary=500.0, steps=7)
    assert sum(int(t) >= 500 for t in request.context().timesteps) == 4
    request.run()
    assert timelines(runtime) == {"conditional": "CrCr|CrC", "unconditional": "CrCr|CrC"}
    assert request.model.calls[1.0] == request.second.calls[1.0] == 2
    assert [entry.step.span for entry in loops[0].session.trace[::2]] == [(0, 4)] * 4 + [(4, 7)] * 3


def test_a_profile_of_what_another_kind_of_model_predicts(runtime, monkeypatch):
    hooked(runtime, monkeypatch, "profile:universal,computed=10")
    with pytest.raises(ValueError, match="made for models that predict flow, and this one predicts epsilon"):
        Request(runtime, scheduler=DDIMScheduler()).run()


def test_a_timestep_for_each_token(runtime, monkeypatch):
    """As of an image that the video begins with: its tokens have the timestep 0."""

    def expand(stage, batch, args, t, dtype, seq_len, mask):
        return torch.stack([torch.zeros_like(t), t])[None]

    hooked(runtime, monkeypatch, REUSE)
    request = Request(runtime, expand=expand)
    torch.testing.assert_close(request.run(), by_hand(request, {0, 2, 4}), rtol=0, atol=1e-6)


def test_a_universal_profile_goes_by_the_sigmas_of_the_scheduler(runtime, monkeypatch):
    hooked(runtime, monkeypatch, "auto")
    Request(runtime, steps=20).run()
    report = cache_of(runtime).report
    assert "universal profile" in report.chosen and report.reused == report.computed == 20
    noise = [entry["noise"] for entry in report.forwards if entry["branch"] == "conditional"]
    scheduler = runtime.Euler()
    scheduler.set_timesteps(20)
    assert noise == pytest.approx(scheduler.sigmas[:20].tolist())


def test_auto_says_where_it_does_nothing(runtime, monkeypatch, caplog):
    hooked(runtime, monkeypatch, "auto")
    with caplog.at_level(logging.INFO, "c4d"):
        request = Request(runtime)
        request.run()
    assert request.model.calls[1.0] == STEPS and "no cache: of 6 steps none can be spared" in caplog.text


def test_what_a_failed_request_leaves(runtime, monkeypatch):
    hooked(runtime, monkeypatch, REUSE)
    request = Request(runtime)
    request.model.failing = True
    with pytest.raises(ArithmeticError):
        request.run()
    assert not cache_of(runtime)._loops
    request.model.failing = False
    torch.testing.assert_close(request.run(), by_hand(request, {0, 2, 4}), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "C4D_CACHE=nonsense: method 'nonsense': unknown method"),
        (
            "first-block:threshold=0.1",
            "caches at blocks; in SGLang c4d caches what a model returns, and nothing inside",
        ),
        ("cfg-skip:ratio=0.25", "caches at guidance"),
        ("profile:no-such-profile,computed=7", "no profile is named"),
    ],
)
def test_a_method_that_cannot_be_ends_the_start(runtime, monkeypatch, text, said):
    hooked(runtime, monkeypatch, text)
    with pytest.raises(RuntimeError) as caught:
        Request(runtime)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "name", ["forward", "_denoise", "_run_denoising_loop", "_run_denoising_step", "_predict_noise_with_cfg"]
)
def test_a_stage_with_a_way_of_its_own_ends_the_start(runtime, monkeypatch, name):
    hooked(runtime, monkeypatch, REUSE)
    kind = type("DmdDenoisingStage", (runtime.Stage,), {name: lambda self, *args: None})
    with pytest.raises(RuntimeError, match=rf"DmdDenoisingStage\.{name} of its own"):
        built(runtime, lambda: kind(Model(), runtime.Euler()))


def test_another_sglang_ends_the_start(runtime, monkeypatch):
    hooked(runtime, monkeypatch, REUSE)
    monkeypatch.delattr(runtime.Stage, "_denoise")
    with pytest.raises(RuntimeError, match="Stage of this SGLang has no _denoise, which c4d follows"):
        Request(runtime)


def test_a_pipeline_without_a_denoising_stage_ends_the_start(runtime, monkeypatch):
    hooked(runtime, monkeypatch, REUSE)
    assert built(runtime, dict, role="encoder") == {}
    with pytest.raises(RuntimeError, match="dict denoises without SGLang's DenoisingStage"):
        built(runtime, dict)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"enable_teacache": True}, "SGLang's TeaCache is at work"),
        ({"enable_spectrum": True}, "SGLang's Spectrum is at work"),
        ({"rollout": True}, "rollout for training"),
        ({"comfyui_mode": True}, "ComfyUI makes the steps"),
    ],
)
def test_what_does_not_go_with_a_cache(runtime, monkeypatch, asked, said):
    hooked(runtime, monkeypatch, REUSE)
    with pytest.raises(RuntimeError, match=said):
        Request(runtime).run(**asked)


def test_cache_dit_does_not_go_with_a_cache(runtime, monkeypatch):
    hooked(runtime, monkeypatch, REUSE)
    request = Request(runtime)
    request.stage._cache_dit_enabled = True
    with pytest.raises(RuntimeError, match="SGLang's cache-dit is at work"):
        request.run()


@pytest.mark.parametrize("text", ["easycache:threshold=0.1,warmup=2", "dmd:interval=2"])
def test_what_looks_at_tensors_does_not_go_on_several_ranks(runtime, monkeypatch, text):
    monkeypatch.setattr(denoising, "_ranks", lambda: 2)
    hooked(runtime, monkeypatch, text)
    with pytest.raises(RuntimeError, match="these 2 ranks may have another part"):
        Request(runtime)


def test_what_goes_by_the_steps_goes_on_several_ranks(runtime, monkeypatch):
    monkeypatch.setattr(denoising, "_ranks", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    hooked(runtime, monkeypatch, REUSE)
    request = Request(runtime)
    torch.testing.assert_close(request.run(), by_hand(request, {0, 2, 4}), rtol=0, atol=1e-6)


def test_a_method_that_measures(runtime, monkeypatch):
    hooked(runtime, monkeypatch, "easycache:threshold=0.5,warmup=2")
    request = Request(runtime, steps=12)
    request.run()
    assert 0 < request.model.calls[1.0] < 12


def test_branches_that_cannot_be_told_apart(runtime, monkeypatch):
    hooked(runtime, monkeypatch, REUSE)
    request = Request(runtime)
    request.texts = [request.texts[0]] * 2
    with pytest.raises(RuntimeError, match="has the arguments of 2 of the 2 branches"):
        request.run()


def test_other_steps_than_the_scheduler_s(runtime, monkeypatch):
    hooked(runtime, monkeypatch, REUSE)
    request = Request(runtime)
    whole = request.context
    request.context = lambda: _cut(whole())
    with pytest.raises(RuntimeError, match="denoises in 5 steps, and its"):
        request.run()


def _cut(ctx):
    ctx.timesteps = ctx.timesteps[1:]
    return ctx


# -- what the stand-in has not


of_sglang = pytest.mark.parametrize("runtime", [pytest.param("wheel", marks=pytest.mark.nightly)], indirect=True)


@of_sglang
def test_sglang_s_gate_of_guidance(runtime, monkeypatch):
    """The branch without condition is left out from half of the steps on; the other one goes on."""
    hooked(runtime, monkeypatch, REUSE)
    Request(runtime).run(cfg_gate_step=0.5)
    assert timelines(runtime) == {"conditional": "CrCrCr", "unconditional": "CrC"}


@of_sglang
def test_sglang_s_unipc(runtime, monkeypatch):
    hooked(runtime, monkeypatch, "profile:universal,computed=10")
    Request(runtime, scheduler=runtime.UniPC(), steps=20).run()
    assert cache_of(runtime).report.computed == cache_of(runtime).report.reused == 20


@of_sglang
@pytest.mark.parametrize("text", ["auto", REUSE])
def test_a_scheduler_that_does_not_count_its_steps(runtime, monkeypatch, text):
    hooked(runtime, monkeypatch, text)
    scheduler = runtime.DPM(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=1.0)
    Request(runtime, scheduler=scheduler, steps=20).run()
    report = cache_of(runtime).report
    assert report.reused == report.computed == 20
    noise = [entry["noise"] for entry in report.forwards if entry["branch"] == "unconditional"]
    assert noise == pytest.approx(scheduler.sigmas[:20].tolist())


@of_sglang
def test_auto_does_nothing_with_sglang_s_unipc(runtime, monkeypatch, caplog):
    hooked(runtime, monkeypatch, "auto")
    with caplog.at_level(logging.INFO, "c4d"):
        request = Request(runtime, scheduler=runtime.UniPC(), steps=20)
        request.run()
    assert "was not measured with FlowUniPCMultistepScheduler" in caplog.text and request.model.calls[1.0] == 20


@of_sglang
@pytest.mark.parametrize(("text", "ends"), [(REUSE, False), ("nonsense", True)])
def test_sglang_s_own_loader(runtime, monkeypatch, text, ends):
    """What a plugin raises is only logged there, so that a wrong text has to end the start elsewhere."""
    found = EntryPoint("c4d", "c4d.sglang.plugin:register", GROUP)
    monkeypatch.setattr(runtime.plugins, "entry_points", lambda group: [found] if group == GROUP else [])
    monkeypatch.setattr(EntryPoint, "dist", None, raising=False)
    monkeypatch.setenv(VARIABLE, text)
    runtime.plugins.apply_plugin_hooks()
    if ends:
        with pytest.raises(RuntimeError, match="C4D_CACHE=nonsense"):
            Request(runtime)
    else:
        assert Request(runtime).run() is not None and cache_of(runtime).report.reused == 6
