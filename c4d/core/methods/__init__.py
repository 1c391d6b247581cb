"""The published methods, one paper a file: each is a function from its paper's parameters to a ``CacheMethod``."""

from __future__ import annotations

from collections.abc import Callable

from c4d.core.caching.rules import CacheMethod
from c4d.core.methods.dpcache import dpcache
from c4d.core.methods.easycache import easycache
from c4d.core.methods.fastercache import fastercache
from c4d.core.methods.first_block import first_block
from c4d.core.methods.foca import foca
from c4d.core.methods.fora import fora
from c4d.core.methods.freqca import freqca
from c4d.core.methods.hicache import dmd, hicache
from c4d.core.methods.l2p import l2p
from c4d.core.methods.lemica import lemica
from c4d.core.methods.magcache import magcache
from c4d.core.methods.pab import pab
from c4d.core.methods.published import published
from c4d.core.methods.schedule import schedule
from c4d.core.methods.seacache import seacache
from c4d.core.methods.taylorseer import taylorseer, taylorseer_lite
from c4d.core.methods.teacache import teacache

METHODS: dict[str, Callable[..., CacheMethod]] = {
    "fora": fora,
    "taylorseer": taylorseer,
    "taylorseer-lite": taylorseer_lite,
    "hicache": hicache,
    "foca": foca,
    "freqca": freqca,
    "dmd": dmd,
    "pab": pab,
    "fastercache": fastercache,
    "teacache": teacache,
    "magcache": magcache,
    "easycache": easycache,
    "first-block": first_block,
    "seacache": seacache,
    "schedule": schedule,
    "lemica": lemica,
    "dpcache": dpcache,
    "l2p": l2p,
}

__all__ = [
    "METHODS",
    "dmd",
    "dpcache",
    "easycache",
    "fastercache",
    "first_block",
    "foca",
    "fora",
    "freqca",
    "hicache",
    "l2p",
    "lemica",
    "magcache",
    "pab",
    "published",
    "schedule",
    "seacache",
    "taylorseer",
    "taylorseer_lite",
    "teacache",
]
