"""A VAE that decodes in tiles, on the ranks of one request in turns: each decodes some, and all get the whole picture.

Where tiles lie, how they overlap and how their seams are blended is the VAE's own code, which runs twice. In the first
pass its decoder runs for this rank's tiles, and the pass ends where the code, done with asking for tiles, looks at one.
Then the ranks send each other what they made, which the second pass finds in the decoder's place.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from c4d.core.integration.hooks import Unsaved
from c4d.parallel.agree import DisagreementError
from c4d.parallel.collectives import Group

DECODE = "tiled_decode"
# By what a tile begins: every call of the decoder is one; it is called once for each frames, with what it remembers of
# those before cleared by ``clear_cache``, or given as ``conv_cache``. Others look at a tile before they make the next.
CALL, CLEAR, GIVEN = "", "clear_cache", "conv_cache"
BEGINS = MappingProxyType(
    {
        "AutoencoderDC": CALL,
        "AutoencoderKL": CALL,
        "AutoencoderKLFlux2": CALL,
        "AutoencoderKLHunyuanImage": CALL,
        "AutoencoderKLHunyuanImageRefiner": CALL,
        "AutoencoderKLHunyuanVideo": CALL,
        "AutoencoderKLHunyuanVideo15": CALL,
        "AutoencoderKLKVAE": CALL,
        "AutoencoderKLLTXVideo": CALL,
        "AutoencoderKLLTX2Video": CALL,
        "AutoencoderKLQwenImage": CLEAR,
        "AutoencoderKLQwenImage21": CLEAR,
        "AutoencoderKLWan": CLEAR,
        "AutoencoderKLCogVideoX": GIVEN,
    }
)


class TiledDecoding(Unsaved):
    """``tiled_decode`` of the VAE of ``pipe``, spread over the ranks of ``group`` between :meth:`install` and
    :meth:`remove`.

    Within a call of the pipeline alone, which all of these ranks make: a VAE that one of them calls by itself decodes
    by itself. Every rank gets the result, the bits of which are those of one rank's tiles.
    """

    def __init__(self, pipe: Any, group: Group) -> None:
        self._pipe, self._vae, self._group = pipe, pipe.vae, group

    @staticmethod
    def fits(pipe: Any) -> bool:
        """Whether the VAE of ``pipe`` is one whose tiles can be told apart."""
        return type(getattr(pipe, "vae", None)).__name__ in BEGINS

    def install(self) -> None:
        vars(self._vae)[DECODE] = self

    def remove(self) -> None:
        if vars(self._vae).get(DECODE) is self:
            del vars(self._vae)[DECODE]

    def __call__(self, z: Tensor, *args: Any, **kwargs: Any) -> Any:
        decode = getattr(type(self._vae), DECODE)
        if not _inside_call_of(self._pipe):
            return decode(self._vae, z, *args, **kwargs)
        mine, failed = Own(self._vae, self._group), None
        try:
            with mine.in_place():
                decode(self._vae, z, *args, **kwargs)
        except LookedAtError:
            pass
        except BaseException as error:
            failed = error
        made = exchanged(mine.tiles, mine.count, self._group, z.device, failed)
        with There(self._vae, made).in_place():
            return decode(self._vae, z, *args, **kwargs)


class _Decoder:
    """In place of a VAE's decoder. ``begins`` says what a tile begins by (:data:`BEGINS`)."""

    def __init__(self, vae: Any) -> None:
        self._vae, self._decoder, self._begins = vae, vae.decoder, BEGINS[type(vae).__name__]
        self._fresh = False  # what is remembered of the frames before was cleared

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While the decoder of the VAE is this; for what lies in ``vars`` is found before what is registered."""
        held = {"decoder": self, CLEAR: self._clear} if self._begins == CLEAR else {"decoder": self}
        vars(self._vae).update(held)
        try:
            yield
        finally:
            for name in held:
                del vars(self._vae)[name]
            self._clear()

    def _clear(self) -> None:
        self._fresh = True
        if self._begins == CLEAR:
            type(self._vae).clear_cache(self._vae)

    def _new(self, kwargs: dict[str, Any]) -> bool:
        """Whether a call is the first of a tile."""
        fresh, self._fresh = self._fresh, False
        return {CALL: True, CLEAR: fresh, GIVEN: kwargs.get(GIVEN) is None}[self._begins]

    def _returned(self, x: Any, remembers: Any) -> Any:
        return (x, remembers) if self._begins == GIVEN else x


class Own(_Decoder):
    """Decodes the tiles of this rank, every ``group.size``-th. ``tiles``: by number, what each call returned."""

    def __init__(self, vae: Any, group: Group) -> None:
        super().__init__(vae)
        self._group, self.count, self.tiles = group, 0, dict[int, list[Tensor]]()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.count += self._new(kwargs)
        tile, remembered = self.count - 1, object()
        if tile % self._group.size == self._group.rank:
            made = self._decoder(*args, **kwargs)
            if self._begins == GIVEN:
                made, remembered = made
            self.tiles.setdefault(tile, []).append(made)
        return self._returned(Awaited(), remembered)


class There(_Decoder):
    """Returns what was decoded, call by call."""

    def __init__(self, vae: Any, made: Iterator[Tensor]) -> None:
        super().__init__(vae)
        self._made = made

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._returned(next(self._made), None)


class LookedAtError(BaseException):
    """The code that asked for tiles looks at one: it has asked for all."""


class Awaited:
    """In place of a tile in the first pass, or of frames of it, which may be joined with others of it."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Awaited:
        if func is torch.cat and all(isinstance(x, Awaited) for x in args[0]):
            return cls()
        raise LookedAtError

    def __getattr__(self, name: str) -> Any:
        raise LookedAtError

    def __getitem__(self, key: Any) -> Any:
        raise LookedAtError


