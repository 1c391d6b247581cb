"""A VAE whose tiles are spread over the ranks: the bits are those of one rank's tiles, and no rank waits in vain."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import c4d
from c4d import SequenceParallel
from c4d.parallel.agree import DisagreementError
from c4d.parallel.collectives import Group
from c4d.parallel.tiles import TiledDecoding, said
from tests import pipes
from tests.parallel.job import BOTH, BRANCHED, CPU, WAYS, Case, bits, error, gathered, raised, rank, same, sharded
from tests.pipes import wan_tiny
from tests.tiny import rand


class Pipe:
    """What decodes latents, as a pipeline does after its loop."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae

    def __call__(self, z: Tensor) -> Tensor:
        return self._decoded(z)

    def _decoded(self, z: Tensor) -> Tensor:
        return self.vae.decode(z, return_dict=False)[0]


def small_tiles(vae: Any) -> Any:
    """Of 4 latents a side, a new one every 3."""
    vae.enable_tiling()
    scale = getattr(vae, "spatial_compression_ratio", None) or 2 ** (len(vae.config.block_out_channels) - 1)
    if hasattr(vae, "tile_sample_stride_height"):
        vae.tile_sample_min_height = vae.tile_sample_min_width = 4 * scale
        vae.tile_sample_stride_height = vae.tile_sample_stride_width = 3 * scale
    else:
        vae.tile_latent_min_size, vae.tile_sample_min_size, vae.tile_overlap_factor = 4, 4 * scale, 0.25
    if hasattr(vae, "tile_latent_min_height"):
        vae.tile_latent_min_height = vae.tile_latent_min_width = 4
    return vae


def cogvideox() -> Any:
    from diffusers import AutoencoderKLCogVideoX

    torch.manual_seed(0)
    kinds = dict(down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4)
    return AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4, **kinds
    ).eval()


VAES: dict[str, tuple[Callable[[], Any], int]] = {  # and frames of latents, 0: pictures
    "wan": (lambda: wan_tiny().vae, 3),
    "qwen": (pipes.qwen_vae, 1),
    "kl": (lambda: pipes.flux().vae, 0),
    "hunyuan": (lambda: pipes.hunyuan_video().vae, 2),
    "cogvideox": (cogvideox, 4),
}


@functools.cache
def vae_of(name: str) -> Any:
    return small_tiles(VAES[name][0]().eval())


def latents(name: str, height: int, width: int) -> Tensor:
    vae, frames = vae_of(name), VAES[name][1]
    channels = getattr(vae.config, "z_dim", None) or vae.config.latent_channels
    return rand(1, channels, *((frames,) if frames else ()), height, width)


def everyone() -> Group:
    return Group(dist.group.WORLD, dist.get_world_size(), rank())


@contextmanager
def spread(pipe: Any) -> Iterator[list[int]]:
    """While the tiles of ``pipe`` are: how often its decoder ran here."""
    calls, tiles = list[int](), TiledDecoding(pipe, everyone())
    hook = pipe.vae.decoder.register_forward_hook(lambda *_: calls.append(1))
    tiles.install()
    try:
        yield calls
    finally:
        tiles.remove()
        hook.remove()


def decoded(name: str, height: int, width: int, tiles: int) -> None:
    """So many tiles, each on one rank alone; the result is on all of them."""
    pipe, z = Pipe(vae_of(name)), latents(name, height, width)
    count = list[int]()
    hook = pipe.vae.decoder.register_forward_hook(lambda *_: count.append(1))
    want = pipe(z)
    hook.remove()
    before = set(vars(pipe.vae))
    with spread(pipe) as calls:
        got = pipe(z)
    frames, (world, me) = len(count) // tiles, (dist.get_world_size(), rank())
    assert len(count) == frames * tiles, (len(count), tiles)
    assert len(calls) == frames * len(range(me, tiles, world)), (len(calls), frames)
    assert torch.equal(got, want), error(got, want)
    assert set(vars(pipe.vae)) == before


