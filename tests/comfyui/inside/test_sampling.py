"""A cache at work in ComfyUI's own samplers, on Flux and a U-Net of ComfyUI with few random weights."""

from __future__ import annotations

import gc
import weakref

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import pytest
import torch

from c4d.comfyui.nodes import CacheNode, ProfileNode, ReportNode
from c4d.comfyui.sampling import KEY, Cache
from c4d.core.runtime.steps import RunError
from tests.comfyui.inside import models
from tests.comfyui.inside.models import Counter, cond, rand, sample

NEVER = "taylorseer-lite:interval=1"
THIRD = "taylorseer-lite:interval=3,last=1"
OWN_SIGMAS = ("dpm_fast", "dpm_adaptive", "heunpp2")


@pytest.fixture(autouse=True)
def inference():
    """As ComfyUI runs whatever it runs."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def flux():
    return models.flux()


@pytest.fixture(scope="module")
def unet():
    return models.unet()


def lines(cache):
    return dict(cache.report.timelines)


def entry(model):
    """The module that the latents of a forward come through."""
    inner = model.model.diffusion_model
    return inner.img_in if hasattr(inner, "img_in") else inner.input_blocks[0][0]


@pytest.mark.parametrize("sampler", comfy.samplers.SAMPLER_NAMES)
def test_a_cache_that_never_skips_changes_nothing(flux, sampler):
    cache = Cache(NEVER)
    if sampler in OWN_SIGMAS:
        with pytest.raises(RunError, match="asks for the model at sigma"):
            sample(cache.hung_on(flux), sampler=sampler)
    else:
        assert torch.equal(sample(cache.hung_on(flux), sampler=sampler), sample(flux, sampler=sampler))
        assert set("".join(lines(cache).values())) == {"C"}


@pytest.mark.parametrize("kind", ["EPS", "V_PREDICTION", "EDM"])
def test_it_changes_nothing_on_a_unet(kind):
    unet, cache = models.unet(kind), Cache(NEVER)
    assert torch.equal(sample(cache.hung_on(unet), sampler="dpmpp_2m"), sample(unet, sampler="dpmpp_2m"))


@pytest.mark.parametrize(("make", "frames"), [(models.sd3, None), (models.ltxv, 3)], ids=["SD3", "LTXV"])
def test_other_models(make, frames):
    """Pictures, and a video of 3 frames."""
    model = make()
    never, profile, spectrum = (
        Cache(NEVER),
        Cache("profile:universal,computed=6"),
        Cache("seacache:threshold=9,max_skips=2@output"),
    )
    how = dict(frames=frames, steps=14)
    assert torch.equal(sample(never.hung_on(model), **how), sample(model, **how))
    for cache in (profile, spectrum):
        assert sample(cache.hung_on(model), **how).isfinite().all() and cache.report.computed <= 7


@pytest.mark.parametrize(
    ("sampler", "timelines"),
    [
        ("euler", ["CrrCrrCC"]),
        ("euler_ancestral", ["CrrCrrCC"]),
        ("uni_pc", ["CrrCrrCC"]),
        ("heun", ["CrrCrrCC", "CrrCrrC"]),  # at the next sigma, and again at the same with what came of that
        ("dpm_2", ["CrrCrrCC", "CrrCrrC"]),  # at a sigma, and between it and the next
    ],
)
def test_a_third_of_the_steps_is_computed(flux, sampler, timelines):
    cache = Cache(THIRD)
    with Counter(entry(flux)) as counter:
        sample(cache.hung_on(flux), sampler=sampler)
    assert list(lines(cache).values()) == timelines
    assert len(counter.rows) == "".join(timelines).count("C")


def by_hand(model, steps, given):
    """Euler's method, a skipped step's output on the line through the two computed last; no guidance."""
    network, scheme = model.model.diffusion_model, model.model.model_sampling
    (context, more), *_ = given
    sigmas = comfy.samplers.calculate_sigmas(scheme, "simple", steps)
    known = []

    def denoised(x, sigma, **_):
        k = int((sigmas == sigma[0]).nonzero())
        if k % 3 == 0 or k == steps - 1 or not known:
            out = network(x, sigma, context, more["pooled_output"], torch.tensor([3.5]), transformer_options={})
            known.append((k, out))
        elif len(known) == 1:
            out = known[0][1]
        else:
            (i, u), (j, v) = known[-2:]
            out = v + (k - j) / (j - i) * (v - u)
        return x - out * sigma[0]

    noise = comfy.sample.prepare_noise(torch.zeros(1, 4, 8, 8), 3)
    x = scheme.noise_scaling(sigmas[0], noise, torch.zeros_like(noise))
    out = comfy.k_diffusion.sampling.sample_euler(denoised, x, sigmas, disable=True)
    return model.model.process_latent_out(out)


def test_what_comes_is_what_the_method_says(flux):
    given = cond(1)
    cache = Cache("taylorseer-lite:interval=3,order=1,last=1")
    cached = sample(cache.hung_on(flux), steps=12, cfg=1.0, positive=given)
    assert lines(cache) == {"cond": "CrrCrrCrrCrC"}
    expected = by_hand(flux, 12, given)
    assert (cached - expected).abs().max() < 1e-4 * expected.abs().max()
    plain = sample(flux, steps=12, cfg=1.0, positive=given)
    assert (cached - plain).abs().max() > 1e-2 * plain.abs().max()  # it is another result


class OneByOne:
    """ComfyUI's memory, so short that conditions do not fit into one batch, from a call on."""

    def __init__(self, monkeypatch, model, after=0):
        self.calls, self.after = 0, after
        monkeypatch.setattr(type(model.model), "memory_required", self)

    def __call__(self, input_shape):
        self.calls += 1
        return 1e15 if self.calls > self.after else 0.0


