"""Which method goes with which model, with how many published values, or why not: ``c4d methods``, ``c4d models``."""

from __future__ import annotations

import textwrap
from string import ascii_lowercase

from c4d.core.methods import METHODS
from c4d.core.spec import ModelSpec
from c4d.core.types import OUTPUT
from c4d.describe.methods import reads_file, refusal
from c4d.describe.models import short
from c4d.models import SPECS


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
    said = f"{method} {reason.replace(spec.transformer, 'it')}"
    if not spec.stacks and (there := refusal(method, spec, f"@{OUTPUT}")) != reason:
        if there is None:
            return "out"
        said = f"needs blocks, which are not described (c4d check-model does it), and does not go at the {OUTPUT}"
    return reasons.setdefault(said, ascii_lowercase[len(reasons)])


def _wrapped(text: str, width: int) -> list[str]:
    lines = textwrap.wrap(text, width - 4, break_on_hyphens=False, break_long_words=False, subsequent_indent="   ")
    return [f"  {line}" for line in lines]
