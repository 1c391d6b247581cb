"""Every described family with a sharding plan, by its example: on several ranks it gives, and caches, what one does."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

import c4d
from c4d import SequenceParallel
from c4d.models import SPECS
from tests.denoisers import ENTRIES, Denoiser, changed, rand
from tests.parallel.job import BOTH, WAYS, Case, bits, error, passes, same, sharded

EXACT = 5e-6
TIMES = (900.0, 700.0, 500.0, 300.0)
METHODS = {
    "no cache": None,
    "output": "taylorseer-lite:interval=2,last=0",
    "blocks": "taylorseer-lite:interval=2,order=1,last=0@blocks",
    "first block": "first-block:threshold=0.2,last=0,batch=each",
    "inside": "fora:interval=2,last=0",
}


ENTRY = {entry.name: entry for entry in ENTRIES if entry.name in SPECS and SPECS[entry.name].sharding}
EACH = torch.tensor([[0.0] * 3 + [400.0] * 6])  # timesteps of each token: the first frame is given
TWO = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])  # masks of text
FAMILIES = {
    **ENTRY,
    "HunyuanVideo 1.5, uneven": changed("HunyuanVideo15Transformer3DModel", (1, 4, 3, 3, 5)),
    "SkyReels-V2, uneven, batch of 2": changed(
        "SkyReelsV2Transformer3DModel", (2, 4, 3, 6, 10), encoder_hidden_states=rand(2, 6, 8, seed=1)
    ),
    "LTX-Video, timesteps of each token": changed(
        "LTXVideoTransformer3DModel", (1, 9, 8), num_frames=3, height=1, width=3, timestep=EACH
    ),
    "LTX-2, timesteps of each token, gates, halves turned": changed(
        "LTX2VideoTransformer3DModel",
        config=dict(rope_type="split", gated_attn=True, audio_gated_attn=True),
        timestep=torch.tensor([[0.0] * 4 + [400.0] * 8]),
        audio_timestep=torch.tensor([400.0]),
    ),
    "SD3, uneven, a ControlNet": changed(
        "SD3Transformer2DModel", (1, 4, 6, 10), block_controlnet_hidden_states=[rand(1, 15, 16, seed=1)]
    ),
    "CogVideoX, uneven": changed("CogVideoXTransformer3DModel", (1, 3, 4, 6, 10)),
    "CogView 4, uneven": changed("CogView4Transformer2DModel", (1, 4, 6, 10)),
    "Mochi, prompts of two lengths": changed(
        "MochiTransformer3DModel",
        (2, 4, 3, 6, 10),
        encoder_hidden_states=rand(2, 5, 16, seed=1),
        encoder_attention_mask=TWO.bool(),
        timestep=torch.tensor([300.0, 300.0]),
    ),
    "PRX, padded text": changed("PRXTransformer2DModel", (1, 4, 6, 10), attention_mask=TWO[1:].bool()),
    "Cosmos, a timestep, a ControlNet": changed(
        "CosmosTransformer3DModel",
        config=dict(extra_pos_embed_type="learnable", controlnet_block_every_n=2),
        timestep=torch.tensor([0.5]),
        block_controlnet_hidden_states=[rand(1, 48, 32, seed=1), rand(1, 48, 32, seed=2)],
    ),
}


def loop(entry: Denoiser, model: Any, method: str | None) -> tuple[list[Tensor], list[Any]]:
    """Predictions of a few steps, and what the cache did."""
    x = rand(*entry.latents, seed=3)

    def steps() -> list[Tensor]:
        return [out for k, t in enumerate(TIMES) for out in entry.run(model, (1.0 + 0.01 * k) * x, t)]

    if method is None:
        return steps(), []
    with c4d.cached(model, method) as session:
        session.begin(TIMES)
        return steps(), passes(session)


@functools.cache
def alone(name: str) -> tuple[Any, dict[str, tuple[list[Tensor], list[Any]]]]:
    model = FAMILIES[name].build()
    return model, {what: loop(FAMILIES[name], model, method) for what, method in METHODS.items()}


def family(name: str, how: SequenceParallel) -> None:
    model, wanted = alone(name)
    for what, method in METHODS.items():
        want, did = wanted[what]
        with sharded(model, how):
            got, done = loop(FAMILIES[name], model, method)
        same(bits(*got))
        assert done == did, (what, done, did)
        assert error(got, want) <= EXACT, (what, error(got, want))


def cases(world: int) -> dict[str, Case]:
    ways = WAYS[world] if world == 2 else {BOTH[world]: WAYS[world][BOTH[world]]}
    return {f"{way}, {name}": functools.partial(family, name, how) for way, how in ways.items() for name in FAMILIES}
