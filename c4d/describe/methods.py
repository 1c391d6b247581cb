"""What there is to say of a method, as data: options and what they mean, published settings, models that it fits.

``c4d methods`` prints it; the site has a page of it for each.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from c4d.core.integration.attach import check_fit
from c4d.core.methods import METHODS, published
from c4d.core.methods.magcache import published_curves
from c4d.core.methods.teacache import published_fits
from c4d.core.spec import ModelSpec
from c4d.core.text.grammar import FORECASTERS, choices, parse, tables, takes
from c4d.core.types import Signal
from c4d.describe.meanings import MEANINGS
from c4d.models import spec_known_as

SIGNALS = (Signal.TIME_EMBEDDING, Signal.TIME_PROJECTION, Signal.MODULATED_INPUT)
TABLES: dict[str, Callable[[], Any]] = {"fit": published_fits, "curve": published_curves}

# How a method is written, for people.
WRITTEN = {
    "text": "A method is written name:key=value,...[+part:key=value,...][@site,...]. A part is a forecaster, "
    "or a method of guidance that is added: cfg-cache, cfg-skip, guidance-interval.",
    "values": "key=… must be given, key=value has that default, [key=…] may be given. Several numbers in one value: "
    "0/1/5.",
    "published": "published=MODEL stands for what a method's authors use on it; options beside it take their place.",
    "batch": "batch=each, worst or mean: how the samples of a batch decide, in a method that measures something; "
    "without it each.",
    "forecaster": "A forecaster behind + takes the place of the method's own: how a skipped result is predicted.",
    "site": "Sites behind @ move the method: where results are kept and predicted.",
}


@dataclass(frozen=True)
class Option:
    """An option of a method or a forecaster.

    ``takes``: the kind of its value. ``default`` as text; None: it is unset, or ``required``. ``words`` that it takes,
    where these are few. ``meaning`` in a sentence, "" for an option of another package that says none.
    """

    name: str
    takes: str
    required: bool
    default: str | None
    words: tuple[str, ...]
    meaning: str


@dataclass(frozen=True)
class Setting:
    """What is published under ``name``, given as ``option=name``.

    ``transformer``: the class that it was made for, None for a model that c4d does not cache. ``values``: the options
    that it stands for, {} for a fit or a curve, which are tables. ``thresholds`` that were published with a fit.
    ``source``: where it is from.
    """

    option: str
    name: str
    transformer: str | None
    values: dict[str, Any]
    thresholds: tuple[float, ...]
    source: str


def options(name: str) -> list[Option]:
    """Of a method, or of a forecaster, in the order of its signature."""
    make = METHODS[name] if name in METHODS else FORECASTERS[name]
    words = choices(make)
    found = []
    for p in inspect.signature(make).parameters.values():
        required = p.default is p.empty
        default = None if required or p.default is None else _text(p.default)
        meaning = MEANINGS.get(f"{name}.{p.name}", MEANINGS.get(p.name, ""))
        found.append(Option(p.name, takes(make, p.name), required, default, words.get(p.name, ()), meaning))
    return found


def _text(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


@cache
def settings(name: str) -> tuple[Setting, ...]:
    """All that is published for a method: settings, and the fits or curves that it takes by name."""
    found = []
    for model, given in published().get(name, {}).items():
        values = {key: value for key, value in given.items() if key != "source"}
        found.append(Setting("published", model, _made_for(model), values, (), given["source"]))
    for option, models in tables(METHODS[name]).items():
        known = TABLES[option]()
        for model in models:
            thresholds = tuple(known[model].get("thresholds", ()))
            found.append(Setting(option, model, _made_for(model), {}, thresholds, known[model]["source"]))
    return tuple(found)


def _made_for(published_name: str) -> str | None:
    spec = spec_known_as(published_name)
    return spec.transformer if spec is not None else None


def published_for(method: str, spec: ModelSpec) -> list[str]:
    """The names under which values of the method are published for models like ``spec``'s."""
    return list(dict.fromkeys(each.name for each in settings(method) if each.transformer == spec.transformer))


def papers(name: str) -> list[str]:
    """The number on arXiv of the method's own paper, or none: what its docstring names first."""
    return re.findall(r"arXiv (\d{4}\.\d{4,5})", inspect.getdoc(METHODS[name]) or "")[:1]


def equations(name: str) -> str:
    """What the method's module says of it: the paper's equations, what is published, where c4d departs."""
    module = inspect.getmodule(inspect.unwrap(METHODS[name]))
    return inspect.cleandoc(module.__doc__) if module is not None and module.__doc__ else ""


def example(name: str, spec: ModelSpec | None = None) -> str:
    """A text of the method, for a model's signals; of a method that reads a file one of the same rules."""
    offered = (signal for signal in SIGNALS if spec is not None and signal in spec.signals)
    return METHODS[name].example.format(signal=next(offered, SIGNALS[0]).value)


def refusal(method: str, spec: ModelSpec, at: str = "") -> str | None:
    """Why the method cannot be used on the model (``at`` a site of somebody's choice); None if it can."""
    text = example(method, spec)
    try:
        made = parse(text.partition("@")[0] + at if at else text)
    except ValueError as error:
        return str(error)
    try:
        check_fit(made, spec)
    except ValueError as error:
        return str(error).removeprefix(f"{made.name} ")
    return None


def reads_file(method: str) -> bool:
    """Whether it needs a file that was made for the model (c4d tune, c4d calibrate)."""
    path = inspect.signature(METHODS[method]).parameters.get("path")
    return path is not None and path.default is path.empty