def test_guidance_in_one_batch_or_in_two(flux, monkeypatch):
    together, apart = Cache(THIRD), Cache(THIRD)
    one = sample(together.hung_on(flux))
    with monkeypatch.context() as patch, Counter(entry(flux)) as counter:
        OneByOne(patch, flux)
        two = sample(apart.hung_on(flux))
    assert lines(together) == {"uncond+cond": "CrrCrrCC"}
    assert sorted(lines(apart).items()) == [("cond", "CrrCrrCC"), ("uncond", "CrrCrrCC")] and counter.rows == [1] * 8
    assert torch.allclose(one, two, rtol=1e-4, atol=1e-4)


def test_batches_that_change_in_mid_run_begin_anew(flux, monkeypatch):
    cache = Cache(THIRD)
    OneByOne(monkeypatch, flux, after=6)  # of them two belong to the loading of the model
    sample(cache.hung_on(flux))
    found = lines(cache)
    before = len(found["uncond+cond"])
    assert 0 < before < 8 and set(found) == {"uncond+cond", "cond", "uncond"}
    assert found["cond"][0] == found["uncond"][0] == "C" and len(found["cond"]) == 8 - before


def test_clones_are_independent_and_models_untouched(flux):
    inner = flux.model.diffusion_model
    before = dict(vars(inner)), dict(vars(flux.model)), {id(m): dict(vars(m)) for m in inner.modules()}
    one, other = Cache(THIRD), Cache(NEVER)
    first, second = one.hung_on(flux), other.hung_on(flux)
    plain, cached = sample(flux), sample(first)
    assert torch.equal(sample(second), plain) and torch.equal(sample(flux), plain)
    assert torch.equal(sample(first), cached) and not torch.equal(cached, plain)
    assert (
        not flux.wrappers and first.get_wrappers("outer_sample", KEY) and not first.get_wrappers("predict_noise", KEY)
    )
    assert first.model_options == flux.model_options
    assert (dict(vars(inner)), dict(vars(flux.model)), {id(m): dict(vars(m)) for m in inner.modules()}) == before


def test_the_options_of_a_sampling_are_given_back(flux):
    seen = []

    def look(executor, *args, **kwargs):
        given = executor.class_obj.model_options
        before = str(given)
        out = executor(*args, **kwargs)
        seen.append(executor.class_obj.model_options is given and str(given) == before)
        return out

    model = flux.clone()
    model.add_wrapper_with_key("outer_sample", "look", look)  # around the cache
    sample(Cache(THIRD).hung_on(model))
    assert seen == [True]


