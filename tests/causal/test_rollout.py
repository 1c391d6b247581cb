"""A rollout over a cache of keys and values, against the whole clip under a mask; what it holds, and how long."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import c4d
from c4d.causal.blocks import Blocks
from c4d.causal.memory import KVCache, kv_bytes
from c4d.causal.patch import CausalPatch
from c4d.models import spec_for
from tests.pipes import transformer, wan_parts, wan_tiny
from tests.tiny import WAN

SKYREELS = {k: v for k, v in WAN.items() if k != "rope_max_seq_len"}
PROMPT = "a red circle moving left on a black background"


def patched(model):
    spec = spec_for(model)
    return CausalPatch(model, spec, partial(c4d.attention, model, backend="cpu", spec=spec))


def model_of(kind="WanTransformer3DModel", **config):
    return transformer(kind=kind, **{**(WAN if kind.startswith("Wan") else SKYREELS), **config})


def forward(model, x, t, text, **more):
    with torch.no_grad():
        return model(x, t.expand(len(x)), text, return_dict=False, **more)[0]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


GEOMETRIES = [
    ("WanTransformer3DModel", Blocks(1), (1, 6, 4, 4)),
    ("WanTransformer3DModel", Blocks(3), (2, 6, 4, 6)),
    ("WanTransformer3DModel", Blocks(2, alone=True), (1, 7, 6, 4)),
    ("WanTransformer3DModel", Blocks(1, window=3), (1, 7, 4, 4)),
    ("WanTransformer3DModel", Blocks(2, window=4), (2, 8, 4, 4)),
    ("WanTransformer3DModel", Blocks(2, alone=True, window=5, sink=1), (1, 9, 4, 4)),
    ("WanTransformer3DModel", Blocks(2, window=7, sink=3), (1, 12, 4, 4)),
    ("SkyReelsV2Transformer3DModel", Blocks(2, window=4, sink=1), (1, 8, 4, 4)),
]


@pytest.mark.parametrize(("kind", "blocks", "shape"), GEOMETRIES)
@pytest.mark.parametrize("times", ["one for all", "one for each block"])
def test_block_by_block_is_the_whole_clip_under_the_mask(kind, blocks, shape, times):
    model, (batch, frames, rows, columns) = model_of(kind), shape
    tokens = rows * columns // 4
    x, text = noise(batch, 4, frames, rows, columns), noise(batch, 5, 16, seed=1)
    spans = [span for span, _ in zip(blocks.spans(), range(frames), strict=False) if span[0] < frames]
    each = kind.startswith("Wan") and times == "one for each block"
    levels = [900.0 - 100 * i * each for i in range(len(spans))]
    of_tokens = torch.cat([torch.full((stop - start,), t) for (start, stop), t in zip(spans, levels, strict=False)])
    given = of_tokens.repeat_interleave(tokens).expand(batch, -1) if each else torch.tensor(levels[0])
    with patched(model) as patch:
        patch.masked(blocks, frames, tokens)
        whole = forward(model, x, given, text) if not each else model(x, given, text, return_dict=False)[0]
        cache, parts = KVCache(blocks, frames), []
        for (start, stop), level in zip(spans, levels, strict=False):
            for again in (False, True):  # doing a block again overwrites it
                patch.block(cache, start, stop)
                block = x[:, :, start:stop] * (1 if again else 3)
                out = forward(model, block, torch.tensor(level), text)
            parts.append(out)
    assert torch.allclose(torch.cat(parts, 2), whole, atol=1e-5)
    plain = forward(model, x, torch.tensor(levels[0]), text)
    assert not torch.allclose(plain, whole, atol=1e-3)  # which is another thing, without a mask
    config = model.config
    room = min(frames, blocks.window or frames)
    assert cache.bytes() == kv_bytes(model, room, tokens, itemsize=4, batch=batch) > 0
    assert config.num_layers == len(cache._held)


def test_positions_go_on_behind_the_model_s_own_table():
    rope = model_of().rope
    later = spec_for(model_of()).causal.later
    args, here = (noise(1, 4, 5, 4, 4),), rope(noise(1, 4, 5, 4, 4))
    table = rope(noise(1, 4, 9, 4, 4))
    for made, known in zip(later(rope, args, here, 4), table, strict=False):
        assert torch.equal(made, known[:, 4 * 4 :])
    far = later(rope, args, here, 10**6)
    assert all(torch.isfinite(x).all() for x in far)
    assert torch.allclose(far[0] ** 2 + far[1] ** 2, torch.ones(()), atol=1e-5)


def test_a_block_that_does_not_come_next_is_refused():
    cache = KVCache(Blocks(2), 6)
    cache.at(0, 2)
    with pytest.raises(RuntimeError, match="frames 4 to 6 are neither the block that came last"):
        cache.at(4, 6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(size=0), "block is 0; allowed are whole numbers of latent frames from 1"),
        (dict(sink=1), "sink is 1 without a window"),
        (dict(size=3, window=3, sink=1), "window is 3; it has to hold 1 frames of the sink and a block of 3"),
        (dict(sink=-1, window=3), "sink is -1"),
    ],
)
def test_blocks_that_cannot_be(given, said):
    with pytest.raises(ValueError, match=said):
        Blocks(**given)


class HostReads(TorchDispatchMode):
    """Counts how often the host waits for a number of the device."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += "_local_scalar_dense" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def pipe():
    pipe = wan_tiny()
    pipe.set_progress_bar_config(disable=True)
    return pipe


