"""The student: the teacher's transformer, that goes through a clip block by block."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import c4d
from c4d.causal.memory import KVCache
from c4d.causal.patch import CausalPatch
from c4d.causal.samplers import FewSteps
from c4d.models import spec_for

from .settings import Settings
from .teacher import velocity

ADAPTED = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")  # linear layers of every block


def trained_copy(transformer: Any, settings: Settings) -> Any:
    """With all of its weights to train, or with adapters of rank ``lora`` alone."""
    made = copy.deepcopy(transformer).train()
    made.requires_grad_(not settings.lora)
    if settings.lora:
        from peft import LoraConfig

        made.add_adapter(LoraConfig(r=settings.lora, lora_alpha=settings.lora, target_modules=list(ADAPTED)))
    return made


def trained_state(transformer: Any) -> dict[str, Tensor]:
    """What was trained of it."""
    return {name: p.detach().cpu() for name, p in transformer.named_parameters() if p.requires_grad}


class Student:
    """``transformer`` with what :func:`trained_state` kept of an earlier stage."""

    def __init__(self, transformer: Any, settings: Settings, state: dict[str, Tensor] | None = None) -> None:
        self.transformer, self.config = trained_copy(transformer, settings), settings.rollout
        if state is not None:
            missing = set(trained_state(self.transformer)) ^ set(state)
            if missing:
                raise ValueError(f"the weights of the stage before are of another model: {sorted(missing)[0]} differs")
            self.transformer.load_state_dict(state, strict=False)
        few = self.config.few
        assert few is not None
        self.levels = few.levels

    def patch(self) -> CausalPatch:
        """Inside of it the transformer is causal."""
        spec = spec_for(self.transformer)
        return CausalPatch(self.transformer, spec, partial(c4d.attention, self.transformer, spec=spec))

    def clean_at_once(self, patch: CausalPatch, x: Tensor, levels: Tensor, text: Tensor) -> Tensor:
        """x0 of all frames of a clip [B, C, F, H, W], each at a noise level of its own [B, F], under blocks' mask."""
        frames, patched = x.shape[2], self.transformer.config.patch_size
        tokens = x.shape[3] // patched[1] * (x.shape[4] // patched[2])
        patch.masked(self.config.blocks, frames, tokens)
        of_tokens = levels.repeat_interleave(tokens, 1)
        return x - levels[:, None, :, None, None] * velocity(self.transformer, x, of_tokens, text)

    def rollout(
        self,
        patch: CausalPatch,
        noise: Tensor,
        text: Tensor,
        generator: torch.Generator,
        *,
        steps: int,
        context: Tensor | None = None,
    ) -> Tensor:
        """x0 [B, C, F, H, W] of the first ``steps`` noise levels, block by block over its own keys and values.

        Gradients reach the last step of each block, and nothing before it: neither earlier steps nor earlier blocks
        (Self-Forcing, arXiv 2506.08009, algorithm 1). ``context``: clean latents that later blocks look back at, in the
        place of those that were made (teacher forcing).
        """
        config, made = self.config, list[Tensor]()
        cache = KVCache(config.blocks, noise.shape[2])
        sampler = FewSteps(config.steps[:steps], config.shift)  # type: ignore[index]
        learns = torch.is_grad_enabled()

        def draw(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator).to(like)

        for start, stop in config.blocks.spans():
            if start >= noise.shape[2]:
                break
            last = iter([False] * (steps - 1) + [learns])
            clean = sampler(noise[:, :, start:stop], partial(self._step, patch, cache, (start, stop), text, last), draw)
            made.append(clean)
            seen = clean.detach() if context is None else context[:, :, start:stop]
            self._step(patch, cache, (start, stop), text, iter([False]), seen, torch.zeros((), device=seen.device))
        return torch.cat(made, 2)

    def _step(
        self,
        patch: CausalPatch,
        cache: KVCache,
        span: tuple[int, int],
        text: Tensor,
        learns: Iterator[bool],
        x: Tensor,
        t: Tensor,
    ) -> Tensor:
        patch.block(cache, *span)
        with torch.set_grad_enabled(next(learns)):
            return velocity(self.transformer, x, (t / 1000).expand(len(x)), text)
