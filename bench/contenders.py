"""Random Wan transformers, and the systems that cache them, ready to take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import c4d
from bench import peers

FOREVER = 10**6  # steps: a run that does not end while its forwards are timed
COMMON = {"patch_size": (1, 2, 2), "in_channels": 4, "out_channels": 4, "qk_norm": "rms_norm_across_heads"}
SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 8, "text_dim": 16},
    "mid": {"num_attention_heads": 6, "attention_head_dim": 64, "ffn_dim": 1536, "num_layers": 8, "text_dim": 64},
}
LATENTS = {"tiny": (1, 4, 2, 16, 16), "mid": (1, 4, 3, 24, 24)}  # 128 and 432 tokens


class Wan:
    """A random Wan and its inputs; equal seeds, so that all of one size are equal."""

    def __init__(self, size: str) -> None:
        from diffusers import WanTransformer3DModel

        torch.manual_seed(0)
        self.model: Any = WanTransformer3DModel(**COMMON, **SIZES[size], freq_dim=32, rope_max_seq_len=32).eval()
        self.x, self.text = torch.randn(LATENTS[size]), torch.randn(1, 12, SIZES[size]["text_dim"])

    def step(self, x: Tensor, t: Tensor) -> Tensor:
        """The two forwards of a guided step."""
        outs = []
        for name in ("cond", "uncond"):
            with self.model.cache_context(name):
                outs.append(self.model(x, timestep=t, encoder_hidden_states=self.text, return_dict=False)[0])
        return outs[1] + 4.0 * (outs[0] - outs[1])

    def hidden(self) -> Tensor:
        """A tensor like the hidden state between the blocks: [1, tokens, channels]."""
        config = self.model.config
        return torch.randn(1, self.x[0, 0].numel() // 4, config.num_attention_heads * config.attention_head_dim)


@dataclass(frozen=True)
class Contender:
    """``attach(stack, model)`` caches the model until the stack closes and returns what opens a run of n steps."""

    name: str
    attach: Callable[[ExitStack, Any], Callable[[int], None]]


def ideal(blocks: int) -> Contender:
    def attach(stack: ExitStack, model: Any) -> Callable[[int], None]:
        model.blocks = model.blocks[:blocks] if blocks else nn.ModuleList()
        return lambda steps: None

    return Contender("ideal, " + ("first block only" if blocks else "stacks emptied"), attach)


def ours(text: str) -> Contender:
    def attach(stack: ExitStack, model: Any) -> Callable[[int], None]:
        session = stack.enter_context(c4d.cached(model, text, backend="cpu"))
        return lambda steps: session.begin(range(steps))

    return Contender(f"c4d `{text}`", attach)


def theirs(name: str, peer: Callable[..., Any], *args: Any, **kwargs: Any) -> Contender:
    def attach(stack: ExitStack, model: Any) -> Callable[[int], None]:
        begin = stack.enter_context(peer(model, *args, **kwargs))
        return lambda steps: begin()

    return Contender(name, attach)


def uncached() -> Contender:
    return Contender("uncached", lambda stack, model: lambda steps: None)


def hook_config(kind: str, interval: int) -> Any:
    """diffusers' configuration of a kind that reuses all it can, but for every ``interval``-th step."""
    from diffusers import FirstBlockCacheConfig, MagCacheConfig

    if kind == "first block":
        return FirstBlockCacheConfig(threshold=1e9)
    if kind == "mag":
        ratios, few = [1.0] * 10_000, 0.0003  # the share of steps that it computes first
        return MagCacheConfig(
            num_inference_steps=10_000, mag_ratios=ratios, threshold=1e9, max_skip_steps=10_000, retention_ratio=few
        )
    return peers.taylorseer_config(interval, 1, lite=kind == "lite")


def seconds_in_turns(turns: Sequence[Callable[[], Any]], rounds: int, warm: int) -> list[list[float]]:
    """Seconds of each turn in each round; every round starts with another one, every other round runs backwards."""
    taken: list[list[float]] = [[] for _ in turns]
    for r in range(-warm, rounds):
        order = [(i + r) % len(turns) for i in range(len(turns))]
        for i in order[:: -1 if r % 2 else 1]:
            started = time.perf_counter()
            turns[i]()
            if r >= 0:
                taken[i].append(time.perf_counter() - started)
    return taken


def calls_of(wan: Wan) -> int:
    """How often a step computes self-attention."""
    count: list[int] = []
    handles = [block.attn1.to_q.register_forward_hook(lambda *_: count.append(1)) for block in wan.model.blocks]
    wan.step(wan.x, torch.full((1,), 500.0))
    for handle in handles:
        handle.remove()
    return len(count)
