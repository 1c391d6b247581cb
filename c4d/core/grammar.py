"""A method as text: ``name:key=value,...[+forecaster:key=value,...][@site,...]``, everywhere the same."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from c4d.core.forecast import FORECASTERS
from c4d.core.methods import METHODS
from c4d.core.types import CacheMethod


class MethodError(ValueError):
    """A text that names no method; the message says what is known."""


def parse(text: str) -> CacheMethod:
    """The method that ``text`` describes.

    Several numbers in one value are separated by ``/``. Raises :class:`MethodError` for anything unknown, missing,
    repeated or out of range; nothing is ignored.
    """
    rest, at, sites = text.strip().partition("@")
    head, plus, forecast = rest.partition("+")
    method: CacheMethod = _make(head, METHODS, "method", text)
    try:
        if plus:
            forecaster = _make(forecast, FORECASTERS, "forecaster", text)
            method = replace(method, rules=tuple(replace(rule, forecast=forecaster) for rule in method.rules))
        if at:
            where = tuple(site.strip() for site in sites.split(","))
            if len(method.rules) > 1:
                raise ValueError(f"{head} has rules at several sites; @ would merge them")
            method = replace(method, rules=(replace(method.rules[0], at=where),))
    except MethodError:
        raise
    except ValueError as error:
        raise MethodError(f"{text!r}: {error}") from error
    return replace(method, name=text.strip())


def describe(make: Callable[..., Any]) -> str:
    """``key=type`` or ``key=default`` of every parameter, as the grammar takes them."""
    parameters = inspect.signature(make).parameters.values()
    required = [f"{p.name}=…" for p in parameters if p.default is p.empty]
    optional = [f"{p.name}={p.default}" for p in parameters if p.default is not p.empty and p.default is not None]
    unset = [f"[{p.name}=…]" for p in parameters if p.default is None]
    return ",".join(required + optional + unset)


def _make(part: str, known: Mapping[str, Callable[..., Any]], what: str, text: str) -> Any:
    name, colon, options = part.partition(":")
    name = name.strip()
    if name not in known:
        raise MethodError(f"unknown {what} {name!r} in {text!r}: known are {', '.join(known)}")
    make, values = known[name], {}
    parameters, hints = inspect.signature(make).parameters, typing.get_type_hints(make)
    if colon and not options.strip():
        raise MethodError(f"{text!r}: options expected after {name}: ({describe(make)})")
    for option in options.split(",") if options else ():
        key, equals, value = (s.strip() for s in option.partition("="))
        if key not in parameters:
            raise MethodError(f"{name} has no option {key!r} in {text!r}: known are {', '.join(parameters)}")
        if not equals or not value:
            raise MethodError(f"{text!r}: {name} needs a value for {key}, as {key}=…")
        if key in values:
            raise MethodError(f"{text!r}: {key} is given twice")
        values[key] = _value(key, value, hints.get(key, str), text)
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in values]
    if missing:
        raise MethodError(f"{text!r}: {name} needs {', '.join(missing)} ({name}:{describe(make)})")
    try:
        return make(**values)
    except ValueError as error:
        raise MethodError(f"{text!r}: {error}") from error


def _value(key: str, value: str, hint: Any, text: str) -> Any:
    if isinstance(hint, types.UnionType):  # "int | None": absent is None, present is the other
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    try:
        if typing.get_origin(hint) is tuple:
            return tuple(typing.get_args(hint)[0](item) for item in value.split("/"))
        return hint(value)
    except ValueError:
        kind = {int: "a whole number", float: "a number"}.get(hint, "numbers separated by /")
        raise MethodError(f"{text!r}: {key} takes {kind}, got {value!r}") from None
