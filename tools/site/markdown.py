"""Markdown of the pages that are made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def code(text: object) -> str:
    """As code, in a sentence; nothing for nothing."""
    return f"`{text}`" if str(text) else ""


def unbroken(text: str) -> str:
    """In one line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def link(title: str, target: str) -> str:
    return f"[{title}]({target})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, or nothing without rows."""
    lines = [_row(head), _row(["---"] * len(head)), *map(_row, rows)]
    return "\n".join(lines) if len(lines) > 2 else ""


def facts(*told: tuple[str, str]) -> str:
    """A list of what there is to tell: a word, and what it is."""
    return "\n".join(f"- **{word}**: {what}" for word, what in told if what)


def sorted_out(found: Iterable[tuple[str, str | None]]) -> tuple[list[str], str]:
    """Of what is refused for a reason (None: it is not): what is taken, and a list of the rest by reason."""
    taken, refused = list[str](), dict[str, list[str]]()
    for shown, why in found:
        (taken if why is None else refused.setdefault(why, [])).append(shown)
    return taken, "\n".join(f"- {', '.join(them)}: {why}" for why, them in refused.items())


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace(chr(10), ' ').replace('|', chr(92) + '|') for cell in cells)} |"


def page(*parts: str) -> str:
    """Paragraphs, tables and headings, those that are not empty."""
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"
