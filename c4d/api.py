"""The public entries: ``c4d.accelerate`` for all of it, ``cached``, ``attention`` and ``sharded`` for its parts."""

from __future__ import annotations

import logging
import reprlib
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from c4d.backends import Backend, UnsupportedError, select
from c4d.backends.kernels import KEYS, NONE, Call, choose, name_of, names
from c4d.causal.patch import CausalPatch, causal_of
from c4d.causal.rollout import Rollout, config_of
from c4d.core.attention import Attend
from c4d.core.caching.profile import ProfileError, mismatch
from c4d.core.caching.rules import CacheMethod
from c4d.core.integration.attach import session_of
from c4d.core.integration.hooks import at_work
from c4d.core.integration.offload import divided_over
from c4d.core.integration.processor_patch import AttentionSession
from c4d.core.integration.transformers import signature, transformers_of
from c4d.core.runtime.acceleration import Acceleration
from c4d.core.runtime.acceleration import enabled as enabled_on
from c4d.core.runtime.choice import ALL, AUTO, choose_method
from c4d.core.runtime.history import HistoryConfig
from c4d.core.runtime.session import TRACED_RUNS, Session
from c4d.core.runtime.steps import NoClock, SchedulerTracker, StepTracker
from c4d.core.spec import ModelSpec
from c4d.core.text.grammar import parse
from c4d.core.types import FeatureForecaster
from c4d.memory_modes.encoders import encode_all
from c4d.memory_modes.text import parse_memory
from c4d.models import made_for_another, spec_for
from c4d.parallel import SequenceParallel
from c4d.parallel.attention import Kernels
from c4d.parallel.degrees import Degrees
from c4d.parallel.groups import make
from c4d.parallel.session import Parallel, partial_kernels
from c4d.parallel.start import start
from c4d.parallel.watch import of_request

if TYPE_CHECKING:
    from c4d.plan.budget import Choice

logger = logging.getLogger("c4d")


