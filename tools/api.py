"""Writes docs/api.md, the reference of the public names: ``python -m tools.api``; a test holds it against them."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import c4d

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/api.md"
HEAD = """\
# The public names

All of them are in `c4d`: `import c4d`, then `c4d.cached(...)`. They are imported when they are asked for, so that
`import c4d` needs no torch. What is not here may change in any version. This page is generated (`python -m tools.api`).
"""

OTHERS = {
    "methods": "Every caching method by its name, as a function of its options: `c4d.methods.fora(interval=3)`.",
    "backends": "The backends: `c4d.backends.select(name)` gives one, `c4d.backends.known()` their names.",
}


def groups() -> dict[str, list[str]]:
    """Title -> names, as the comments in ``c4d/__init__.py`` divide them."""
    found: dict[str, list[str]] = {}
    text = (ROOT / "c4d/__init__.py").read_text().partition("PLACES = {")[2].partition("\n}")[0]
    for line in text.splitlines():
        if title := re.fullmatch(r"\s+# (.+)", line):
            found[title[1]] = []
        elif name := re.match(r'\s+"(\w+)":', line):
            list(found.values())[-1].append(name[1])
    return found


def signature(thing: Any) -> str:
    """As one writes it, without what every reader knows."""
    try:
        text = str(inspect.signature(thing))
    except (TypeError, ValueError):
        return ""
    text = re.sub(r"\b(c4d|torch|collections|typing|diffusers)\.(\w+\.)*(?=\w)", "", text.replace("'", ""))
    text = re.sub(r"<[^>]*>", "…", text)
    return re.sub(r"\((self|cls)(, )?", "(", text)


def markdown(docstring: str) -> str:
    """Of a docstring, whose markup is that of Sphinx."""
    return re.sub(r":\w+:`~?(?:c4d\.)?(?:[\w.]+\.)?(\w+)`", r"`\1`", docstring).replace("``", "`")


def first(thing: Any) -> str:
    """The first paragraph of its docstring, as Markdown."""
    return markdown(" ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split()))


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Its public methods and properties that have a docstring of their own, in the order of the source."""
    ours = re.split(r"\n    # -- (?:called by|inside|for a)", inspect.getsource(cls))[0]
    for name, value in vars(cls).items():
        what = value.fget if isinstance(value, property) else value
        if (
            f"def {name}(" in ours
            and not name.startswith("_")
            and isinstance(what, types.FunctionType)
            and what.__doc__
        ):
            yield (name if isinstance(value, property) else f"{name}{signature(what)}"), what


def page() -> str:
    return _grouped(_listed)


def reference() -> str:
    """The same names for the site, where Sphinx takes the whole of their docstrings."""
    return _grouped(_for_sphinx)


def _grouped(entry: Callable[[str, Any], Iterator[str]]) -> str:
    """Every public name under the title of its group, as ``entry`` has it."""
    parts = [HEAD]
    for title, names in groups().items():
        parts += [f"## {title}\n", *(line for name in names for line in entry(name, getattr(c4d, name))), ""]
    return "\n".join(parts)


def _listed(name: str, thing: Any) -> Iterator[str]:
    if name in OTHERS:
        yield f"- `{name}`: {OTHERS[name]}"
        return
    yield f"- `{name}{signature(thing) if inspect.isfunction(thing) else ''}`: {first(thing)}"
    if _has_members(thing):
        yield from (f"  - `{member}`: {first(what)}" for member, what in members(thing))


def _for_sphinx(name: str, thing: Any) -> Iterator[str]:
    if name in OTHERS:
        yield f"`{name}`: {OTHERS[name]}\n"
        return
    kind = "class" if _has_members(thing) else "exception" if inspect.isclass(thing) else "function"
    inside = [member.partition("(")[0] for member, _ in members(thing)] if kind == "class" else []
    shown = [f"   :members: {', '.join(inside)}"] if inside else []
    yield "\n".join(["```{eval-rst}", f".. auto{kind}:: c4d.{name}", *shown, "```\n"])


def _has_members(thing: Any) -> bool:
    return inspect.isclass(thing) and not issubclass(thing, Exception)


if __name__ == "__main__":
    PAGE.write_text(page())
