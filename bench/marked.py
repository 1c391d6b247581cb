"""A part of a page that a command writes, between two marks."""

from __future__ import annotations

from typing import NamedTuple


class Marked(NamedTuple):
    """``what`` it shows, and the ``command`` that writes it; both are in the marks."""

    what: str
    command: str

    @property
    def begin(self) -> str:
        return f"<!-- {self.what}: {self.command} -->\n"

    @property
    def end(self) -> str:
        return f"<!-- end of {self.what} -->\n"

    def filled(self, page: str, text: str) -> str:
        """``page`` with ``text`` between the marks. Raises ValueError unless it has them, once."""
        before, begin, rest = page.partition(self.begin)
        _, end, after = rest.partition(self.end)
        if not end or self.begin in rest:
            raise ValueError(f"the page has to have {self.begin.strip()!r} and then {self.end.strip()!r}, once")
        return before + begin + text + end + after
