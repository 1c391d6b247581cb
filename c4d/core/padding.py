"""Padded text: a mask is read once, and what no sample of the batch needs is sliced away before the forward."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from c4d.core.hooks import parameters
from c4d.core.spec import Padding

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Lengths = tuple[int, ...] | None


class Trim:
    """The padding of one transformer. ``reads`` counts how often the host waited for a mask."""

    def __init__(self, padding: Padding, transformer: nn.Module) -> None:
        self._padding = padding
        self._names = parameters(transformer)
        # mask -> (its version, its lengths); gone with the mask
        self._known: MutableMapping[Tensor, tuple[int, Lengths]] = WeakIdKeyDictionary()
        self.reads = 0

    def mask(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return self._get(self._padding.mask, args, kwargs)

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Arguments, Lengths]:
        """The forward's arguments without text that is padding in every sample, and how many tokens of padding each
        sample has left.

        A mask that is not all ones followed by all zeros, or that leaves no text, stays as it is, and so does its text;
        the second result is None then.
        """
        text, mask = self._get(self._padding.tensor, args, kwargs), self.mask(args, kwargs)
        if not isinstance(text, Tensor) or not isinstance(mask, Tensor) or text.shape[:2] != mask.shape:
            return (args, kwargs), None
        lengths = self._lengths(mask)
        if not lengths or (longest := max(lengths)) == 0:
            return (args, kwargs), None
        if longest < mask.shape[1]:
            for name, x in ((self._padding.tensor, text), (self._padding.mask, mask)):
                args, kwargs = self._put(name, x[:, :longest], args, kwargs)
        return (args, kwargs), tuple(longest - n for n in lengths)

    def _lengths(self, mask: Tensor) -> Lengths:
        """Leading tokens of each sample; None if something else is masked."""
        if mask.is_inference():  # written to without a trace: what was read of it before proves nothing
            return self._read(mask)
        known = self._known.get(mask)
        if known is None or known[0] != mask._version:
            known = self._known[mask] = (mask._version, self._read(mask))
        return known[1]

    def _read(self, mask: Tensor) -> Lengths:
        self.reads += 1
        rows = mask.tolist()
        lengths = tuple(row.count(1) for row in rows)
        return lengths if all(r == [1] * n + [0] * (len(r) - n) for r, n in zip(rows, lengths, strict=True)) else None

    def _get(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        place = self._names.index(name)
        return kwargs.get(name) if place >= len(args) else args[place]

    def _put(self, name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        place = self._names.index(name)
        if place >= len(args):
            return args, {**kwargs, name: value}
        return (*args[:place], value, *args[place + 1 :]), kwargs
