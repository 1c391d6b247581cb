"""Which method goes with which model, and why not: the table under ``c4d methods`` and ``c4d models``."""

from __future__ import annotations

import textwrap

from c4d.core.integration.attach import check_fit
from c4d.core.methods import METHODS
from c4d.core.spec import ModelSpec
from c4d.core.text.grammar import parse
from c4d.core.types import Signal
from c4d.models import SPECS

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


def short(transformer: str) -> str:
    for ending in ("Transformer3DModel", "Transformer2DModel"):
        transformer = transformer.removesuffix(ending)
    return transformer


def table_text(width: int = 100) -> str:
    """A row a method, a column a model; a number stands for a reason below."""
    columns, reasons = {short(name): spec for name, spec in SPECS.items()}, dict[str, int]()
    lines = ["METHODS x MODELS  (yes, or the number of the reason below)", " ".join(["  " + " " * 15, *columns])]
    for method in METHODS:
        cells = []
        for name, spec in columns.items():
            reason = refusal(method, spec)
            said = "yes" if reason is None else str(reasons.setdefault(f"{method} {reason}", len(reasons) + 1))
            cells.append(said.ljust(len(name)))
        lines.append(f"  {method:<15} {' '.join(cells)}".rstrip())
    for reason, number in reasons.items():
        lines += [f"  {line}" for line in textwrap.wrap(f"{number} {reason}", width - 2, break_on_hyphens=False)]
    return "\n".join(lines)