def test_one_sampling_knows_nothing_of_another(flux):
    model = Cache("easycache:threshold=0.5,warmup=2").hung_on(flux)
    runs = [dict(seed=1), dict(seed=2, side=12), dict(seed=3, batch=2), dict(seed=1)]
    made = [sample(model, **run) for run in runs]
    fresh = [sample(Cache("easycache:threshold=0.5,warmup=2").hung_on(flux), **run) for run in runs]
    assert all(torch.equal(a, b) for a, b in zip(made, fresh, strict=True)) and torch.equal(made[0], made[3])


def test_an_interrupt_frees_what_was_held(flux):
    outputs = []
    last = flux.model.diffusion_model.final_layer
    handle = last.register_forward_hook(lambda module, args, out: outputs.append(weakref.ref(out)))

    def stop(step, *_):
        if step == 4:
            raise comfy.model_management.InterruptProcessingException

    cache = Cache(THIRD)
    model, interrupted = cache.hung_on(flux), False
    gc.collect()
    gc.disable()  # it is freed at once, and not some time later
    try:
        sample(model, callback=stop)
    except comfy.model_management.InterruptProcessingException:
        interrupted = True
    finally:
        handle.remove()
    alive = [ref for ref in outputs if ref() is not None]
    gc.enable()
    assert interrupted and outputs and not alive and cache.report is None
    assert torch.equal(sample(model), sample(Cache(THIRD).hung_on(flux)))


@pytest.mark.parametrize("method", ["profile:universal,computed=7", "profile:universal,quality=fast"])
def test_a_profile_goes_by_the_noise_levels(flux, method):
    cache = Cache(method)
    with Counter(entry(flux)) as counter:
        sample(cache.hung_on(flux), steps=30)
    assert len(counter.rows) == 7
    part = Cache(method)
    sample(part.hung_on(flux), steps=15, denoise=0.5, latent=rand(9, 1, 4, 8, 8))
    (line,) = lines(part).values()
    assert len(line) == 15 and line[0] == "C" and 1 < line.count("C") <= 7


def test_levels_of_a_model_that_predicts_noise(unet):
    """The latents that it is given have as much noise as the session is told: x = a x0 + n e with a^2 + n^2 = 1."""
    cache = Cache(THIRD)
    sample(cache.hung_on(unet), sampler="dpmpp_2m")
    sigmas = comfy.samplers.calculate_sigmas(unet.model.model_sampling, "simple", 8)[:-1]
    told = [entry["noise"] for entry in cache.report.forwards]
    given = unet.model.model_sampling.calculate_input(sigmas, sigmas.clone())  # of noise alone, of this deviation
    assert torch.allclose(torch.tensor(told), given)


@pytest.mark.parametrize("kind", ["EPS", "V_PREDICTION", "EDM"])
def test_a_profile_of_flow_models_is_for_them_alone(kind):
    with pytest.raises(ValueError, match="made for models that predict flow"):
        sample(Cache("profile:universal,computed=7").hung_on(models.unet(kind)), steps=20)


def test_levels_of_a_model_that_predicts_something_else():
    with pytest.raises(RunError, match="needs noise levels"):
        sample(Cache("seacache:threshold=1.0,max_skips=3@output").hung_on(models.unet("EDM")))


@pytest.mark.parametrize("method", ["easycache:threshold=0.5,warmup=2", "seacache:threshold=9,max_skips=2@output"])
def test_samples_of_a_batch_decide_alike(flux, method):
    cache = Cache(method)
    with Counter(entry(flux)) as counter:
        sample(cache.hung_on(flux), batch=3)
    assert 0 < len(counter.rows) < 8 and set(counter.rows) == {6}
    assert len(set(lines(cache).values())) == 1


def test_dynamic_modes(flux):
    cache = Cache("dmd:interval=2")
    assert sample(cache.hung_on(flux)).isfinite().all() and "r" in lines(cache)["uncond+cond"]


