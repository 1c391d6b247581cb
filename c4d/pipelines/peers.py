"""The caches of other libraries, by the calls of their documentation, each at work inside a ``with`` block alone.

A peer is fresh in every block: what it remembers of one run never reaches the next one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from c4d.core.integration.attach import other_cache, session_of
from c4d.core.integration.transformers import transformers_of


@dataclass(frozen=True)
class Peer:
    """One setting of another library's cache: ``call(pipe, **settings)`` is at work inside its block.

    ``library`` is the name that pip knows it by.
    """

    library: str
    method: str
    call: Callable[..., AbstractContextManager[None]]
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.library} {self.method}"

    @property
    def version(self) -> str | None:
        """Of the library; None if it is not installed."""
        try:
            return version(self.library)
        except PackageNotFoundError:
            return None

    @contextmanager
    def at_work(self, pipe: Any) -> Iterator[None]:
        """The pipeline with this cache; afterwards, also after an error, it is what it was.

        Raises RuntimeError if a cache is at work on it, c4d's or another one. Raises whatever the library raises where
        it does not know the model.
        """
        for name, transformer in transformers_of(pipe).items():
            other, end = other_cache(transformer) or ("c4d", "leave its session, or c4d.disable(pipe)")
            if session_of(transformer) is not None or other != "c4d":
                raise RuntimeError(f"{self.name}: {other} is at work on the {name} already; first {end}")
        with restored(pipe), self.call(pipe, **self.settings):
            yield


@contextmanager
def restored(model: Any) -> Iterator[None]:
    """What hangs on a pipeline (or a bare transformer), on its class, and on its transformers' modules is afterwards
    what hung there before: forwards, methods and marks that a library leaves behind go.

    The order of the modules, too: cache-dit exchanges the lists of blocks in each forward, which puts them last, and
    diffusers' hooks take the first block for the leader.
    """
    modules = [module for transformer in transformers_of(model).values() for module in transformer.modules()]
    children = [dict(module._modules) for module in modules]
    before = [(owner, dict(vars(owner))) for owner in (type(model), model, *modules)]
    try:
        yield
    finally:
        for owner, own in before:
            put, drop = (setattr, delattr) if isinstance(owner, type) else (object.__setattr__, object.__delattr__)
            for name in vars(owner).keys() - own.keys():
                drop(owner, name)
            for name, value in own.items():
                if vars(owner).get(name) is not value:
                    put(owner, name, value)
        for module, held in zip(modules, children, strict=True):
            if list(module._modules.items()) != list(held.items()):
                module._modules.clear()
                module._modules.update(held)


# -- diffusers


@contextmanager
def hooks(transformer: Any, config: Any) -> Iterator[Callable[[], None]]:
    """diffusers' own hooks; ``config`` is one of its cache configs. Yields the reset that goes before another run."""
    if not hasattr(transformer, "enable_cache"):
        raise ValueError(f"diffusers has no cache for {type(transformer).__name__}")
    if transformer.is_cache_enabled:
        raise ValueError("a cache of diffusers is at work already; first transformer.disable_cache()")
    try:
        transformer.enable_cache(config)
        yield transformer._reset_stateful_cache
    finally:
        transformer._cache_config = config  # is set last, so that after an error hooks may be there without it
        transformer.disable_cache()


@contextmanager
def hooked(pipe: Any, config: str, **settings: Any) -> Iterator[None]:
    """``config`` of diffusers, made for each transformer; one that asks for the timestep gets the pipeline's."""
    import diffusers

    kind = getattr(diffusers, config)
    if any(each.name == "current_timestep_callback" for each in fields(kind)):
        settings = {**settings, "current_timestep_callback": lambda: pipe.current_timestep}
    with ExitStack() as stack:
        for transformer in transformers_of(pipe).values():
            stack.enter_context(hooks(transformer, kind(**settings)))
        yield