def alone(name: str) -> None:
    """One rank decodes outside of the pipeline, and the others do not: it waits for nobody."""
    pipe, z = Pipe(vae_of(name)), latents(name, 8, 8)
    want = pipe(z)
    with spread(pipe):
        if rank() == 0:
            assert torch.equal(pipe.vae.decode(z, return_dict=False)[0], want)


def fails() -> None:
    """A rank that fails in its tile says so; the others know at once, and the VAE is as it was."""
    pipe, z = Pipe(vae_of("wan")), latents("wan", 8, 8)
    want = pipe(z)
    with spread(pipe):
        if rank() == 1:
            hook = pipe.vae.decoder.register_forward_hook(lambda *_: 1 / 0)
        said = raised(lambda: pipe(z), ZeroDivisionError, DisagreementError)
        if rank() == 1:
            hook.remove()
    wanted = "ZeroDivisionError" if rank() == 1 else "DisagreementError: rank 1 of this request failed while it decoded"
    assert said.startswith(wanted), said
    assert torch.equal(pipe(z), want)


def differ() -> None:
    pipe, z = Pipe(vae_of("kl")), latents("kl", 8, 8 if rank() else 10)
    with spread(pipe):
        said = raised(lambda: pipe(z), DisagreementError)
    assert "decode 12, 9" in said and "the same sizes" in said, said


def end_to_end(how: SequenceParallel) -> None:
    """A pipeline under ``c4d.sharded``: with guidance and a cache, from a prompt to pixels."""
    asked: dict[str, Any] = dict(
        prompt="a red circle", height=32, width=32, num_frames=5, num_inference_steps=2, guidance_scale=3.0,
        max_sequence_length=16, output_type="pt", return_dict=False,
    )  # fmt: skip

    def made(pipe: Any) -> Tensor:
        return pipe(**asked, generator=torch.Generator().manual_seed(0))[0]

    pipe, count = wan_tiny(), list[int]()
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.decoder.register_forward_hook(lambda *_: count.append(1))
    small_tiles(pipe.vae)
    with c4d.cached(pipe, "fora:interval=2", backend=CPU):
        want, total = made(pipe), len(count)
    count.clear()
    with sharded(pipe, how) as ranks, c4d.cached(pipe, "fora:interval=2", backend=CPU):
        assert ranks.said().endswith("; tiles of the VAE in turns")
        got = made(pipe)
    assert sum(gathered(len(count))) == total > len(count) > 0
    assert error(got, want) <= 1e-3 and "tiled_decode" not in vars(pipe.vae)
    same(bits(got))


def what_fits() -> None:
    assert TiledDecoding.fits(Pipe(vae_of("wan"))) and not TiledDecoding.fits(SimpleNamespace(vae=None))
    other = SimpleNamespace(vae=SimpleNamespace(use_tiling=True))
    assert not TiledDecoding.fits(other) and not TiledDecoding.fits(None)
    assert said(other, False) == "; SimpleNamespace decodes all its tiles on every rank"
    assert said(Pipe(wan_tiny().vae), True) == said(None, False) == ""


def cases(world: int) -> dict[str, Case]:
    sizes = {"9 tiles": (8, 8, 9), "2 tiles": (3, 6, 2), "3 tiles, a short one": (3, 8, 3)}
    found: dict[str, Case] = {"tiles: what fits": what_fits, "tiles: a rank fails": fails}
    for name in VAES:
        for size, shape in sizes.items():
            if name in ("wan", "kl") or size == "9 tiles":
                found[f"tiles: {name}, {size}"] = functools.partial(decoded, name, *shape)
    found["tiles: one rank alone"] = functools.partial(alone, "wan")
    if world == 2:
        found["tiles: other sizes"] = differ
    ways = {**WAYS[world], **BRANCHED[world]}
    branched = next(iter(BRANCHED[world]))
    for way in (BOTH[world], branched):
        found[f"{way}, tiles end to end"] = functools.partial(end_to_end, ways[way])
    return found