def test_areas_and_conditions_for_a_part_of_the_run(flux):
    left = cond(5, area=(4, 8, 0, 0), strength=1.0)
    late = cond(6, start_percent=0.5, end_percent=1.0)
    given = cond(1) + left + late
    never, third = Cache(NEVER), Cache(THIRD)
    assert torch.equal(sample(never.hung_on(flux), positive=given), sample(flux, positive=given))
    sample(third.hung_on(flux), positive=given)
    found = lines(third)
    assert all(line[0] == "C" for line in found.values()) and "r" in "".join(found.values())
    assert max(map(len, found.values())) == 8 and min(map(len, found.values())) < 8


@pytest.mark.parametrize(("sampler", "chosen"), [("euler", True), ("ddim", True), ("dpmpp_2m", False), ("lcm", False)])
def test_auto_takes_the_universal_profile_where_it_was_measured(flux, sampler, chosen):
    cache = Cache("auto", "fast")
    sample(cache.hung_on(flux), steps=30, sampler=sampler)
    assert (cache.report.reused > 0) == chosen
    assert cache.report.chosen.startswith(
        "the universal profile" if chosen else "no cache: the universal profile was not"
    )


def test_auto_on_a_model_that_predicts_noise(unet):
    cache = Cache("auto")
    sample(cache.hung_on(unet), steps=30)
    assert not cache.report.reused and "predicts epsilon" in cache.report.chosen


def test_two_caches_on_one_model_are_refused(flux):
    with pytest.raises(ValueError, match="from another node of c4d"):
        Cache(NEVER).hung_on(Cache(THIRD).hung_on(flux))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"transformer_options": {"easycache": object()}}, "EasyCache"), ({"multigpu_clones": {}}, "several devices")],
)
def test_what_else_acts_on_the_model_is_refused(flux, options, said):
    model = Cache(NEVER).hung_on(flux)
    model.model_options = {"transformer_options": {}, **options}
    with pytest.raises(RuntimeError, match=said):
        sample(model)


def test_a_run_that_adds_noise_is_refused(flux):
    sigmas = comfy.samplers.calculate_sigmas(flux.model.model_sampling, "simple", 8).flip(0)
    with pytest.raises(RunError, match="sigmas of this run rise"):
        sample(Cache(NEVER).hung_on(flux), sigmas=sigmas)


def test_a_model_that_calls_no_wrappers_is_refused(flux, monkeypatch):
    kind = type(flux.model.diffusion_model)
    monkeypatch.setattr(kind, "forward", kind.forward.__wrapped__)
    with pytest.raises(RuntimeError, match="saw no forward of this model"):
        sample(Cache(NEVER).hung_on(flux))


def test_a_model_that_is_compiled_as_a_whole_is_refused(flux, monkeypatch):
    """As by ComfyUI's node TorchCompileModel: the whole forward, and with it its wrappers."""
    network = flux.model.diffusion_model
    monkeypatch.setattr(network, "forward", torch.compile(network.forward, backend="eager"))
    with pytest.raises(RuntimeError, match="compiled as a whole"):
        sample(Cache(THIRD).hung_on(flux))


def test_blocks_may_be_compiled(flux, monkeypatch):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    expected, cache = sample(Cache(THIRD).hung_on(flux)), Cache(THIRD)
    (block,) = flux.model.diffusion_model.single_blocks
    monkeypatch.setattr(block, "forward", torch.compile(block.forward, backend=backend))
    found = sample(cache.hung_on(flux))
    assert compiled and lines(cache) == {"uncond+cond": "CrrCrrCC"} and torch.allclose(found, expected, atol=1e-4)


def test_the_nodes(flux):
    model, cache = CacheNode().hung_on(flux, THIRD)
    samples = {"samples": sample(model)}
    shown = ReportNode().report(samples, cache)
    assert shown["result"] == (samples, shown["ui"]["text"][0]) and "CrrCrrCC" in shown["result"][1]
    sample(model, steps=6)
    assert lines(cache) == {"uncond+cond": "CrrCrC"}
    model, cache = ProfileNode().hung_on(flux, "universal", "fast", 0)
    assert ReportNode().report(samples, cache)["result"][1] == "this cache has seen no sampling"
    sample(model, steps=30)
    assert cache.report.computed == 7
    model, cache = ProfileNode().hung_on(flux, "wan-tiny", "fast", 10)
    sample(model, steps=30)
    assert cache.report.computed == 10 and "WanTransformer3DModel" in cache.report.chosen