def taylorseer(interval: int, order: int, warmup: int = 3, lite: bool = False) -> dict[str, Any]:
    """Fields of diffusers' TaylorSeerCacheConfig, with factors in float32 (the default is bfloat16).

    The modules are attention and MLP of the blocks by their names in all of diffusers' models: the default's patterns
    match none of Wan, and nowhere an MLP. ``lite`` forecasts the transformer's output alone.
    """
    modules = r"(.+\.)?\w*blocks\.\d+\.(attn\d*|ff|ffn|ff_context|mlp|img_mlp|txt_mlp|proj_mlp)"
    return {
        "cache_interval": interval,
        "disable_cache_before_step": warmup,
        "max_order": order,
        "taylor_factors_dtype": torch.float32,
        **({"use_lite_mode": True} if lite else {"cache_identifiers": [modules]}),
    }


# -- cache-dit


@contextmanager
def dbcache(target: Any, owner: Any, calibrator: str | None = None, **config: Any) -> Iterator[None]:
    """cache-dit's DBCache on ``target``: a pipeline, or its BlockAdapter of ``owner``, which it leaves afterwards.

    Args:
        calibrator: None, or "TaylorSeer N" (of that order), "DMD", "FoCa".
        config: fields of its DBCacheConfig.
    """
    os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "ERROR")  # read when it is imported; below, it tells of every call
    import cache_dit

    extra = {}
    if calibrator is not None:
        kind, _, order = calibrator.partition(" ")
        made = {"taylorseer_order": int(order)} if order else {}
        extra["calibrator_config"] = getattr(cache_dit, f"{kind}CalibratorConfig")(**made)
    try:
        cache_dit.enable_cache(target, cache_config=cache_dit.DBCacheConfig(**config), **extra)
        yield
    finally:
        cache_dit.disable_cache(owner)


@contextmanager
def registered(pipe: Any, **settings: Any) -> Iterator[None]:
    """DBCache on a pipeline that cache-dit knows.

    Whether a step has one forward or two it takes from the pipeline's class, and would count an unguided run's steps
    in pairs; a pipeline that has run says whether it is guided.
    """
    if not getattr(pipe, "do_classifier_free_guidance", True):
        settings = {**settings, "enable_separate_cfg": False}
    with dbcache(pipe, pipe, **settings):
        yield


F1B0 = {"Fn_compute_blocks": 1, "Bn_compute_blocks": 0, "max_warmup_steps": 4}

PEERS: tuple[Peer, ...] = (
    *(
        Peer("diffusers", f"FirstBlock threshold={t}", hooked, {"config": "FirstBlockCacheConfig", "threshold": t})
        for t in (0.08, 0.16, 0.3)
    ),
    *(
        Peer(
            "diffusers",
            f"TaylorSeer{' lite' if lite else ''} order=1,interval={n}",
            hooked,
            {"config": "TaylorSeerCacheConfig", **taylorseer(n, 1, lite=lite)},
        )
        for lite in (True, False)
        for n in (3, 5)
    ),
    *(
        Peer(
            "diffusers",
            f"SeaCache threshold=1.0,max_consecutive={n}",
            hooked,
            {"config": "SeaCacheConfig", "threshold": 1.0, "max_consecutive_cached": n},
        )
        for n in (1, 3)
    ),
    Peer(
        "diffusers",
        "PyramidAttentionBroadcast spatial=2,cross=4",
        hooked,
        {
            "config": "PyramidAttentionBroadcastConfig",
            "spatial_attention_block_skip_range": 2,
            "cross_attention_block_skip_range": 4,
        },
    ),
    *(
        Peer("cache-dit", f"DBCache F1B0 W4 R={t}", registered, {**F1B0, "residual_diff_threshold": t})
        for t in (0.08, 0.16, 0.3)
    ),
    *(
        Peer(
            "cache-dit",
            f"DBCache F1B0 W4 R={t} + TaylorSeer 1",
            registered,
            {**F1B0, "residual_diff_threshold": t, "calibrator": "TaylorSeer 1"},
        )
        for t in (0.08, 0.16)
    ),
)


def libraries() -> tuple[str, ...]:
    """Those that have peers here."""
    return tuple(dict.fromkeys(peer.library for peer in PEERS))


def peers_of(names: Iterable[str]) -> list[Peer]:
    """The peers of the libraries ``names``, installed or not."""
    wanted = set(names)
    return [peer for peer in PEERS if peer.library in wanted]
