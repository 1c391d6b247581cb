"""A method at work in SGLang's denoising loop: a session of c4d around what its transformers return.

Around ``build_pipeline``, and ``__init__`` of SGLang's ``DenoisingStage``, it is said at the server's start whether a
pipeline can be cached. Around ``_run_denoising_loop`` there is a session. ``_predict_noise`` is the call of a
transformer for one branch of guidance, and its output is cached. What the session itself hooks is a module of our own
that stands for that call, so that nothing hangs on SGLang's models, compiled, offloaded or captured in graphs as they
may be.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch.distributed as dist

from c4d.backends import select
from c4d.core.caching.rules import CacheMethod
from c4d.core.runtime.choice import AUTO, choose_method
from c4d.core.runtime.report import Report
from c4d.core.runtime.schedulers import prediction_of
from c4d.core.runtime.session import Session
from c4d.core.runtime.steps import RunError, SchedulerTracker
from c4d.core.types import FeatureForecaster
from c4d.models.stand_in import Denoiser, at_output, check_profile, doubt, spec_named

logger = logging.getLogger("c4d")

ENGINE, VERSION = "SGLang", "0.5.23"
WITHOUT = "take it without c4d (no C4D_CACHE)"
DENOISING = ("monolithic", "denoiser")  # the roles of a server in which it has a stage that denoises
# From a request to the call of a transformer: what a stage has to leave to SGLang's DenoisingStage.
WAY = ("forward", "_denoise", "_run_denoising_loop", "_run_denoising_step", "_predict_noise_with_cfg", "_predict_noise")


class Loop:
    """One denoising loop of ``stage`` over what is in ``ctx`` (a ``DenoisingContext``), with ``method``."""

    def __init__(self, method: CacheMethod, stage: Any, ctx: Any) -> None:
        if len(ctx.timesteps) != len(ctx.scheduler.timesteps):
            raise RunError(
                f"this request denoises in {len(ctx.timesteps)} steps, and its {type(ctx.scheduler).__name__} has "
                f"{len(ctx.scheduler.timesteps)}: c4d cannot tell which of them; {WITHOUT}"
            )
        self._branches = ctx.cfg_policy.branches
        experts = [model for model in (stage.transformer, stage.transformer_2) if model is not None]
        self._stand_ins = [(model, Denoiser()) for model in experts]
        self.session = Session(
            [(denoiser, spec_named(type(model).__name__)) for model, denoiser in self._stand_ins],
            method,
            clock=SchedulerTracker(lambda: ctx.scheduler, partial(_boundary, ctx)),
            backend=select("auto"),
        )

    def predict(
        self, model: Any, latents: Any, timestep: Any, given: Mapping[str, Any], call: Callable[[], Any]
    ) -> Any:
        """What ``call`` returns: ``model``, for the branch that is ``given`` this; or its forecast."""
        denoiser: Any = next(denoiser for ours, denoiser in self._stand_ins if ours is model)
        with denoiser.cache_context(self._branch(given)):
            return denoiser(latents, timestep, call)

    def _branch(self, given: Mapping[str, Any]) -> str:
        """The branch of guidance whose arguments these very objects are, by SGLang's name of it."""
        same = [
            branch.name
            for branch in self._branches
            if branch.kwargs.keys() == given.keys() and all(given[name] is x for name, x in branch.kwargs.items())
        ]
        if len(same) != 1:
            raise RunError(
                f"a call of the transformer has the arguments of {len(same)} of the {len(self._branches)} branches of "
                f"guidance, so whose it is cannot be told: the guidance of this model is made in another way; {WITHOUT}"
            )
        return str(same[0])


