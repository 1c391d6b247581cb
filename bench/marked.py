"""A part of a page that a command writes, between two marks."""

from __future__ import annotations

import re
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
        """``page`` with ``text`` between the marks."""
        pattern = re.escape(self.begin) + r".*?" + re.escape(self.end)
        return re.sub(pattern, lambda _: self.begin + text + self.end, page, flags=re.DOTALL)
