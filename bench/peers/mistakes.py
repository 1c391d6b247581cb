"""What the systems make of mistakes: refused, reported, or silent."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

from bench import peers
from bench.peers.rig import FIRST_BLOCK, Attach, Bench, others, own, short


def mistakes() -> list[tuple[str, str, str]]:
    """(what was done, to whom, what happened)."""
    import cache_dit
    import diffusers

    rows = []

    def tried(what: str, who: str, act: Callable[[], str]) -> None:
        try:
            rows.append((what, who, act()))
        except Exception as error:  # the measurement
            rows.append((what, who, f"raises {short(error)}"))

    def misspelt() -> str:
        before, after = cache_dit.DBCacheConfig(), cache_dit.DBCacheConfig().update(residual_diff_treshold=0.5)
        return "accepted, changes nothing" if vars(before) == vars(after) else "takes effect"

    what = "an option's name misspelt (`treshold`)"
    tried(what, "c4d", lambda: _request(own("first-block:treshold=0.15"), []))
    tried(what, "cache-dit, `DBCacheConfig().update(...)`", misspelt)
    tried(what, "diffusers, `FirstBlockCacheConfig(...)`", lambda: str(diffusers.FirstBlockCacheConfig(treshold=0.15)))
    what = "a configuration that fits no module of the model"
    tried(what, "c4d, `fora:interval=3@total`", lambda: _request(own("fora:interval=3@total"), []))
    default = diffusers.TaylorSeerCacheConfig()
    tried(what, "diffusers, `TaylorSeerCacheConfig()`", lambda: _request(lambda m, _: peers.hooks(m, default), []))
    what, said = "a NaN in what is measured", list[str]()
    tried(what, "c4d First-Block", lambda: _request(own(FIRST_BLOCK, said), said, broken=True))
    for name, attach in others().items():
        if "Lite" not in name:  # which measures nothing
            tried(what, name, lambda attach=attach: _request(attach, [], broken=True))
    return rows


def _request(attach: Attach, said: list[str], broken: bool = False) -> str:
    """What a request then runs, and what was said about it, by the system or in ``said`` by its report."""
    usual = set(_heard(attach, [], broken=False)[1]) if broken else set()
    ran, heard = _heard(attach, said, broken)
    heard = [message for message in dict.fromkeys(heard) if message not in usual]
    return f"{ran} run; " + ("; ".join(heard) if heard else "nothing is said")


def _heard(attach: Attach, said: list[str], broken: bool) -> tuple[str, list[str]]:
    bench, listener = Bench(), logging.Handler(logging.WARNING)
    listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    with warnings.catch_warnings(record=True) as caught:
        for logger in loggers:
            logger.addHandler(listener)
        try:
            with attach(bench.model, bench.scheduler) as begin:
                begin()
                bench.request(broken=broken)
        finally:
            for logger in loggers:
                logger.removeHandler(listener)
    return bench.share(), said + [str(warning.message) for warning in caught]