def cached(
    model: Any,
    method: CacheMethod | str = AUTO,
    *,
    quality: str = "balanced",
    scheduler: Any = None,
    spec: ModelSpec | None = None,
    backend: Backend | str = "auto",
    history_dtype: torch.dtype | None = None,
    history_on: str = "device",
    traced_runs: int | None = TRACED_RUNS,
    ranks: Parallel | None = None,
) -> Session:
    """Caches ``model`` with ``method`` inside a ``with`` block; outside it the model is exactly what it was.

    The short form of :func:`accelerate` for caching alone. Where :func:`sharded` is at work on the model, all ranks
    take the same decisions.

    Args:
        model: a diffusers pipeline (all of its transformers are attached, its scheduler is followed), a list of several
            over the same transformers (each with its own scheduler or not), or a bare transformer, which then needs
            ``scheduler`` or ``session.begin(timesteps)``. One that c4d has no description of (any module that is called
            once a step and branch, a U-Net too) can be cached at its output.
        method: a :class:`CacheMethod` from ``c4d.methods``, or its text, such as ``"taylorseer:interval=5,order=1"``.
            ``"auto"`` takes a profile of this model if there is one, else the universal one, else nothing;
            ``session.chosen`` says what and why.
        quality: of ``"auto"``: ``"high"``, ``"balanced"`` or ``"fast"``.
        scheduler: the diffusers scheduler that drives a loop of your own over a bare transformer.
        spec: a description of a transformer that c4d does not know.
        backend: a name from ``c4d doctor`` or an object; ``"auto"`` takes the best one that can run here.
        history_dtype: what stored features are kept in (``None``: as computed); ``torch.int8`` is with an fp32 scale
            for each token, and at most half a scale away from what was computed.
        history_on: ``"device"``, or ``"host"`` to keep stored features in host memory.
        traced_runs: of how many runs, the last ones, ``session.trace`` tells (``None``: of all, without end).
        ranks: what :func:`sharded` gave for this model, if it is entered after this.

    Raises:
        TypeError: no transformer or U-Net at all, one whose forward has no timestep and that no spec describes, or an
            argument of the wrong kind.
        ValueError: a method that is unknown or would hook nothing on this model; an unknown backend or place; a
            ``history_dtype`` that the backend does not compute in, or a method that needs one.
        BackendUnavailableError: a backend asked for by name that cannot run here.
    """
    _check_kinds(
        (method, (str, CacheMethod), "method", "text such as 'fora:interval=3', or a method from c4d.methods"),
        (spec, (ModelSpec, type(None)), "spec", "a c4d.ModelSpec"),
        (backend, (str, Backend), "backend", "a name from c4d doctor"),
        (history_dtype, (torch.dtype, type(None)), "history_dtype", "a torch dtype, such as torch.bfloat16"),
    )
    chosen, storage = select(backend) if isinstance(backend, str) else backend, HistoryConfig(history_dtype, history_on)
    if history_dtype is not None and not storage.scaled and history_dtype not in chosen.dtypes:
        able = names(chosen.dtypes)
        raise UnsupportedError(
            f"history_dtype is {history_dtype}; backend {chosen.name!r} computes in {able}, and keeps int8 with scales"
        )
    pipelines = list(model) if isinstance(model, list | tuple) else [model]
    transformers = _shared_by(pipelines)
    made, why = _made(method, transformers, scheduler or getattr(pipelines[0], "scheduler", None), quality)
    wide = [rule.forecast for rule in made.rules if isinstance(rule.forecast, FeatureForecaster)]
    if torch.float64 not in chosen.dtypes and any(forecast.needs_double for forecast in wide):
        raise UnsupportedError(
            f"{made.name} adds up in torch.float64, which backend {chosen.name!r} does not compute in"
        )
    if traced_runs is not None and (isinstance(traced_runs, bool) or traced_runs < 1):
        raise ValueError(f"traced_runs must be a whole number of at least 1, or None for all, got {traced_runs!r}")
    together = ranks if ranks is not None else at_work(transformers[0], Parallel)
    if together is None and any(map(divided_over, transformers)):
        raise ValueError(
            "the weights of this transformer are divided over ranks, which have to run the same blocks in every step: "
            "enter c4d.sharded before c4d.cached, or give both to c4d.accelerate(…, cache=…, parallel=…)"
        )
    described = [(transformer, spec or spec_for(transformer)) for transformer in transformers]
    if doubt := made_for_another(made.name, described[0][1]):
        warnings.warn(doubt, RuntimeWarning, stacklevel=2)
    followed: list[tuple[Any, SchedulerTracker]] = []
    if isinstance(pipelines[0], nn.Module):
        clock: StepTracker = NoClock() if scheduler is None else SchedulerTracker(lambda: scheduler)
    else:
        followed = [(pipe, _clock_of(pipe, scheduler, len(transformers))) for pipe in pipelines]
        clock = followed[0][1] if len(followed) == 1 else NoClock()
    session = Session(
        described,
        made,
        clock=clock,
        backend=chosen,
        storage=storage,
        ranks=together,
        pipelines=followed,
        traced_runs=traced_runs,
    )
    if why is not None:
        session.chosen = why
        logger.info("%s", why)
    return session


