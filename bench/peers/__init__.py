"""The other systems on a bare Wan transformer, by the calls that their documentation gives; each a context manager.

Every one yields ``begin()``, which must be called before each generation: the reset that the system asks of library
users (``refresh_context`` in cache-dit, ``_reset_stateful_cache`` in diffusers). bench/peers/isolation.py shows what
happens without it.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn

from bench.stamp import stamp
from c4d.pipelines.peers import dbcache, restored, taylorseer
from c4d.pipelines.peers import hooks as hooks  # for those who call it here

Begin = Callable[[], None]
os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "WARNING")  # read when it is imported; below, it tells of every call


def versions() -> str:
    """The peers' versions, for the foot of a measurement; raises if one is missing, naming the way out."""
    try:
        return ", ".join(f"{name} {version(name)}" for name in ("cache-dit", "diffusers"))
    except PackageNotFoundError as error:
        raise SystemExit(f"{error.name} is missing: make bench installs it (pip install -e '.[bench]')") from error


def publish(page: Path, lines: Sequence[str], threads: int) -> None:
    """Writes and prints ``lines``, with the command that is run and where, and the peers' versions at their foot."""
    command = shlex.join(["python", "-m", f"bench.peers.{page.stem}", *sys.argv[1:]])
    text = "\n".join([*lines, "", *stamp(command, threads), f"- Peers: {versions()}"])
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text + "\n")
    print(text)


@contextmanager
def cache_dit(
    transformer: nn.Module,
    steps: int,
    *,
    cfg: bool = True,
    calibrator: str | None = None,
    adapter: Mapping[str, Any] | None = None,
    **config: Any,
) -> Iterator[Begin]:
    """cache-dit's DBCache; ``config`` goes to DBCacheConfig, ``calibrator`` names one of its own ("TaylorSeer 1").

    ``adapter``: what its BlockAdapter is told of the blocks; None is Wan's.
    """
    import cache_dit as peer

    blocks = adapter_of(transformer, ("blocks",), "Pattern_2") if adapter is None else adapter
    whole = peer.BlockAdapter(transformer=transformer, has_separate_cfg=cfg, **blocks)
    how = {"num_inference_steps": steps, "enable_separate_cfg": cfg, **config}
    with restored(transformer), dbcache(whole, transformer, calibrator, **how):
        yield lambda: peer.refresh_context(transformer, num_inference_steps=steps)


def adapter_of(transformer: Any, stacks: Sequence[str], pattern: str) -> dict[str, Any]:
    """The blocks as cache-dit's own adapters of these models describe them; FLUX as one chain of both kinds."""
    import cache_dit as peer

    lists, form = [getattr(transformer, path) for path in stacks], peer.ForwardPattern[pattern]
    if len(lists) == 1:
        return {"blocks": lists[0], "forward_pattern": form}
    if pattern != "Pattern_1":
        return {"blocks": lists, "forward_pattern": [form] * len(lists), "check_num_outputs": False}
    from cache_dit.caching.patch_functors import FluxPatchFunctor

    return {
        "blocks": lists[0] + lists[1],
        "blocks_name": stacks[0],
        "dummy_blocks_names": list(stacks[1:]),
        "patch_functor": FluxPatchFunctor(),
        "forward_pattern": form,
    }


@contextmanager
def timed(transformer: Any, make: Callable[[Callable[[], float]], Any], unit: float = 1.0) -> Iterator[Begin]:
    """Hooks of diffusers that ask for the timestep of this forward; ``make`` gets the clock and gives the config.

    ``unit``: of the model's timesteps, of which there are 1000.
    """
    now: list[float] = []

    def note(_: nn.Module, args: Any, given: Mapping[str, Any]) -> None:
        now[:] = [float(given["timestep"].max()) / unit]

    handle = transformer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with hooks(transformer, make(lambda: now[0])) as begin:
            yield begin
    finally:
        handle.remove()


def taylorseer_config(interval: int, order: int, warmup: int = 3, lite: bool = False) -> Any:
    """diffusers' config of it, see :func:`c4d.pipelines.peers.taylorseer`."""
    from diffusers import TaylorSeerCacheConfig

    return TaylorSeerCacheConfig(**taylorseer(interval, order, warmup, lite))


def static_mask(computed: Sequence[int], steps: int) -> dict[str, Any]:
    """Fields of cache-dit's DBCacheConfig for a schedule."""
    bits = [int(step in computed) for step in range(steps)]
    return {"steps_computation_mask": bits, "steps_computation_policy": "static", "max_warmup_steps": 3}
