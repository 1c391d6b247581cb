"""A method at work while ComfyUI samples: a session of c4d around what its model returns.

Nothing is put on a model of ComfyUI but wrappers that it calls itself. One is on a clone (``OUTER_SAMPLE``). The two
others are there while a sampling lasts, in the options that ComfyUI makes for it: around an evaluation of the guided
model (``PREDICT_NOISE``), which says the step, and around a forward of the diffusion model (``DIFFUSION_MODEL``), whose
output is cached. What the session itself hooks is a module of our own that stands for that forward.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from c4d.backends import select
from c4d.comfyui.steps import SamplerSteps, prediction_of
from c4d.core.caching.rules import CacheMethod
from c4d.core.importing import importing
from c4d.core.runtime.choice import ALL, AUTO, BETTER
from c4d.core.runtime.report import Report
from c4d.core.runtime.session import Session
from c4d.core.text.grammar import parse
from c4d.models.stand_in import Denoiser, at_output, check_profile, doubt, spec_named

logger = logging.getLogger("c4d")

KEY = "c4d"
ENGINE = "ComfyUI"
OTHERS = "easycache"  # what the EasyCache and LazyCache of ComfyUI put into a run's options
MEASURED = ("sample_euler",)  # the sampler of ComfyUI that is one under which the universal profile was measured
ROLES = ("cond", "uncond")  # of a condition, by its number in ``cond_or_uncond``


class Sampling:
    """One run of a sampler with ``method`` on what ComfyUI calls ``model``."""

    def __init__(self, method: CacheMethod, steps: SamplerSteps, model: str) -> None:
        self._steps, self._denoiser = steps, Denoiser()
        self.session = Session([(self._denoiser, spec_named(model))], method, clock=steps, backend=select("auto"))
        self._labels: dict[Any, str] = {}
        self._often: Counter[str] = Counter()  # labels that begin with the same roles
        self._calls: Counter[Any] = Counter()  # of the evaluation under way

    def evaluate(self, executor: Any, x: Any, timestep: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        """Around an evaluation of the guided model at the noise ``timestep`` [B]: waits for the device to read it."""
        _refuse_others(options)
        self._steps.evaluate(float(timestep.max()))
        self._calls.clear()
        out = executor(x, timestep, options, *args, **kwargs)
        if not self._calls:
            raise RuntimeError(
                "c4d saw no forward of this model: its class, or the guider, does not call the wrappers of ComfyUI "
                "(DIFFUSION_MODEL), so nothing can be cached: take this model without c4d"
            )
        return out

    def forward(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Around a forward of the diffusion model, whose first argument are the latents."""
        return self._forward(torch.compiler.is_compiling(), executor, *args, **kwargs)

    @torch.compiler.disable
    def _forward(self, compiled: bool, executor: Any, *args: Any, **kwargs: Any) -> Any:
        if compiled:
            raise RuntimeError(
                "this model is compiled as a whole, with what is around its forward, and one decision would be frozen "
                "into the graph: compile its blocks instead, or take this model without c4d"
            )
        given = (x for x in (*args, *kwargs.values()) if isinstance(x, dict) and "cond_or_uncond" in x)
        if (options := next(given, None)) is None or self._steps.sigma is None:
            raise RuntimeError(
                "a forward of this model belongs to no evaluation of the guided model: its guider or sampler calls the "
                "model in a way of its own, so take this model without c4d"
            )
        latents = tuple(args[0]) if isinstance(args[0], list) else args[0]  # streams (a list means samples in c4d)
        named: Any = self._denoiser.cache_context  # of the session
        with named(self._branch(options)):
            return self._denoiser(latents, self._steps.sigma, partial(executor, *args, **kwargs))

    def _branch(self, options: Mapping[str, Any]) -> str:
        """Whose call it is: its conditions, in the order of their rows, the window of frames, and the visit.

        Conditions that come in one batch in some steps and alone in others, for ComfyUI goes by free memory, are
        different branches then: each begins with a computed forward. Calls that are alike in all of this (areas of one
        condition, a layer skipped for guidance) come in the same order in every evaluation.
        """
        conditions = tuple(zip(options["cond_or_uncond"], options["uuids"], strict=True))
        frames = tuple(getattr(options.get("context_window"), "index_list", ()))
        alike = self._steps.visit, conditions, frames
        key = (*alike, self._calls[alike])
        self._calls[alike] += 1
        if key not in self._labels:
            roles = "+".join(ROLES[i] if i < len(ROLES) else f"cond{i}" for i, _ in conditions)
            self._often[roles] += 1
            self._labels[key] = roles if self._often[roles] == 1 else f"{roles}/{self._often[roles]}"
        return self._labels[key]