def attention(
    model: Any, kernel: str = "auto", *, backend: Backend | str = "auto", spec: ModelSpec | None = None
) -> AttentionSession:
    """Computes the attention of ``model`` with a backend's kernel inside a ``with`` block; around or inside ``cached``.

    Norms and rotary embeddings go through the backend's primitives too, and text that a mask pads is sliced away where
    that is exact. On exit every attention has the very processor that it had before.

    Args:
        model: a diffusers pipeline (all of its transformers), or a bare transformer.
        kernel: a name from the backend's ``attention_kernels``, or ``"auto"``: the first exact one that takes the
            model, with attentions whose processor is not the stock one left alone (``lines()`` says which).
        backend, spec: as in :func:`cached`.

    Raises:
        TypeError: as :func:`cached`.
        ValueError: an unknown kernel; one that cannot take the model's head size or dtype (``UnsupportedError`` names
            the limit; a mask is met at the first forward that has one); one by name that would not run in every
            attention.
        RuntimeError: a transformer that is compiled as a whole.
        BackendUnavailableError: a backend asked for by name that cannot run here.
    """
    _check_kinds(
        (kernel, (str,), "kernel", "the name of an attention kernel, or 'auto'"),
        (spec, (ModelSpec, type(None)), "spec", "a c4d.ModelSpec"),
        (backend, (str, Backend), "backend", "a name from c4d doctor"),
    )
    chosen = select(backend) if isinstance(backend, str) else backend
    kernels = chosen.attention_kernels

    def resolve(dtype: torch.dtype, heads: int, head_size: int, masked: bool) -> tuple[str, Attend]:
        found = choose(kernels, Call(dtype, head_size, KEYS if masked else NONE, heads=heads), kernel)
        name = name_of(kernels, found)

        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            out = found.run(q, k, v, mask, None, False, False)[0]
            if out.shape != q.shape or out.dtype != q.dtype:  # broadcast, it would go on as nonsense
                raise RuntimeError(
                    f"attention kernel {name!r} of backend {chosen.name!r} gave {list(out.shape)} of {out.dtype} for "
                    f"queries {list(q.shape)} of {q.dtype}"
                )
            return out

        return f"{name} (lossy)" if found.lossy else name, attend

    transformers = {name: (module, spec or spec_for(module)) for name, module in _transformers_of(model).items()}
    return AttentionSession(transformers, kernel, chosen, resolve)


def sharded(
    model: Any,
    how: SequenceParallel | None = None,
    *,
    branches: int = 1,
    kernel: str = "auto",
    backend: Backend | str = "auto",
    spec: ModelSpec | None = None,
) -> Parallel:
    """Spreads every forward of ``model`` over the ranks of a job inside a ``with`` block; each gets the whole result.

    All ranks call it, and the pipeline, with the same arguments. Caching goes inside it
    (``with c4d.sharded(pipe), c4d.cached(pipe, method): …``), or into the same :func:`accelerate`.

    Args:
        how: the degrees; what it leaves open is chosen (:class:`SequenceParallel`).
        branches: 2 if every step calls the model for two branches of guidance.
        model, kernel, backend, spec: as in :func:`attention`.

    Raises:
        ValueError: degrees that do not fit, with those that do; a model whose spec does not say how it is spread; an
            attention whose processor is not the stock one; as :func:`attention`.
        RuntimeError: a process that no launcher started (``NoLauncherError``); ranks that were given different degrees
            (``DisagreementError``); xfuser asked for by name where it cannot make the groups. Inside the block
            ``LostRankError``, at the next forward or in the place of a collective's error: another rank is gone.
    """
    how = SequenceParallel() if how is None else how
    _check_kinds((how, (SequenceParallel,), "how", "a c4d.SequenceParallel"))
    chosen = select(backend) if isinstance(backend, str) else backend
    session = attention(model, kernel, backend=chosen, spec=spec)
    if lacking := [fitting.spec.transformer for fitting in session.fittings if not fitting.heads_of]:
        raise ValueError(
            f"{lacking[0]} has no attention to spread over ranks: its spec names none, Stack(attention=…), or its "
            "processors are not the stock ones"
        )
    job = start(chosen, how.timeout)
    degrees = how.degrees(job.world, node=job.node, heads=session.heads, branches=branches)
    for fitting in session.fittings:
        if (refusal := degrees.refusal(divided_over(fitting.transformer))) is not None:
            raise ValueError(refusal)
    passed_on = partial_kernels(session, chosen, kernel, degrees)
    pipeline = None if isinstance(model, nn.Module) else model
    scheduler = getattr(pipeline, "scheduler", None)
    if degrees.cfg > 1 and scheduler is not None and not hasattr(scheduler, "step_index"):
        raise ValueError(
            "cfg=2 needs a scheduler that tells its step (step_index), to know which calls belong together; "
            f"{type(scheduler).__name__} does not: use cfg=1"
        )
    join = partial(make, how, degrees, job.rank, chosen)
    more: dict[str, Any] = {"watched": partial(of_request, timeout=how.timeout)} if how.watch else {}
    return Parallel(session, join, chosen.ungroup, Kernels.of(chosen, kernel), pipeline, how.jointly, passed_on, **more)


