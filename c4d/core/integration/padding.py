"""Padded text: a mask is read once, and what no sample of the batch needs is sliced away before the forward."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from c4d.core.integration.hooks import parameters
from c4d.core.spec import Padding

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Lengths = tuple[int, ...] | None


class TextUnpadder:
    """The padding of one transformer. ``reads`` counts how often the host waited for a mask."""

    def __init__(self, texts: tuple[Padding, ...], transformer: nn.Module) -> None:
        self._texts = [text for text in texts if text.needs is None or _has(transformer, text.needs)]
        self._names = parameters(transformer)
        # mask -> (its version, its lengths); gone with the mask
        self._known: MutableMapping[Tensor, tuple[int, Lengths]] = WeakIdKeyDictionary()
        self.reads = 0

    def masked(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        return any(self._get(text.mask, args, kwargs) is not None for text in self._texts)

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Arguments, Lengths]:
        """The forward's arguments without text that is padding in every sample, and how many tokens of padding each
        sample has left, of all its texts together.

        A mask that is not all ones followed by all zeros stays as it is, and so does its text; the second result is
        None then, as it is without any mask. Where a mask leaves no text, one token of padding stays.
        """
        absent: Lengths = None
        strange = False
        for padding in self._texts:
            text, mask = self._get(padding.tensor, args, kwargs), self._get(padding.mask, args, kwargs)
            if text is None or mask is None:
                continue
            fits = isinstance(text, Tensor) and isinstance(mask, Tensor) and text.shape[:2] == mask.shape
            lengths = self._lengths(mask) if fits else None
            if not lengths:
                strange = True
                continue
            longest = max(*lengths, 1)
            if longest < mask.shape[1]:
                for name, x in ((padding.tensor, text), (padding.mask, mask)):
                    args, kwargs = self._put(name, x[:, :longest], args, kwargs)
            absent = tuple(longest - n + more for n, more in zip(lengths, absent or [0] * len(lengths), strict=True))
        return (args, kwargs), None if strange else absent

    def _lengths(self, mask: Tensor) -> Lengths:
        """Leading tokens of each sample; None if something else is masked."""
        if mask.is_inference():  # no version counter tells whether it was written to since its lengths were read
            return self._read(mask)
        known = self._known.get(mask)
        if known is None or known[0] != mask._version:
            known = self._known[mask] = (mask._version, self._read(mask))
        return known[1]

    def _read(self, mask: Tensor) -> Lengths:
        if mask.is_meta:  # a forward that is only planned
            return (mask.shape[1],) * mask.shape[0]
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


def _has(transformer: nn.Module, path: str) -> bool:
    return any(name == path for name, _ in transformer.named_modules())
