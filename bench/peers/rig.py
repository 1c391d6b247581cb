"""A small random Wan transformer in a loop of one's own, and the systems that can be attached to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

import c4d
from bench import peers

STEPS, GUIDANCE, BLOCKS, SIZE = 10, 5.0, 8, (16, 16)
Attach = Callable[[Any, Any], AbstractContextManager[peers.Begin]]


class Stop(Exception):
    """A request is given up."""


class Bench:
    """A model and a scheduler; ``passes`` says how many blocks each forward of the last request ran, by branch."""

    def __init__(self, heads: int = 4) -> None:
        from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

        torch.manual_seed(0)
        self.model = WanTransformer3DModel(
            num_attention_heads=heads, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=32, freq_dim=32,
            ffn_dim=128, num_layers=BLOCKS, rope_max_seq_len=64,
        ).eval()  # fmt: skip
        self.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        self.passes: dict[str, list[int]] = {}
        self._ran = 0
        for block in self.model.blocks:  # the block itself is also called where a hook answers for it
            block.attn1.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self._ran += 1

    def request(
        self,
        steps: int = STEPS,
        size: tuple[int, int] = SIZE,
        stop: int | None = None,
        skip: Collection[int] = (),
        guided: bool = True,
        broken: bool = False,
    ) -> Tensor:
        """Every prediction that moved the latents. ``stop``: given up before that forward; ``skip``: steps without the
        unconditional pass; not ``guided``: it is run but moves nothing; ``broken``: a NaN among the latents."""
        x = rand(1, 4, 3, *size, seed=3)
        if broken:
            x[0, 0, 0, 0, 0] = float("nan")
        self.scheduler.set_timesteps(steps)
        self.passes, out = {"cond": [], "uncond": []}, []
        for i, t in enumerate(self.scheduler.timesteps):
            both = {}
            for name in ("cond",) if i in skip else ("cond", "uncond"):
                if sum(map(len, self.passes.values())) == stop:
                    raise Stop
                self._ran = 0
                text = rand(1, 16, 32, seed=len(name))
                with self.model.cache_context(name):
                    made = self.model(x, timestep=t.expand(1), encoder_hidden_states=text, return_dict=False)
                both[name] = made[0].clone()
                self.passes[name].append(self._ran)
            cond = both["cond"]
            uncond = both.get("uncond", cond) if guided else cond
            out.append(uncond + GUIDANCE * (cond - uncond))
            x = self.scheduler.step(out[-1], t, x, return_dict=False)[0]
        return torch.stack(out)

    def line(self, branch: str) -> str:
        return "".join("C" if ran == BLOCKS else "r" for ran in self.passes[branch])

    def share(self) -> str:
        ran = [n for branch in self.passes.values() for n in branch]
        return f"{sum(ran)} of {BLOCKS * len(ran)} blocks"


def rand(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- the systems


def own(method: str, said: list[str] | None = None) -> Attach:
    """c4d; what its report says of itself goes to ``said``."""

    @contextmanager
    def attach(model: Any, scheduler: Any) -> Iterator[peers.Begin]:
        with c4d.cached(model, method, scheduler=scheduler) as session:
            yield lambda: None  # there is nothing to call
        if said is not None:
            said.extend(session.report().why)

    return attach


FIRST_BLOCK = "first-block:threshold=0.15,last=0"
OURS = {
    "c4d TaylorSeer-Lite": own("taylorseer-lite:interval=3@blocks"),
    "c4d First-Block": own(FIRST_BLOCK),
}


def others() -> dict[str, Attach]:
    import diffusers

    blocks = {"Fn_compute_blocks": 1, "Bn_compute_blocks": 0, "max_warmup_steps": 4, "residual_diff_threshold": 0.24}
    first = diffusers.FirstBlockCacheConfig(threshold=0.15)
    lite = peers.taylorseer_config(3, 1, warmup=2, lite=True)
    return {
        "cache-dit DBCache": lambda model, _: peers.cache_dit(model, STEPS, **blocks),
        "cache-dit + TaylorSeer": lambda model, _: peers.cache_dit(model, STEPS, calibrator="TaylorSeer 1", **blocks),
        "diffusers First-Block": lambda model, _: peers.hooks(model, first),
        "diffusers TaylorSeer-Lite": lambda model, _: peers.hooks(model, lite),
    }


def short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:170]}".replace("|", "/")