def memory(pipe: Any, mode: str, *, backend: Backend | str = "auto") -> None:
    """Has ``pipe`` take less of the device's memory from now on, by ``mode``: where its weights are, or what they are.

    Like ``pipe.to(device)`` it stays; for another mode load the pipeline anew. Caching and attention go around or
    inside it. A mode that does not say where weights are (``float8``, ``tiled``) leaves them where they are.

    Args:
        pipe: a diffusers pipeline, its weights on the host or the device.
        mode: one of ``full``, ``components``, ``groups``, ``sequential``, ``divided`` (over ranks), or ``float8``,
            ``int8``, ``tiled``, ``sliced``, or several, such as ``"groups:blocks=2+float8+tiled"`` (docs/memory.md).
        backend: as in :func:`cached`.

    Raises:
        TypeError: ``pipe`` is no pipeline.
        ValueError: a mode that is unknown, given twice, or does not go with another; one that this pipeline or device
            cannot do (``UnsupportedError`` says why, and what to take instead).
        BackendUnavailableError: a backend asked for by name that cannot run here.
    """
    _check_kinds(
        (mode, (str,), "mode", "text such as 'groups+tiled'"),
        (backend, (str, Backend), "backend", "a name from c4d doctor"),
    )
    if not isinstance(getattr(pipe, "components", None), dict):
        raise TypeError(f"{type(pipe).__name__} is no diffusers pipeline, whose components a memory mode is about")
    parse_memory(mode).apply(pipe, select(backend) if isinstance(backend, str) else backend)


def rollout(
    pipe: Any,
    *,
    kernel: str = "auto",
    backend: Backend | str = "auto",
    spec: ModelSpec | None = None,
    kv_dtype: torch.dtype | None = None,
    kv_on: str = "device",
    **settings: Any,
) -> Rollout:
    """A video pipeline whose clips are made block by block, over a cache of keys and values, and read as they are made.

    ``for frames in c4d.rollout(pipe)("a prompt", seconds=5): …`` gives blocks of pixels [B, T, 3, H, W] in [0, 1]. The
    model has to be one that was distilled for it, such as those of Self-Forcing (arXiv 2506.08009); any other one runs,
    and was never taught what a frame looks like that cannot see those after it. :func:`cached` and :func:`sharded`
    (with Ulysses) go around it.

    Args:
        pipe: a text-to-video pipeline with a transformer that is described for it (Wan, SkyReels-V2) and Wan's VAE.
        kernel, backend, spec: as in :func:`attention`.
        kv_dtype: what keys and values are kept in (None: as computed); kv_on: ``"device"``, or ``"host"``.
        settings: what differs from what ``rollout.json`` in the pipeline's folder says, or else from Self-Forcing's:
            ``block``, ``alone``, ``window``, ``sink``, ``steps``, ``shift``, ``guidance``, ``context_noise``, ``fps``,
            ``height``, ``width``, ``text`` (:class:`c4d.causal.rollout.RolloutConfig`).

    Raises:
        ValueError: a model or VAE that is not described for it; a setting that is unknown or out of range.
        BackendUnavailableError: a backend asked for by name that cannot run here.
    """
    transformer: Any = getattr(pipe, "transformer", None)
    if not isinstance(transformer, nn.Module):
        raise TypeError(f"{type(pipe).__name__} is no pipeline with a transformer, which is what rolls out")
    described, chosen = spec or spec_for(transformer), select(backend) if isinstance(backend, str) else backend
    causal_of(described)
    enter = partial(attention, transformer, kernel, backend=chosen, spec=described)
    config = config_of(pipe).changed(**settings)
    return Rollout(pipe, config, partial(CausalPatch, transformer, described, enter), kv_dtype=kv_dtype, kv_on=kv_on)


