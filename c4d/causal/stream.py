"""A clip that is made while it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from c4d.causal.blocks import Blocks
from c4d.causal.decoder import StreamingDecoder
from c4d.causal.memory import KVCache
from c4d.causal.patch import CausalPatch
from c4d.causal.samplers import Sampler
from c4d.core.integration.attach import session_of

BRANCHES = ("cond", "uncond")  # as diffusers' pipelines name them


@dataclass(frozen=True)
class Setup:
    """What all clips of a rollout have in common."""

    pipe: Any
    blocks: Blocks
    sampler: Sampler
    guidance: float
    context_noise: float
    fps: float
    kv_dtype: torch.dtype | None
    kv_place: str
    patch: Callable[[], CausalPatch]

    @property
    def branches(self) -> tuple[str, ...]:
        return BRANCHES if self.guidance > 1 else BRANCHES[:1]


@dataclass(frozen=True)
class Clip:
    """One of them: ``texts`` of each branch, ``prefix`` [B, C, F, H, W] clean latents that it goes on from, ``latents``
    frames in all (None: without end), of ``pixels`` frames."""

    shape: tuple[int, int, int, int]  # batch, channels, rows and columns of latents
    latents: int | None
    pixels: int | None
    draw: Callable[[Sequence[int]], Tensor]
    prefix: Tensor | None = None


class Making:
    """A clip under way: what is held of it, and how its next block is made."""

    def __init__(self, setup: Setup, clip: Clip) -> None:
        room = clip.latents if clip.latents is not None else setup.blocks.window
        if room is None:
            raise ValueError("a clip without end needs a window: keys and values of all its frames would not fit")
        self._setup, self._clip = setup, clip
        make = partial(KVCache, setup.blocks, room, dtype=setup.kv_dtype, place=setup.kv_place)
        self.cache = {name: make() for name in setup.branches}
        self.decoder = StreamingDecoder(setup.pipe.vae)
        self.texts: dict[str, Tensor] = {}
        self.made = 0  # frames of latents, those it goes on from too

    def frames(self) -> Iterator[Tensor]:
        """Pixels [B, T, 3, H, W] of block after block; whenever that ends, nothing stays."""
        try:
            left = self._clip.pixels
            self._take_in()
            for start, stop in self._setup.blocks.spans(self.made):
                if self._clip.latents is not None and start >= self._clip.latents:
                    return
                pixels = self.decoder(self._block(start, stop)).float().transpose(1, 2)
                pixels, self.made = (pixels / 2 + 0.5)[:, :left], stop
                yield pixels
                left = None if left is None else left - pixels.shape[1]
        finally:
            self.free()

    def free(self) -> None:
        for each in self.cache.values():
            each.clear()
        self.decoder.clear()

    @torch.no_grad()
    def _take_in(self) -> None:
        """The frames that the clip goes on from: their keys and values, and what the decoder needs of them."""
        prefix = self._clip.prefix
        if prefix is None:
            return
        with self._setup.patch() as patch:
            for start, stop in self._setup.blocks.spans():
                if start >= prefix.shape[2]:
                    break
                self._refresh(patch, prefix[:, :, start:stop], start, stop)
        self.decoder(prefix)
        self.made = prefix.shape[2]

    @torch.no_grad()
    def _block(self, start: int, stop: int) -> Tensor:
        """Clean latents [B, C, F, H, W] of these frames."""
        setup, (batch, channels, *sides) = self._setup, self._clip.shape
        device = next(setup.pipe.transformer.parameters()).device
        session = session_of(setup.pipe.transformer)
        noise = self._clip.draw((batch, channels, stop - start, *sides)).to(device)
        with setup.patch() as patch:
            steps = setup.sampler.begin(device)
            with nullcontext() if session is None else session.begin(*steps):
                clean = setup.sampler(noise, partial(self._velocity, patch, start, stop), self._noise_like)
            self._refresh(patch, clean, start, stop)
        return clean

    def _noise_like(self, x: Tensor) -> Tensor:
        return self._clip.draw(x.shape).to(x)

    def _velocity(self, patch: CausalPatch, start: int, stop: int, x: Tensor, t: Tensor) -> Tensor:
        """Guided: uncond + guidance · (cond - uncond)."""
        first, *others = (self._forward(patch, name, x, t, start, stop) for name in self._setup.branches)
        return first if not others else others[0] + self._setup.guidance * (first - others[0])

    def _refresh(self, patch: CausalPatch, clean: Tensor, start: int, stop: int) -> None:
        """Keys and values of finished frames, by one forward of each branch that nothing may skip."""
        session = session_of(self._setup.pipe.transformer)
        level = self._setup.context_noise / 1000
        x = clean if not level else (1 - level) * clean + level * self._noise_like(clean)
        with nullcontext() if session is None else session.aside():
            for name in self._setup.branches:
                self._forward(patch, name, x, torch.tensor(1000 * level, device=x.device), start, stop)

    def _forward(self, patch: CausalPatch, name: str, x: Tensor, t: Tensor, start: int, stop: int) -> Tensor:
        transformer, text = self._setup.pipe.transformer, self.texts[name]
        patch.block(self.cache[name], start, stop)
        with transformer.cache_context(name):
            out: Tensor = transformer(
                hidden_states=x.to(text.dtype),
                timestep=t.expand(x.shape[0]),
                encoder_hidden_states=text,
                return_dict=False,
                **patch.causal.arguments(transformer, x.shape[0], self._setup.fps),
            )[0]
        return out


class Stream(Iterator[Tensor]):
    """An iterator over pixels [B, T, 3, H, W] in [0, 1], a block at a time; ended or left, it frees all that it holds.

    What it hooks on the transformer stands only while a block is made, so that other calls between two blocks are none
    of its. It is not to be read by two threads.
    """

    def __init__(self, setup: Setup, clip: Clip, texts: Callable[[Any, Any], Sequence[Tensor]], prompt: Any) -> None:
        self._making, self._branches, self._encode = Making(setup, clip), setup.branches, texts
        self.prompt = prompt
        self._frames = self._making.frames()  # which does not know of this object, and ends with it

    @property
    def prompt(self) -> Any:
        """The prompt, or a pair of it and the negative one; from the next block on, if it is set."""
        return self._prompt

    @prompt.setter
    def prompt(self, asked: Any) -> None:
        prompt, negative = asked if isinstance(asked, tuple) else (asked, None)
        self._making.texts = dict(zip(self._branches, self._encode(prompt, negative), strict=True))
        self._prompt = asked

    @property
    def cache(self) -> dict[str, KVCache]:
        """Keys and values of each branch of guidance."""
        return self._making.cache

    @property
    def made(self) -> int:
        """Frames of latents so far, those that it goes on from too."""
        return self._making.made

    def bytes(self) -> int:
        """That it holds: keys and values, and what the decoder keeps."""
        return sum(each.bytes() for each in self.cache.values()) + self._making.decoder.bytes()

    def __next__(self) -> Tensor:
        return next(self._frames)

    def close(self) -> None:
        """Ends it."""
        self._frames.close()  # type: ignore[attr-defined]
        self._making.free()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