def exchanged(
    tiles: dict[int, list[Tensor]], count: int, group: Group, device: torch.device, failed: BaseException | None = None
) -> Iterator[Tensor]:
    """What each call for ``count`` tiles returned, in their order; of them ``tiles`` were made here.

    A tile comes when it is asked for, so that all ranks have to ask for all. Raises what ``failed`` here, and
    :class:`DisagreementError` if another rank failed or has another number of tiles.
    """
    told: list[Any] = [None] * group.size
    mine = {tile: [(x.shape, x.dtype) for x in made] for tile, made in tiles.items()}
    dist.all_gather_object(told, (count, failed is None, mine), group=group.handle)
    if failed is not None:
        raise failed
    if broken := [str(rank) for rank, (_, fine, _) in enumerate(told) if not fine]:
        raise DisagreementError(f"rank {', '.join(broken)} of this request failed while it decoded; see what it says")
    if len({number for number, *_ in told}) > 1:
        raise DisagreementError(
            f"the ranks of this request decode {', '.join(str(number) for number, *_ in told)} tiles, in their order: "
            "they need the same sizes, and a VAE with the same tiles"
        )
    shapes = {tile: made for *_, each in told for tile, made in each.items()}

    def sent(tile: int) -> list[Tensor]:
        owner, sizes = tile % group.size, [shape.numel() for shape, _ in shapes[tile]]
        flat = torch.empty(sum(sizes), dtype=shapes[tile][0][1], device=device)
        if owner == group.rank:
            torch.cat([x.reshape(-1) for x in tiles.pop(tile)], out=flat)
        dist.broadcast(flat, dist.get_global_rank(group.handle, owner), group=group.handle)
        return [x.view(shape) for x, (shape, _) in zip(flat.split(sizes), shapes[tile], strict=True)]

    return (x for tile in range(count) for x in sent(tile))


def said(pipe: Any, spread: bool) -> str:
    """In words, who decodes the tiles of the VAE of ``pipe``; nothing if there are none."""
    vae = getattr(pipe, "vae", None)
    if not getattr(vae, "use_tiling", False):
        return ""
    return f"; {'tiles of the VAE in turns' if spread else f'{type(vae).__name__} decodes all its tiles on every rank'}"


def _inside_call_of(pipe: Any) -> bool:
    """Whether this code runs within a call of ``pipe`` itself."""
    code, frame = inspect.unwrap(type(pipe).__call__).__code__, sys._getframe(1)
    while frame is not None:
        if frame.f_code is code and frame.f_locals.get("self") is pipe:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