def encode_prompts(
    pipe: Any, calls: Sequence[Mapping[str, Any]], *, memory: str | None = None, backend: Backend | str = "auto"
) -> None:
    """Has the text encoders of ``pipe`` run once for all ``calls``, and gives them back: they are no part of it then.

    Each call goes through the pipeline's own code up to its denoising loop (what it makes of given pictures before, it
    makes again later). What its ``encode_prompt`` returned is kept on the host. From then on ``pipe`` takes these
    calls, any number of times, and others of the same text; steps, sizes and seeds are free. The results are those of
    the pipeline as it was, bit for bit. A text encoder that is held elsewhere too goes to the host.

    Args:
        pipe: a diffusers pipeline with an ``encode_prompt``.
        calls: keyword arguments of ``pipe(…)``: the prompt, and whatever its text depends on.
        memory: a mode as :func:`memory` takes it, into which the pipeline goes. With ``full`` the transformers come to
            the device when the text encoders have left it. None: everything is where it is to be.
        backend: as in :func:`cached`.

    Raises:
        TypeError: ``pipe`` is no pipeline.
        UnsupportedError: a pipeline without ``encode_prompt`` or text encoders, one whose encoders were given back
            already, or a memory mode that cannot be (then nothing is changed).
        ValueError: an unknown memory mode. Later, of the pipeline: a call whose text was not encoded.
    """
    _check_kinds(
        (memory, (str, type(None)), "memory", "text such as 'groups+tiled'"),
        (backend, (str, Backend), "backend", "a name from c4d doctor"),
    )
    if not isinstance(getattr(pipe, "components", None), dict):
        raise TypeError(f"{type(pipe).__name__} is no diffusers pipeline, whose text encoders could be given back")
    if not isinstance(calls, Sequence) or not all(isinstance(call, Mapping) for call in calls):
        raise TypeError("calls is a list of what the pipeline will be called with, such as [{'prompt': 'a cat'}]")
    mode = None if memory is None else parse_memory(memory)
    encode_all(pipe, calls, backend=select(backend) if isinstance(backend, str) else backend, memory=mode)