class Cache:
    """What hangs on a clone of a ModelPatcher: a method, by its text or "auto", for every sampling with that clone.

    ``quality`` is that of "auto": ``"high"``, ``"balanced"`` or ``"fast"``. ``report`` is of the last sampling
    that came to an end, None before. Raises :class:`~c4d.core.text.grammar.MethodError` for a text that names no
    method, or one that is not of a model's output.
    """

    def __init__(self, text: str, quality: str = "balanced") -> None:
        self._quality = quality
        self._method = None if text.strip() == AUTO else at_output(text, ENGINE)
        self.report: Report | None = None

    def hung_on(self, model: Any) -> Any:
        """A clone of ``model`` (a ModelPatcher) that is sampled with this cache; ``model`` stays as it is.

        Raises ValueError for one that has a cache, RuntimeError for a ComfyUI that lacks what is needed.
        """
        wrappers = _extension().WrappersMP
        if not hasattr(wrappers, "PREDICT_NOISE"):
            raise RuntimeError("c4d needs a ComfyUI that has the wrapper PREDICT_NOISE, of September 2025 or newer")
        if model.get_wrappers(wrappers.OUTER_SAMPLE, KEY):
            raise ValueError(
                "this model comes from another node of c4d, and of two caches one would forecast what the other has "
                "forecast: take one of the two out"
            )
        clone = model.clone()
        clone.add_wrapper_with_key(wrappers.OUTER_SAMPLE, KEY, self.sample)
        return clone

    def sample(
        self, executor: Any, noise: Any, latent_image: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Around a whole sampling at ``sigmas`` [N + 1]; ``executor.class_obj`` is the guider."""
        go_on = partial(executor, noise, latent_image, sampler, sigmas, *args, **kwargs)
        if len(sigmas) < 2:  # no step
            return go_on()
        guider = executor.class_obj
        prediction = prediction_of(guider.model_patcher.get_model_object("model_sampling"))
        method, why = self._of_run(prediction, sampler)
        check_profile(method, prediction)
        steps = SamplerSteps(sigmas.tolist(), prediction)
        sampling = Sampling(method, steps, type(guider.model_patcher.model).__name__)
        sampling.session.chosen = why
        before = guider.model_options
        guider.model_options = _wrapped(before, sampling)
        try:
            with sampling.session:
                out = go_on()
        finally:
            guider.model_options = before
        self.report = sampling.session.report()
        logger.info("%s", self.report)
        return out

    def _of_run(self, prediction: str | None, sampler: Any) -> tuple[CacheMethod, str | None]:
        """The method, and why it is that one if nobody said which."""
        if self._method is not None:
            return self._method, doubt(self._method, ENGINE)
        name = getattr(getattr(sampler, "sampler_function", None), "__name__", type(sampler).__name__)
        if prediction != "flow" or name not in MEASURED:
            with_what = f"{name.removeprefix('sample_')} on a model that predicts {prediction or 'something else'}"
            return parse(ALL), f"no cache: the universal profile was not measured with {with_what}; {BETTER}"
        why = f"the universal profile, made on other, small models; {BETTER}"
        return parse(f"profile:universal,quality={self._quality}"), why


def _refuse_others(options: Mapping[str, Any]) -> None:
    """Raises RuntimeError for what the ``options`` of a run under way say is at work on the same model."""
    if OTHERS in options.get("transformer_options", {}):
        raise RuntimeError(
            "this model has ComfyUI's EasyCache or LazyCache too, and of two caches one would forecast what the other "
            "has forecast: take one of the two nodes out"
        )
    if "multigpu_clones" in options:
        raise RuntimeError(
            "this model is divided over several devices (MultiGPU), whose forwards c4d cannot tell apart: take one of "
            "the two nodes out"
        )


def _wrapped(options: Mapping[str, Any], sampling: Sampling) -> dict[str, Any]:
    """The options of a run, with the wrappers of ``sampling``; those that were given stay as they are."""
    extension, given = _extension(), options.get("transformer_options", {})
    own = {**given, "wrappers": extension.copy_nested_dicts(given.get("wrappers", {}))}
    extension.add_wrapper_with_key(extension.WrappersMP.PREDICT_NOISE, KEY, sampling.evaluate, own)
    extension.add_wrapper_with_key(extension.WrappersMP.DIFFUSION_MODEL, KEY, sampling.forward, own)
    return {**options, "transformer_options": own}


def _extension() -> Any:
    with importing("comfy", "these nodes run inside ComfyUI"):
        from comfy import patcher_extension
    return patcher_extension