SMALL = dict(height=32, width=32, text=16, block=1, shift=3.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_window_as_long_as_the_clip_is_none(pipe):
    of = [
        torch.cat(list(c4d.rollout(pipe, **SMALL, window=window)(PROMPT, frames=13, generator=seeded())), 1)
        for window in (None, 4)
    ]
    assert torch.equal(*of) and of[0].shape == (1, 13, 3, 32, 32)
    shorter = torch.cat(list(c4d.rollout(pipe, **SMALL, window=2)(PROMPT, frames=13, generator=seeded())), 1)
    assert not torch.equal(shorter, of[0])


def test_streamed_frames_are_those_of_decoding_at_once(pipe):
    from c4d.causal.decoder import StreamingDecoder, encoded

    latents = noise(2, 8, 5, 8, 8)
    decoder = StreamingDecoder(pipe.vae)
    parts = torch.cat([decoder(latents[:, :, :1]), decoder(latents[:, :, 1:3]), decoder(latents[:, :, 3:])], 2)
    config = pipe.vae.config
    mean, std = (torch.tensor(x).view(1, -1, 1, 1, 1) for x in (config.latents_mean, config.latents_std))
    with torch.no_grad():
        assert torch.equal(parts, pipe.vae.decode(latents * std + mean).sample)
    assert decoder.bytes() > 0
    again = encoded(pipe.vae, parts)
    assert again.shape == latents.shape
    with pytest.raises(ValueError, match="has 16 frames; allowed are 1 \\+ multiples of 4"):
        encoded(pipe.vae, parts[:, :, :16])


def test_memory_is_constant_without_end_and_given_back(pipe):
    stream = c4d.rollout(pipe, **SMALL, window=3, sink=1)(PROMPT, generator=seeded())
    held = [(next(stream).shape[1], stream.bytes())[1] for _ in range(50)]
    assert held[3] > 0 and len(set(held[3:])) == 1
    assert held[3] - stream._making.decoder.bytes() == kv_bytes(pipe.transformer, 3, 16, itemsize=4)
    stream.close()
    assert stream.bytes() == 0
    dropped = c4d.rollout(pipe, **SMALL, window=3)(PROMPT, generator=seeded())
    next(dropped)
    caches = list(dropped.cache.values())
    del dropped
    assert all(cache.bytes() == 0 for cache in caches)
    assert all(type(block.attn1.processor).__module__.startswith("diffusers") for block in pipe.transformer.blocks)


def test_no_number_is_read_from_the_device(pipe):
    stream = c4d.rollout(pipe, **SMALL, window=3)(PROMPT, generator=seeded())
    next(stream)
    with HostReads() as counted:
        next(stream)
    assert counted.reads == 0
    with HostReads() as counted:
        torch.ones(1).item()
    assert counted.reads == 1


def test_the_prompt_may_change_on_the_way(pipe):
    def clip(change):
        stream = c4d.rollout(pipe, **SMALL)(PROMPT, frames=13, generator=seeded())
        parts = [next(stream), next(stream)]
        if change:
            stream.prompt = "a blue square moving up on a white background"
        return torch.cat(parts, 1), torch.cat(list(stream), 1)

    (before, plain), (same, other) = clip(False), clip(True)
    assert torch.equal(before, same) and not torch.equal(plain, other)


def test_each_clip_of_a_batch_is_the_one_it_is_alone(pipe):
    prompts = [PROMPT, "a blue square moving up on a white background"]
    rollout = c4d.rollout(pipe, **SMALL)
    both = torch.cat(list(rollout(prompts, frames=13, generator=[seeded(1), seeded(2)])), 1)
    for i, prompt in enumerate(prompts):
        alone = torch.cat(list(rollout(prompt, frames=13, generator=seeded(i + 1))), 1)
        assert torch.allclose(both[i : i + 1], alone, atol=1e-4)


def test_guidance_has_two_caches_and_the_scheduler_s_steps(pipe):
    stream = c4d.rollout(pipe, **{**SMALL, "steps": 6, "guidance": 4.0})(PROMPT, frames=9, generator=seeded())
    guided = torch.cat(list(stream), 1)
    assert guided.shape[1] == 9 and set(stream.cache) == {"cond", "uncond"}
    alone = c4d.rollout(pipe, **{**SMALL, "steps": 6})(PROMPT, frames=9, generator=seeded())
    assert not torch.equal(torch.cat(list(alone), 1), guided)


def test_a_clip_goes_on_from_another_one(pipe):
    rollout = c4d.rollout(pipe, **SMALL)
    clip = torch.cat(list(rollout(PROMPT, frames=9, generator=seeded())), 1)
    more = torch.cat(list(rollout(PROMPT, frames=8, generator=seeded(1), video=clip)), 1)
    assert more.shape[1] == 8
    other = torch.cat(list(rollout(PROMPT, frames=8, generator=seeded(1), video=clip.flip(-1))), 1)
    assert not torch.equal(more, other)
    (first, *_) = rollout(PROMPT, frames=4, generator=seeded(1), video=clip[:, :1])
    assert first.shape[1] == 4
    with pytest.raises(ValueError, match="video is \\(32, 32\\), height and width \\(64, 32\\)"):
        rollout(PROMPT, frames=8, video=clip, height=64)


@pytest.mark.parametrize("method", ["fora:interval=2", "taylorseer:interval=2,order=1", "taylorseer-lite:interval=2"])
def test_a_cache_within_a_block_leaves_the_refresh_alone(pipe, method):
    many = {**SMALL, "steps": 6}
    plain = torch.cat(list(c4d.rollout(pipe, **many)(PROMPT, frames=9, generator=seeded())), 1)
    entered: list[float] = []
    hook = pipe.transformer.condition_embedder.register_forward_pre_hook(lambda m, args: entered.append(float(args[0])))
    with c4d.cached(pipe, method) as session:
        stream = c4d.rollout(pipe, **many)(PROMPT, frames=9, generator=seeded())
        first = next(stream)
        assert session.bytes() == 0  # nothing of a block stays for the next
        assert entered[-1] == 0 and len(set(entered)) == len(entered)  # the refresh, once
        cached = torch.cat([first, *stream], 1)
        entries = session.trace
    hook.remove()
    steps = [(entry.run, entry.step.index) for entry in entries]
    assert steps == [(run, step) for run in range(3) for step in range(6)]  # a run of 6 steps for each block
    assert 0 < sum(not entry.computed or entry.modules_reused > 0 for entry in entries) < 18
    assert entries[0].computed and 0 < (cached - plain).abs().mean() < 0.1


def test_a_cache_that_computes_all_changes_nothing(pipe):
    many = {**SMALL, "steps": 4}
    plain = torch.cat(list(c4d.rollout(pipe, **many)(PROMPT, frames=9, generator=seeded())), 1)
    with c4d.cached(pipe, "fora:interval=1"):
        assert torch.equal(torch.cat(list(c4d.rollout(pipe, **many)(PROMPT, frames=9, generator=seeded())), 1), plain)


def test_gradients_reach_the_block_and_stop_at_what_is_kept():
    model = model_of().train()
    x, text = noise(1, 4, 4, 4, 4), noise(1, 5, 16, seed=1)
    blocks, t = Blocks(2), torch.tensor([500.0])
    cache = KVCache(blocks, 4)
    first = x[:, :, :2].clone().requires_grad_()
    second = x[:, :, 2:].clone().requires_grad_()
    with patched(model) as patch:
        patch.block(cache, 0, 2)
        model(first, t, text, return_dict=False)
        patch.block(cache, 2, 4)
        out = model(second, t, text, return_dict=False)[0]
        patch.block(cache, 2, 4)  # overwrites what the graph must not have kept
        forward(model, 5 * second.detach(), t, text)
        out.square().sum().backward()
        with torch.no_grad():
            cache2 = KVCache(blocks, 4)
            for start, part in ((0, first), (2, second)):
                patch.block(cache2, start, start + 2)
                same = model(part, t, text, return_dict=False)[0]
    assert first.grad is None and second.grad.abs().sum() > 0
    assert torch.allclose(out, same, atol=1e-5)


@pytest.mark.parametrize("told", [False, True])
def test_diffusion_forcing_rolls_out(told):
    """SkyReels-V2's transformer, guided, by its own scheduler; one that is told the frames a second makes others."""
    from diffusers import SkyReelsV2DiffusionForcingPipeline

    parts, config = wan_parts()
    config = {k: v for k, v in config.items() if k != "rope_max_seq_len"} | {"inject_sample_info": told}
    model = transformer(kind="SkyReelsV2Transformer3DModel", **config)
    pipe = SkyReelsV2DiffusionForcingPipeline(**parts, transformer=model)
    many = dict(steps=3, guidance=3.0, block=2, window=4, height=16, width=16, text=8)

    def clip(**more):
        stream = c4d.rollout(pipe, **many, **more)(PROMPT, frames=17, generator=seeded())
        return torch.cat(list(stream), 1)

    assert clip().shape == (1, 17, 3, 16, 16)
    assert torch.equal(clip(), clip(fps=24)) is not told


def test_a_model_that_is_not_described_for_it():
    from tests.pipes import flux

    with pytest.raises(ValueError, match="does not know how FluxTransformer2DModel goes through a clip"):
        c4d.rollout(flux())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(blocks=3), "unknown setting 'blocks' of a rollout: known are block, alone"),
        (dict(steps=(500, 1000)), "steps is \\[500, 1000\\]; allowed are timesteps from 1000 down"),
        (dict(steps=0), "steps is 0"),
        (dict(guidance=0.5), "guidance is 0.5"),
        (dict(shift=0), "shift is 0"),
        (dict(context_noise=1000), "context_noise is 1000"),
        (dict(fps=0), "fps is 0"),
    ],
)
def test_settings_that_cannot_be(pipe, given, said):
    with pytest.raises(ValueError, match=said):
        c4d.rollout(pipe, **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(), "without end needs a window"),
        (dict(frames=5, seconds=1), "seconds and frames are both given"),
        (dict(frames=0), "frames is 0"),
        (dict(seconds=-1), "seconds is -1"),
        (dict(frames=5, height=30), "height is 30; this model takes multiples of 8"),
    ],
)
def test_clips_that_cannot_be(pipe, given, said):
    with pytest.raises(ValueError, match=said):
        c4d.rollout(pipe, **SMALL)(PROMPT, **given)


@pytest.mark.parametrize("where", ["host", "device"])
def test_keys_and_values_are_kept_where_and_as_what_is_asked(pipe, where):
    made = {}
    for dtype in (None, torch.bfloat16):
        stream = c4d.rollout(pipe, **SMALL, kv_on=where, kv_dtype=dtype)(PROMPT, frames=9, generator=seeded())
        next(stream)
        made[dtype] = stream.cache["cond"].bytes(), torch.cat(list(stream), 1)
    assert made[None][0] == 2 * made[torch.bfloat16][0]
    assert 0 < (made[None][1] - made[torch.bfloat16][1]).abs().mean() < 0.02