def budget(
    pipe: Any,
    cache: CacheMethod | str | None = None,
    *,
    device_memory: int | str | None = None,
    cache_memory: int | str | None = None,
    memory: str | None = None,
    history_dtype: torch.dtype | None = None,
    history_on: str | None = None,
    quality: str = "balanced",
    parallel: SequenceParallel | None = None,
    backend: Backend | str = "auto",
    **call: Any,
) -> Choice:
    """Chooses a memory mode, and where histories go, so that ``pipe(**call)`` fits into so many bytes of a device.

    Weights and histories are known to the byte, the rest is estimated with a margin; nothing runs but the pipeline's
    own code, on zeros (docs/memory.md). ``c4d.memory(pipe, choice.memory)`` and ``c4d.cached(pipe, cache,
    **choice.history)`` do what was chosen, and ``print(choice)`` says why.

    Args:
        pipe: a diffusers pipeline, where no memory mode is at work yet.
        cache: a method, or ``"auto"``, as in :func:`cached`; None caches nothing.
        device_memory: bytes, or text such as ``"24GiB"``, for weights, histories and what is computed with. The first
            that fits is taken of ``full``, ``components``, ``groups`` and ``sequential``, with histories on the device
            or the host; ``tiled`` where decoding alone is too much; the same with ``float8`` at last.
        cache_memory: the same for the histories and signals that are on the device.
        memory, history_dtype, history_on: what is chosen already; the budget then only refuses.
        quality: of ``"auto"``.
        parallel: how ranks share a request; what it leaves open counts as 1.
        backend: as in :func:`cached`.
        call: what the pipeline will be called with.

    Raises:
        ValueError: a size that is none; nothing fits (with the numbers), or a pipeline that cannot be planned.
        TypeError: ``pipe`` is no pipeline.
        BackendUnavailableError: a backend asked for by name that cannot run here.
    """
    from c4d.plan.budget import Given, Limits, Needs, choose  # for a budget alone
    from c4d.plan.sizes import parse_size

    if not isinstance(getattr(pipe, "components", None), dict):
        raise TypeError(f"{type(pipe).__name__} is no diffusers pipeline, whose request a budget is about")
    sizes = [parse_size(str(size)) if size is not None else None for size in (device_memory, cache_memory)]
    if sizes == [None, None]:
        raise ValueError("no budget: give device_memory= or cache_memory=, such as '24GiB'")
    if memory is not None:
        parse_memory(memory)
    method = None
    if cache is not None:
        transformers = list(_transformers_of(pipe).values())
        method, _ = _made(cache, transformers, getattr(pipe, "scheduler", None), quality)
    how = parallel or SequenceParallel()
    degrees = Degrees(how.ulysses or 1, how.ring or 1, how.cfg or 1)
    chosen = select(backend) if isinstance(backend, str) else backend
    needs = Needs(pipe, call, method, backend=chosen, degrees=degrees)
    return choose(needs, Limits(*sizes), Given(memory, history_dtype, history_on))


_kernels = attention  # accelerate has an argument of that name


def accelerate(
    model: Any,
    *,
    cache: CacheMethod | str | None = None,
    attention: str | None = None,
    parallel: SequenceParallel | None = None,
    branches: int = 1,
    scheduler: Any = None,
    quality: str = "balanced",
    spec: ModelSpec | None = None,
    backend: Backend | str = "auto",
    history_dtype: torch.dtype | None = None,
    history_on: str = "device",
    traced_runs: int | None = TRACED_RUNS,
) -> Acceleration:
    """Caching, a backend's attention and several ranks on ``model`` inside one ``with`` block, each if it is asked for.

    Args:
        model: as in :func:`cached`; with ``attention`` or ``parallel`` one pipeline, or a bare transformer.
        cache: a method, or ``"auto"``, as in :func:`cached`; None caches nothing.
        attention: the kernel, as in :func:`attention`; None leaves the model's own, or lets ``parallel`` choose.
        parallel: how the ranks of a job share each forward, as in :func:`sharded`; None uses this rank alone.
        branches: with ``parallel``, 2 if every step calls the model for two branches of guidance.
        quality, scheduler, spec, backend, history_dtype, history_on, traced_runs: as in :func:`cached`.

    Raises:
        ValueError: nothing was asked for; and as the parts do, which say what they raise.
    """
    if cache is None and attention is None and parallel is None:
        raise ValueError("nothing to accelerate with: give cache=, attention= or parallel=")
    chosen = select(backend) if isinstance(backend, str) else backend
    ranks = kernels = None
    if parallel is not None:
        ranks = sharded(model, parallel, branches=branches, kernel=attention or "auto", backend=chosen, spec=spec)
    elif attention is not None:
        kernels = _kernels(model, attention, backend=chosen, spec=spec)
    session = None
    if cache is not None:
        kept: dict[str, Any] = {
            "quality": quality,
            "history_dtype": history_dtype,
            "history_on": history_on,
            "traced_runs": traced_runs,
        }
        try:
            session = cached(model, cache, scheduler=scheduler, spec=spec, backend=chosen, ranks=ranks, **kept)
        except BaseException:
            for part in filter(None, (ranks, kernels)):
                part.unused = None  # the error says why it was not entered
            raise
    first = model[0] if isinstance(model, list | tuple) and model else model
    return Acceleration(list(_transformers_of(first).values()), ranks=ranks, attention=kernels, cache=session)


