"""Which method goes with which model, with how many published values, or why not: ``c4d methods``, ``c4d models``."""

from __future__ import annotations

import inspect
import textwrap
from string import ascii_lowercase

from c4d.core.integration.attach import check_fit
from c4d.core.methods import METHODS, published
from c4d.core.spec import ModelSpec
from c4d.core.text.grammar import parse, tables
from c4d.core.types import Signal
from c4d.models import SPECS, spec_known_as

SIGNALS = (Signal.TIME_EMBEDDING, Signal.TIME_PROJECTION, Signal.MODULATED_INPUT)


def refusal(method: str, spec: ModelSpec) -> str | None:
    """Why the method cannot be used on the model; None if it can."""
    signal = next((signal for signal in SIGNALS if signal in spec.signals), SIGNALS[0])
    made = parse(METHODS[method].example.format(signal=signal.value))
    try:
        check_fit(made, spec)
    except ValueError as error:
        return str(error).removeprefix(f"{made.name} ")
    return None


def published_for(method: str, spec: ModelSpec) -> list[str]:
    """The names under which values of the method are published for models like ``spec``'s."""
    make = METHODS[method]
    names = [*published().get(method, {}), *(name for known in tables(make).values() for name in known)]
    return [name for name in dict.fromkeys(names) if spec_known_as(name) is spec]


def reads_file(method: str) -> bool:
    """Whether it needs a file that was made for the model (c4d tune, c4d calibrate)."""
    path = inspect.signature(METHODS[method]).parameters.get("path")
    return path is not None and path.default is path.empty


def short(transformer: str) -> str:
    for ending in ("Transformer3DModel", "Transformer2DModel"):
        transformer = transformer.removesuffix(ending)
    return transformer


def table_text(width: int = 100) -> str:
    """A row a method, a column a model; a letter stands for a reason below."""
    columns, reasons = {short(name): spec for name, spec in SPECS.items()}, dict[str, str]()
    lines = [
        "METHODS x MODELS  (a number: so many published values; any: none; file: a profile; a letter: not, see below)",
        " ".join(["  " + " " * 15, *columns]),
    ]
    for method in METHODS:
        cells = []
        for name, spec in columns.items():
            reason = refusal(method, spec)
            if reason is None:
                said = str(len(published_for(method, spec)) or ("file" if reads_file(method) else "any"))
            else:
                said = reasons.setdefault(f"{method} {reason}", ascii_lowercase[len(reasons)])
            cells.append(said.ljust(len(name)))
        lines.append(f"  {method:<15} {' '.join(cells)}".rstrip())
    for reason, letter in reasons.items():
        lines += [f"  {line}" for line in textwrap.wrap(f"{letter}  {reason}", width - 2, break_on_hyphens=False)]
    return "\n".join(lines)
