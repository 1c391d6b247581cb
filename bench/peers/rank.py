"""One rank of a job of bench.peers.ranks: ``torchrun … -m bench.peers.rank FOLDER TRIAL SYSTEM``.

What it finds goes to FOLDER as it finds it, so that a rank that waits for ever has said how far it came.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

import c4d
from bench import peers
from bench.peers.rig import Bench, rand, short
from bench.wire import Wire

STEPS, RANKS = 6, 2
WAITS = 10.0  # seconds after which c4d's groups give up, and diffusers' and cache-dit's ranks are taken to hang
GRIDS = {"192 tokens": (16, 16), "75 tokens": (10, 10), "3 heads": (16, 16), "text of 5 and of 9 words": None}


class Deaf:
    """Ranks for a c4d cache that listen to nobody: every one decides by what it measures itself."""

    def __init__(self, ranks: Any) -> None:
        self._ranks = ranks

    def compare(self, *call: Any) -> None:
        return None

    def all_sum(self, partial: Tensor, counts: Any, failed: bool) -> list[list[float]]:
        return partial.tolist()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ranks, name)


# -- the systems: spread a model, and cache it with a threshold if there is one


@contextmanager
def own(model: Any, threshold: float | None, how: c4d.SequenceParallel, deaf: bool = False) -> Iterator[None]:
    with c4d.sharded(model, how, backend="cpu") as ranks, ExitStack() as stack:
        if threshold is not None:
            method = f"first-block:threshold={threshold},last=0"
            listening = Deaf(ranks) if deaf else ranks
            stack.enter_context(c4d.cached(model, method, backend="cpu", ranks=listening)).begin(range(STEPS))
        yield


@contextmanager
def diffusers(model: Any, threshold: float | None, **how: Any) -> Iterator[None]:
    from diffusers import ContextParallelConfig, FirstBlockCacheConfig

    with ExitStack() as stack:
        if threshold is not None:  # before the tokens are spread; afterwards its hooks see all and some of them
            stack.enter_context(peers.hooks(model, FirstBlockCacheConfig(threshold=threshold)))
        with mock.patch("torch.accelerator.device_count", lambda: 1):  # else it divides by a CPU's devices, 0
            model.enable_parallelism(config=ContextParallelConfig(**how))
        yield


@contextmanager
def cache_dit(model: Any, threshold: float | None) -> Iterator[None]:
    import cache_dit as peer
    from cache_dit.distributed import enable_parallelism

    with mock.patch("torch.accelerator.device_count", lambda: 1), ExitStack() as stack:
        if threshold is not None:
            blocks = {"Fn_compute_blocks": 1, "Bn_compute_blocks": 0, "max_warmup_steps": 1}
            stack.enter_context(peers.cache_dit(model, STEPS, cfg=False, residual_diff_threshold=threshold, **blocks))()
        enable_parallelism(model, peer.ParallelismConfig(ulysses_size=RANKS))
        yield


ULYSSES, RING = (c4d.SequenceParallel(*how, cfg=1, timeout=WAITS, groups="torch") for how in ((RANKS, 1), (1, RANKS)))
SYSTEMS = {
    "c4d Ulysses": partial(own, how=ULYSSES),
    "c4d Ring": partial(own, how=RING),
    "c4d, each rank deciding alone": partial(own, how=ULYSSES, deaf=True),
    "diffusers Ulysses": partial(diffusers, ulysses_degree=RANKS),
    "diffusers Ulysses, any number": partial(diffusers, ulysses_degree=RANKS, ulysses_anything=True),
    "diffusers Ring": partial(diffusers, ring_degree=RANKS),
    "cache-dit Ulysses": cache_dit,
}


# -- the trials


def model_of(trial: str) -> tuple[Any, dict[str, Any]]:
    """A model, and the arguments of a forward."""
    grid = GRIDS.get(trial, (16, 16))
    if grid is None:
        return hunyuan()
    bench = Bench() if trial != "3 heads" else Bench(heads=3)
    x = rand(1, 4, 3, *grid, seed=3)
    x[:, :, 1:] *= 0.2  # what the ranks have differs, as parts of a picture do
    text = rand(1, 16, 32, seed=4)
    return bench.model, dict(hidden_states=x, timestep=torch.tensor([500.0]), encoder_hidden_states=text)


def hunyuan() -> tuple[Any, dict[str, Any]]:
    from diffusers import HunyuanVideoTransformer3DModel

    torch.manual_seed(0)
    model = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=4, attention_head_dim=16, num_layers=2, num_single_layers=2,
        num_refiner_layers=1, patch_size=1, patch_size_t=1, guidance_embeds=True, text_embed_dim=32,
        pooled_projection_dim=8, rope_axes_dim=(4, 6, 6),
    ).eval()  # fmt: skip
    mask = torch.zeros(2, 10)
    mask[0, :5] = mask[1, :9] = 1
    return model, dict(
        hidden_states=rand(2, 4, 3, 8, 8, seed=3),
        timestep=torch.full((2,), 500.0),
        encoder_hidden_states=rand(2, 10, 32, seed=4),
        encoder_attention_mask=mask,
        pooled_projections=rand(2, 8, seed=5),
        guidance=torch.full((2,), 6000.0),
    )


def exact(trial: str, system: str, say: Any) -> None:
    """One forward: its error to that of one process, and what this rank sent."""
    model, given = model_of(trial)
    want = model(**given, return_dict=False)[0].clone()
    with SYSTEMS[system](model, None):
        with Wire() as wire:
            got = model(**given, return_dict=False)[0]
        say(error=float((got - want).abs().max()), bytes=wire.bytes, collectives=len(wire.sent))


def planted(trial: str, system: str, say: Any) -> None:
    """A loop whose threshold lies between what the ranks measure in its second step."""
    model, given = model_of(trial)
    blocks, said = list(model.blocks), dict(passes="", ran=0)
    residuals: list[Tensor] = []

    def loop(steps: int) -> None:
        x = given["hidden_states"]
        for step in range(steps):
            said["ran"] = 0
            with model.cache_context("cond"):
                now = {**given, "hidden_states": x, "timestep": torch.tensor([1000.0 - 150 * step])}
                out = model(**now, return_dict=False)[0]
            said["passes"] += "C" if said["ran"] == len(blocks) else "r"
            say(**said)
            x = x - out / STEPS

    def count(module: Any, args: Any) -> None:
        said["ran"] += 1
        say(**said)

    with SYSTEMS[system](model, None) if system == "c4d Ulysses" else own(model, None, ULYSSES):
        first = blocks[0].register_forward_hook(lambda module, args, out: residuals.append(out - args[0]))
        loop(2)
        first.remove()
    before, now = residuals
    ratio = float((now - before).abs().mean() / before.abs().mean())
    found: list[Any] = [None] * RANKS
    dist.all_gather_object(found, ratio)
    said.update(passes="", ran=0, ratio=ratio, threshold=min(found) + 0.75 * (max(found) - min(found)))
    with SYSTEMS[system](model, said["threshold"]):
        for block in blocks:
            block.attn1.register_forward_pre_hook(count)
        loop(STEPS)
    say(**said, done=True)


def main(folder: str, trial: str, system: str) -> None:
    faulthandler.dump_traceback_later(float(os.environ["C4D_RANKS_LIMIT"]), exit=True)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    dist.init_process_group("gloo", timeout=timedelta(seconds=WAITS))
    known: dict[str, Any] = {}

    def say(**found: Any) -> None:
        known.update(found)
        path = Path(folder) / f"{dist.get_rank()}.json"
        path.with_suffix(".new").write_text(json.dumps(known))
        path.with_suffix(".new").replace(path)

    try:
        (planted if trial == "planted" else exact)(trial, system, say)
    except Exception as error:  # the measurement: what a system says is its answer
        say(raised=re.sub(r"\[\S+\] ", "", short(error)))  # less the place in the source
    os._exit(0)  # groups with ranks that wait in them do not end well


if __name__ == "__main__":
    main(*sys.argv[1:])