def enable(model: Any, **how: Any) -> Acceleration:
    """:func:`accelerate` without a ``with`` block: at work from now to ``disable()``, its own or :func:`disable`.

    Takes the arguments of :func:`accelerate` and raises what it raises, and RuntimeError if ``model`` is at work with
    another.
    """
    return accelerate(model, **how).__enter__()


def disable(model: Any) -> None:
    """Ends what :func:`enable` (or :func:`accelerate`) began on ``model``, which then is what it was before.

    Raises:
        RuntimeError: nothing was begun on it by either.
    """
    transformers = transformers_of(model).values()
    found = {id(each): each for module in transformers if (each := enabled_on(module)) is not None}
    if not found:
        inside = " It is in a with block of c4d.cached, which ends it." if any(map(session_of, transformers)) else ""
        raise RuntimeError(f"c4d.enable is not at work on this {type(model).__name__}.{inside}")
    for each in found.values():
        each.disable()


def _check_kinds(*arguments: tuple[Any, tuple[type, ...], str, str]) -> None:
    for value, kinds, name, wanted in arguments:
        if not isinstance(value, kinds):
            raise TypeError(f"{name} is {' '.join(reprlib.repr(value).split())}; give {wanted}")


def _made(
    method: CacheMethod | str, transformers: list[nn.Module], scheduler: Any, quality: str
) -> tuple[CacheMethod, str | None]:
    """The method, and why it is that one, if nobody said which; raises ProfileError for a profile of another model."""
    if method == AUTO:
        choice = choose_method(transformers, scheduler, quality)
        return choice.method or parse(ALL), choice.why
    made = parse(method) if isinstance(method, str) else method
    for rule in made.rules:
        made_for = rule.policy.calibrated_for
        if made_for is not None and (wrong := mismatch(made_for, signature(transformers[0]))):
            raise ProfileError(
                f"{made.name}: {wrong}; make one for it (c4d tune; c4d calibrate for a published method)"
            )
    return made, None


def _clock_of(pipeline: Any, scheduler: Any, experts: int) -> SchedulerTracker:
    """Follows ``scheduler``, or whichever the pipeline has."""
    return SchedulerTracker(
        lambda: pipeline.scheduler if scheduler is None else scheduler,
        lambda: getattr(pipeline.config, "boundary_ratio", None) if experts > 1 else None,
    )


def _shared_by(models: list[Any]) -> list[nn.Module]:
    """The transformers that all ``models`` have in common; raises unless those are all that they have."""
    if not models:
        raise TypeError("no model to cache: give a pipeline, or several over the same transformers")
    first = list(_transformers_of(models[0]).values())
    for other in models[1:]:
        theirs = list(_transformers_of(other).values())
        if isinstance(other, nn.Module) or [id(m) for m in theirs] != [id(m) for m in first]:
            raise ValueError(
                f"{type(other).__name__} does not have the transformers of {type(models[0]).__name__}: one c4d.cached "
                "is for pipelines that share theirs; open another for this one"
            )
    return first


def _transformers_of(model: Any) -> dict[str, nn.Module]:
    """By their name in the pipeline; high-noise expert first, as the pipelines name them."""
    modules = transformers_of(model)
    owner = "this transformer" if isinstance(model, nn.Module) else f"a transformer of this {type(model).__name__}"
    if not modules:
        raise TypeError(
            f"{type(model).__name__} has no transformer and no U-Net: give a diffusers pipeline with one, or the "
            "module that its loop calls once a step"
        )
    if any(hasattr(module, "_orig_mod") for module in modules.values()):
        raise TypeError(
            f"{owner} is compiled as a whole (torch.compile): use the original and compile its blocks instead, "
            "transformer.compile_repeated_blocks(fullgraph=True)"
        )
    return modules
