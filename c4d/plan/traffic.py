"""The bytes that a rank sends, by formula; docs/parallel.md has what is sent when.

Of B samples with S tokens a rank has n = ⌈S/P⌉, P = U·R; of H heads of D numbers, b bytes each, Ulysses has h = ⌈H/U⌉.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from c4d.parallel.agree import ROWS, SAMPLED
from c4d.parallel.degrees import Degrees

ULYSSES, RING, TOKENS, CACHE, CFG = "ulysses", "ring", "gather", "cache", "cfg"
KINDS = (ULYSSES, RING, TOKENS, CACHE, CFG)


class Sent(Protocol):
    """Something that ranks exchange in a forward."""

    def bytes(self, d: Degrees) -> dict[str, int]:
        """What a rank sends to others, by kind."""
        ...

    def flops(self, d: Degrees) -> int:
        """What a rank computes of it."""
        ...


class Attention(NamedTuple):
    """An attention to all ``tokens`` and to ``keys`` of text that every rank has, of which ``words`` ask, too."""

    batch: int
    tokens: int
    words: int
    keys: int
    heads: int
    size: int
    width: int  # bytes of a number

    def bytes(self, d: Degrees) -> dict[str, int]:
        n, h = _share(self.tokens, d.sequence), _share(self.heads, d.ulysses)
        token = self.batch * h * self.size * self.width
        return {
            ULYSSES: (4 * n + self.words) * token * (d.ulysses - 1),
            RING: 2 * d.ulysses * n * token * (d.ring - 1),
        }

    def flops(self, d: Degrees) -> int:
        n, h = _share(self.tokens, d.sequence), _share(self.heads, d.ulysses)
        return 4 * self.batch * h * self.size * (d.ulysses * n + self.words) * (self.tokens + self.keys)


class OfKeys(NamedTuple):
    """Queries that every rank has, over tokens of which each has a part: partial results go to all."""

    batch: int
    tokens: int
    words: int
    heads: int
    size: int
    width: int

    def bytes(self, d: Degrees) -> dict[str, int]:
        each = self.batch * self.words * self.heads
        return {TOKENS: each * (self.size * self.width + 4) * (d.sequence - 1)}

    def flops(self, d: Degrees) -> int:
        n = _share(self.tokens, d.sequence)
        return 4 * self.batch * self.heads * self.size * self.words * n


class Gather(NamedTuple):
    """What leaves a forward: ``channels`` of each of the tokens."""

    batch: int
    tokens: int
    channels: int
    width: int

    def bytes(self, d: Degrees) -> dict[str, int]:
        n = _share(self.tokens, d.sequence)
        return {TOKENS: self.batch * n * self.channels * self.width * (d.sequence - 1)}

    def flops(self, d: Degrees) -> int:
        return 0


class Told(NamedTuple):
    """``size`` bytes of a cache that go to every other rank of the sequence, or of the request."""

    size: int
    request: bool = False

    def bytes(self, d: Degrees) -> dict[str, int]:
        return {CACHE: self.size * ((d.request if self.request else d.sequence) - 1)}

    def flops(self, d: Degrees) -> int:
        return 0


class Branch(NamedTuple):
    """The output of a branch of guidance, which goes to the other branch's rank (but in the first step, pickled)."""

    size: int

    def bytes(self, d: Degrees) -> dict[str, int]:
        return {CFG: self.size if d.cfg > 1 else 0}

    def flops(self, d: Degrees) -> int:
        return 0


COMPARED = Told(ROWS * SAMPLED * 4, request=True)


def _share(whole: int, ranks: int) -> int:
    return -(-whole // ranks)
