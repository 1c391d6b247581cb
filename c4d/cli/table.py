"""Which method goes with which model, with how many published values, or why not: ``c4d methods``, ``c4d models``."""

from __future__ import annotations

import inspect
import textwrap
from string import ascii_lowercase

from c4d.core.integration.attach import check_fit
from c4d.core.methods import METHODS, published
from c4d.core.spec import ModelSpec
from c4d.core.text.grammar import parse, tables
from c4d.core.types import OUTPUT, Signal
from c4d.models import SPECS, spec_known_as

SIGNALS = (Signal.TIME_EMBEDDING, Signal.TIME_PROJECTION, Signal.MODULATED_INPUT)


def refusal(method: str, spec: ModelSpec, at: str = "") -> str | None:
    """Why the method cannot be used on the model (``at`` a site of somebody's choice); None if it can."""
    signal = next((signal for signal in SIGNALS if signal in spec.signals), SIGNALS[0])
    example = METHODS[method].example.format(signal=signal.value)
    try:
        made = parse(example.partition("@")[0] + at if at else example)
    except ValueError as error:
        return str(error)
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
    """A row a method, a column for the models that are alike; a letter stands for a reason below."""
    groups, reasons = dict[tuple[str, ...], list[str]](), dict[str, str]()
    for name, spec in SPECS.items():
        cells = tuple(_cell(method, spec, reasons) for method in METHODS)
        groups.setdefault(cells, []).append(short(name))
    numbers = [str(i + 1) for i in range(len(groups))]
    lines = [
        "METHODS x MODELS  (a column for models that are alike; a letter: not, see below; file: it reads one;",
        f"                   out: as METHOD:…@{OUTPUT}, for the blocks are not described)",
        "  " + " " * 15 + "".join(f" {number:<4}" for number in numbers).rstrip(),
    ]
    for i, method in enumerate(METHODS):
        lines.append(f"  {method:<15}" + "".join(f" {cells[i]:<4}" for cells in groups).rstrip())
    for number, names in zip(numbers, groups.values(), strict=True):
        lines += _wrapped(f"{number:<2} {', '.join(names)}", width)
    for reason, letter in reasons.items():
        lines += _wrapped(f"{letter}  {reason}", width)
    others = "every other denoiser of diffusers, and any module that is called once a step, is cached at its output"
    return "\n".join([*lines, *_wrapped(f"+  {others}", width)])


def _cell(method: str, spec: ModelSpec, reasons: dict[str, str]) -> str:
    reason = refusal(method, spec)
    if reason is None:
        return "file" if reads_file(method) else "yes"
    if not spec.stacks and refusal(method, spec, f"@{OUTPUT}") is None:
        return "out"
    said = f"{method} {reason.replace(spec.transformer, 'it')}"
    return reasons.setdefault(said, ascii_lowercase[len(reasons)])


def _wrapped(text: str, width: int) -> list[str]:
    lines = textwrap.wrap(text, width - 4, break_on_hyphens=False, break_long_words=False, subsequent_indent="   ")
    return [f"  {line}" for line in lines]