class Cache:
    """What hangs on every DenoisingStage: a method, by its text or "auto", for every request but those that warm up.

    ``report`` is of the last loop that came to an end, None before. Raises
    :class:`~c4d.core.text.grammar.MethodError` for a text that names no method, or one that is not of a model's output.
    """

    def __init__(self, text: str) -> None:
        self._method = None if text == AUTO else at_output(text, ENGINE)
        self._made = False  # a stage that can be cached
        self._loops: dict[Any, Loop] = {}  # stage -> what is under way there
        self.report: Report | None = None

    def build(self, original: Callable[..., Any], server_args: Any) -> Any:
        """A pipeline is built. Raises RuntimeError for one that denoises without any DenoisingStage."""
        pipeline = original(server_args)
        if not self._made and server_args.disagg_role in DENOISING:
            raise RuntimeError(
                f"{type(pipeline).__name__} denoises without SGLang's DenoisingStage, which is where c4d caches: "
                f"{WITHOUT}"
            )
        return pipeline

    def make(self, original: Callable[..., None], stage: Any, *args: Any, **kwargs: Any) -> None:
        """A stage is made. Raises RuntimeError for one that cannot be cached."""
        _refuse_stage(type(stage))
        if self._method is not None:
            _refuse_ranks(self._method)
        original(stage, *args, **kwargs)
        self._made = True

    def run(
        self, original: Callable[..., Any], stage: Any, ctx: Any, batch: Any, server_args: Any, **kwargs: Any
    ) -> Any:
        """A loop is run. Raises RuntimeError where something else is at work that does not go with a cache."""
        go_on = partial(original, stage, ctx, batch, server_args, **kwargs)
        if ctx.is_warmup:
            return go_on()
        _refuse_others(stage, batch, server_args)
        method, why = self._of_run(ctx)
        if method is None:
            logger.info("%s", why)
            return go_on()
        loop = self._loops[stage] = Loop(method, stage, ctx)
        loop.session.chosen = why
        try:
            with loop.session:
                out = go_on()
        finally:
            del self._loops[stage]
        self.report = loop.session.report()
        if _ranks() == 1 or dist.get_rank() == 0:
            logger.info("%s", self.report)
        return out

    def predict(
        self,
        original: Callable[..., Any],
        stage: Any,
        current_model: Any,
        latent_model_input: Any,
        timestep: Any,
        target_dtype: Any,
        guidance: Any,
        **kwargs: Any,
    ) -> Any:
        """A transformer is called for a branch of guidance, whose own arguments are ``kwargs``."""
        call = partial(original, stage, current_model, latent_model_input, timestep, target_dtype, guidance, **kwargs)
        loop = self._loops.get(stage)
        return call() if loop is None else loop.predict(current_model, latent_model_input, timestep, kwargs, call)

    def _of_run(self, ctx: Any) -> tuple[CacheMethod | None, str | None]:
        """The method, None for none, and why it is that one if nobody said which."""
        if self._method is None:
            choice = choose_method([Denoiser()], ctx.scheduler, "balanced", len(ctx.timesteps))
            return choice.method, choice.why
        check_profile(self._method, prediction_of(ctx.scheduler))
        return self._method, doubt(self._method, ENGINE)


def _boundary(ctx: Any) -> float | None:
    """Where the second transformer begins, as a part of all training timesteps; None where there is no second one."""
    return None if ctx.boundary_timestep is None else ctx.boundary_timestep / ctx.scheduler.config.num_train_timesteps


def _ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _refuse_stage(kind: type) -> None:
    """Raises RuntimeError for a class of stages that denoises in a way of its own."""
    for name in WAY:
        owner = next((cls.__name__ for cls in kind.__mro__ if name in vars(cls)), None)
        if owner is None:
            raise RuntimeError(
                f"{kind.__name__} of this SGLang has no {name}, which c4d follows in {VERSION}: take that version, or "
                f"{WITHOUT}"
            )
        if owner != "DenoisingStage":
            raise RuntimeError(
                f"{kind.__name__} has a {owner}.{name} of its own, so that c4d cannot tell its steps and branches. It "
                "caches where SGLang's DenoisingStage denoises; this model, or this kind of request: "
                f"{WITHOUT}"
            )


def _refuse_ranks(method: CacheMethod) -> None:
    """Raises RuntimeError for a method that looks at tensors of which each of several ranks has another part."""
    looks = method.signals or any(isinstance(rule.forecast, FeatureForecaster) for rule in method.rules)
    if looks and _ranks() > 1:
        raise RuntimeError(
            f"{method.name} goes by what the model is given and returns, of which each of these {_ranks()} ranks may "
            "have another part, and one would compute where another does not: on several ranks use a method that goes "
            "by the steps alone (taylorseer-lite, a profile)"
        )


def _refuse_others(stage: Any, batch: Any, server_args: Any) -> None:
    """Raises RuntimeError for what a request or the server asks for that does not go with a cache of c4d."""
    caches = {
        "cache-dit": stage._cache_dit_enabled,
        "TeaCache": batch.enable_teacache,
        "Spectrum": batch.enable_spectrum,
    }
    if on := [name for name, enabled in caches.items() if enabled]:
        raise RuntimeError(
            f"SGLang's {on[0]} is at work in this request too, and of two caches one would forecast what the other has "
            f"forecast: leave that out of the request and of the server's environment, or {WITHOUT}"
        )
    if batch.rollout:
        raise RuntimeError(
            "this request is a rollout for training, whose log-probabilities have to be of what the model itself "
            f"returns: {WITHOUT}"
        )
    if server_args.comfyui_mode:
        raise RuntimeError(
            f"ComfyUI makes the steps, and SGLang sees one at a time, from which nothing can be forecast: {WITHOUT}"
        )
