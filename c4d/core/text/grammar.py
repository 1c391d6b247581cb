"""A method as text: ``name:key=value,...[+part:key=value,...][@site,...]``, everywhere the same.

A ``part`` is a forecaster, which takes the place of the method's own, or a method of guidance, which is added.
``published=NAME`` among a method's options stands for those that its authors use on a model.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from c4d.core.caching.feature_forecasters import DynamicModes, FrequencySplit
from c4d.core.caching.finite_differences import ANCHORS, SMOOTHINGS
from c4d.core.caching.forecasters import FORECASTERS as BY_TIME
from c4d.core.caching.rules import CacheMethod, Rule, remade
from c4d.core.caching.selectors import FRAMES, SCORES
from c4d.core.methods import METHODS, published
from c4d.core.methods.clusca import CORRECTED
from c4d.core.methods.dbcache import SCM_POLICIES
from c4d.core.methods.dicache import ERRORS as PROBED
from c4d.core.methods.magcache import published_curves
from c4d.core.methods.speca import ERRORS, MODES
from c4d.core.methods.teacache import RULES, SIGNALS, published_fits
from c4d.core.registry import Registry
from c4d.core.types import AXES, SITES

FORECASTERS: dict[str, Callable[..., Any]] = {**BY_TIME, "bands": FrequencySplit, "dmd": DynamicModes}
PUBLISHED = "published"


class MethodError(ValueError):
    """A text that names no method; the message says what is known."""


def parse(text: str) -> CacheMethod:
    """The method that ``text`` describes.

    Several numbers in one value are separated by ``/``. Raises :class:`MethodError` for anything unknown, missing,
    repeated or out of range; nothing is ignored.
    """
    try:
        return replace(_compose(text), name=text.strip())
    except ValueError as error:
        name = re.split(r"[:+@]", text, maxsplit=1)[0].strip()
        more = f"c4d methods {name} explains it" if name in METHODS else "c4d methods lists them all"
        raise MethodError(f"method {text!r}: {error} ({more})") from error


def describe(make: Callable[..., Any]) -> str:
    """``key=type`` or ``key=default`` of every parameter, as the grammar takes them."""
    parameters = inspect.signature(make).parameters.values()
    required = [f"{p.name}=…" for p in parameters if p.default is p.empty]
    optional = [f"{p.name}={p.default}" for p in parameters if p.default is not p.empty and p.default is not None]
    unset = [f"[{p.name}=…]" for p in parameters if p.default is None]
    return ",".join(required + optional + unset)


def choices(make: Callable[..., Any]) -> dict[str, tuple[str, ...]]:
    """Option -> the words that it takes, where these are few."""
    words: dict[str, tuple[str, ...]] = {
        "fit": tuple(published_fits()),
        "curve": tuple(published_curves()),
        "signal": SIGNALS,
        "rule": RULES,
        "scm_policy": SCM_POLICIES,
        "mode": MODES,
        "speca.error": ERRORS,
        "dicache.error": tuple(PROBED),
        "score": SCORES,
        "correct": CORRECTED,
        "frames": FRAMES,
        "over": AXES,
        "smoothing": SMOOTHINGS,
        "anchor": ANCHORS,
    }
    method = getattr(make, "name", "")
    found = {p: words.get(f"{method}.{p}", words.get(p, ())) for p in inspect.signature(make).parameters}
    return {option: known for option, known in found.items() if known}


def takes(make: Callable[..., Any], option: str) -> str:
    """In words, the kind of value of an option: a whole number, a number, a word, numbers separated by /."""
    return _kind(_present(typing.get_type_hints(inspect.unwrap(make)).get(option, str)))


def tables(make: Callable[..., Any]) -> dict[str, tuple[str, ...]]:
    """Option -> the models that it takes published values of, such as ``fit`` of TeaCache."""
    return {name: words for name, words in choices(make).items() if name in ("fit", "curve")}


def names_of(method: str) -> str:
    """The models that something is published for."""
    return ", ".join(published()[method])


def _compose(text: str) -> CacheMethod:
    rest, at, sites = text.partition("@")
    head, *parts = re.split(r"[+](?![0-9])", rest)  # a digit follows where it belongs to 1e+16
    head, batch = _batch(head)
    method: CacheMethod = make_part(head, METHODS, "method")
    if batch is not None:
        method = method.batched(batch)
    guidance = [part for part in parts if _name(part) in METHODS and _name(part) not in FORECASTERS]
    forecast = [part for part in parts if part not in guidance]
    if len(guidance) > 1 or len(forecast) > 1:
        raise ValueError(f"+{parts[-1]} is one part too many: + adds one forecaster, and one method of guidance")
    other = make_part(forecast[0], FORECASTERS, "forecaster") if forecast else None
    added = _guidance(guidance[0]) if guidance else ()
    where: tuple[str, ...] | None = None
    if at:
        where = tuple(site.strip() for site in sites.split(","))
        if strange := [site for site in where if site not in SITES]:
            raise ValueError(
                f"unknown site {strange[0]!r} after @ (which comes last): known are {', '.join(SITES)}, as @attn,mlp"
            )
        if repeated := [site for site in where if where.count(site) > 1]:
            raise ValueError(f"site {repeated[0]} is given twice; name it once")
        if len(method.rules) > 1:
            raise ValueError(f"{head} has rules at several sites, which @ would merge; leave @ out")
    return replace(method, rules=(*(remade(rule, where, other) for rule in method.rules), *added))


def _guidance(part: str) -> tuple[Rule, ...]:
    """The rule of a method that is added to another."""
    made: CacheMethod = make_part(part, METHODS, "method")
    if made.guidance is None:
        raise ValueError(f"{_name(part)} cannot be added with +, which takes a forecaster or a method of guidance")
    return made.rules


def _name(part: str) -> str:
    return part.partition(":")[0].strip()


def make_part(part: str, known: Mapping[str, Callable[..., Any]], what: str) -> Any:
    """What ``name:key=value,…`` gives, ``name`` being one of the functions ``known``. Raises ValueError."""
    name, colon, options = part.partition(":")
    name = name.strip()
    if name not in known:
        why = known.why_not(name) if isinstance(known, Registry) else None
        raise ValueError(
            f"unknown {what} {name!r}: known are {', '.join(known)}{f'; its package: {why}' if why else ''}"
        )
    make, values, given = known[name], dict[str, Any](), set[str]()
    parameters, hints = inspect.signature(make).parameters, typing.get_type_hints(make)
    if colon and not parameters:
        raise ValueError(f"{name} takes no options; write {name} alone")
    if colon and not options.strip():
        raise ValueError(f"options expected after {name}: ({name}:{describe(make)})")
    for option in options.split(",") if options else ():
        key, equals, value = _pair(option, "" if given else _word(hints, parameters))
        if key not in (*parameters, *([PUBLISHED] if what == "method" and name in published() else [])):
            more = " (several numbers in one value are separated by /)" if key.isdigit() else ""
            raise ValueError(f"{name} has no option {key!r}: known are {', '.join(parameters)}{more}")
        if not equals or not value:
            raise ValueError(f"{name} needs a value for {key}, as {key}=…")
        if key in given:
            raise ValueError(f"{key} is given twice; keep one")
        given.add(key)
        if key == PUBLISHED:  # what is given beside it takes its place, before or behind
            values = {**_published(name, value), **values}
        else:
            values[key] = _value(key, value, hints.get(key, str))
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in values]
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)} ({name}:{describe(make)})")
    return make(**values)


def _batch(head: str) -> tuple[str, str | None]:
    """A method without its option ``batch``, which every one has that measures something; and its value."""
    name, _, options = head.partition(":")
    pairs = [option.partition("=") for option in options.split(",")]
    values = [value.strip() for key, equals, value in pairs if key.strip() == "batch" and equals]
    if not values:
        return head, None
    if len(values) > 1:
        raise ValueError("batch is given twice; keep one")
    rest = ",".join("".join(pair) for pair in pairs if pair[0].strip() != "batch")
    return f"{name}:{rest}" if rest else name, values[0]


def _word(hints: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """The first option, if it is a word (a name or a path): then it may be given without its own name."""
    first = next(iter(parameters))
    return first if hints.get(first) in (str, str | None) else ""


def _pair(option: str, first: str) -> tuple[str, str, str]:
    key, equals, value = (s.strip() for s in option.partition("="))
    return (first, "=", key) if first and key and not equals else (key, equals, value)


def _published(method: str, model: str) -> dict[str, Any]:
    found = published()[method].get(model)
    if found is None:
        raise ValueError(f"nothing is published for {method} under {model!r}: known are {names_of(method)}")
    return {key: tuple(x) if isinstance(x, list) else x for key, x in found.items() if key != "source"}


def _value(key: str, value: str, hint: Any) -> Any:
    hint = _present(hint)
    try:
        if typing.get_origin(hint) is tuple:
            return tuple(_number(typing.get_args(hint)[0], item) for item in value.split("/"))
        return value if hint is str else _number(hint, value)
    except ValueError:
        raise ValueError(f"{key} takes {_kind(hint)}, got {value!r}") from None


def _present(hint: Any) -> Any:
    """Of ``int | None``, where an absent option is None, what a present one is."""
    if isinstance(hint, types.UnionType):
        return next(option for option in typing.get_args(hint) if option is not type(None))
    return hint


def _kind(hint: Any) -> str:
    return {int: "a whole number", float: "a number", str: "a word"}.get(hint, "numbers separated by /")


def _number(kind: Callable[[str], Any], text: str) -> Any:
    """Python would also take 1_0, the digits of other scripts, and nan, which no comparison ever meets."""
    number = kind(text)
    if "_" in text or not text.isascii() or number != number:
        raise ValueError
    return number
