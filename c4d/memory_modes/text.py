"""Memory modes as text: ``mode[:key=value,…][+mode…]``, in the grammar of methods."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

from c4d.backends import Backend, UnsupportedError
from c4d.core.text.grammar import make_part
from c4d.memory_modes import MODES
from c4d.memory_modes.mode import Kind, Mode, Part

WHAT = {Kind.NUMBERS: "what weights are stored as", Kind.PLACE: "where weights are"}


@dataclass(frozen=True)
class MemoryMode:
    """What a text stands for: modes with their options, in the order in which they are applied."""

    name: str
    parts: tuple[tuple[Mode[Any], Part], ...]

    @property
    def places(self) -> bool:
        """Whether it says where weights are."""
        return any(mode.kind is Kind.PLACE for mode, _ in self.parts)

    @property
    def plain(self) -> bool:
        """Whether weights are on the device, as they were loaded."""
        return all(mode.kind is Kind.DECODER or mode.name == "full" for mode, _ in self.parts)

    @property
    def over(self) -> int | None:
        """How many ranks in a row have the weights once; None: all of the job."""
        return next((part.over for _, part in self.parts if part.over != 1), 1)

    def check(self, pipe: Any, backend: Backend, *, loaded: bool = True) -> None:
        """Raises UnsupportedError for what ``pipe`` or the device cannot.

        ``loaded``: False for a pipeline without its weights, whose VAE may be missing.
        """
        for mode, part in self.parts:
            known = loaded or mode.kind is not Kind.DECODER or getattr(pipe, "vae", None) is not None
            if known and (reason := part.lacking(pipe, backend)) is not None:
                raise UnsupportedError(f"{self.name!r}: {mode.name} cannot be done: {reason}")

    def apply(self, pipe: Any, backend: Backend) -> None:
        """Does it to ``pipe``, after :meth:`check`."""
        self.check(pipe, backend)
        for _, part in self.parts:
            part.apply(pipe, backend)


def parse_memory(text: str) -> MemoryMode:
    """The modes that ``text`` names. Raises ValueError for what is unknown, given twice, or does not go together."""
    try:
        made = [(part.partition(":")[0].strip(), make_part(part, MODES, "memory mode")) for part in text.split("+")]
        parts = [(MODES[name], part) for name, part in made]
        for (one, _), (other, _) in combinations(parts, 2):
            if one.name == other.name:
                raise ValueError(f"{one.name} is given twice; keep one")
            if one.kind is other.kind and one.kind in WHAT:
                raise ValueError(f"{one.name} and {other.name} both say {WHAT[one.kind]}; keep one")
        for mode, part in parts:
            if clash := [other.name for other, _ in parts if other.name in part.apart]:
                raise ValueError(f"{mode.name} does not go with {clash[0]}: take groups or components in its place")
    except ValueError as error:
        raise ValueError(f"{text!r}: {error} (docs/memory.md)") from error
    return MemoryMode(text.strip(), tuple(sorted(parts, key=lambda pair: pair[0].kind)))
