"""A method of a paper: its options, its rules, and its name as text."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, ParamSpec

from c4d.core.caching.rules import CacheMethod, Rule

P = ParamSpec("P")


class Method(Generic[P]):
    """A function from a paper's options to a rule, or several, under a ``name``; called, it gives a ``CacheMethod``.

    Options, defaults and kinds of values follow from the function's signature, what is said of it from its docstring.
    ``example`` is a text of the method, for tables and tests: without thresholds it reuses something within 8 steps.
    ``{signal}`` in it stands for one of the signals that the model has. Of a method that reads a file it is a text of
    the same rules.
    """

    def __init__(self, name: str, make: Callable[P, Rule | tuple[Rule, ...]], example: str) -> None:
        functools.update_wrapper(self, make)
        self.name, self.example, self._make = name, example, make

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> CacheMethod:
        made = self._make(*args, **kwargs)
        given = inspect.signature(self._make).bind(*args, **kwargs).arguments
        return CacheMethod(written(self.name, self._make, given), made if isinstance(made, tuple) else (made,))

    def __repr__(self) -> str:
        return f"<method {self.name}>"


def method(name: str, example: str) -> Callable[[Callable[P, Rule | tuple[Rule, ...]]], Method[P]]:
    """Makes a function that gives rules a :class:`Method`."""
    return lambda make: Method(name, make, example)


def written(name: str, make: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """The text that the grammar reads as ``make(**given)``: what is not the default, in the signature's order."""
    parameters = inspect.signature(make).parameters.values()
    options = [f"{p.name}={_value(given[p.name])}" for p in parameters if given.get(p.name, p.default) != p.default]
    return f"{name}:{','.join(options)}" if options else name


def _value(value: Any) -> str:
    return "/".join(map(_value, value)) if isinstance(value, tuple | list) else str(value)
