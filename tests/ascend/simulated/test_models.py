"""Whole transformers on the device: the CPU's numbers through fused kernels, and the CPU's decisions under a cache."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.utils._pytree import tree_map_only

import c4d
from c4d.backends import UnsupportedError
from c4d.causal.blocks import Blocks
from c4d.causal.memory import KVCache, kv_bytes
from c4d.causal.patch import CausalPatch
from c4d.models import spec_for
from tests.methods import REUSING, SIGMAS, STEPS
from tests.sampled import sampled
from tests.subjects import passes
from tests.tiny import CASES, rand, signal_of

INFER, FUSION = "aclnnFusedInferAttentionScoreV2", "aclnnFlashAttentionScore"
NORM, TURN = "aclnnRmsNorm", "aclnnRotaryPositionEmbeddingV2"
# Case -> attentions, norms and rotary embeddings of a forward, as its processors do them.
WORK = {
    "wan-t2v": (4 + 4, 16, 8),
    "wan-i2v": (4 + 4 * 2, 20, 8),  # text and image each have an attention
    "wan-vace": (6 + 6, 24, 12),
    "hunyuan-t2v": (2 + 3, 2 * 4 + 3 * 2, 2 * 2 + 3 * 2),  # of dual streams and of single ones
    "hunyuan-i2v-replace": (2 + 3, 2 * 4 + 3 * 2, 2 * 2 + 3 * 2),
    "flux": (2 + 3, 2 * 4 + 3 * 2, 2 * 4 + 3 * 2),
    "hunyuan-image-two-texts": (2 + 3, 2 * 4 + 3 * 2, 2 * 2 + 3 * 2),
    "dit": (4, 0, 0),
}
SIXTEEN = {
    "wan-t2v": dict(attention_head_dim=16),
    "hunyuan-t2v": dict(attention_head_dim=16, rope_axes_dim=(4, 6, 6)),
    "flux": dict(attention_head_dim=16, axes_dims_rope=(4, 6, 6)),
}
METHODS = {
    "stack": ("taylorseer-lite:interval=3@blocks", {}),
    "modules": ("fora:interval=3", {}),
    "modules, on the host": ("taylorseer:interval=3,order=1", dict(history_on="host")),
    "stack, on the host, of bf16": (
        "taylorseer-lite:interval=2,order=2@blocks",
        dict(history_on="host", history_dtype=torch.bfloat16),
    ),
    "signal": ("teacache:threshold={signal},coefficients=1/0,signal={of},last=0", {}),
    "head": ("first-block:threshold={head},last=0", {}),
    "head, on the host": ("first-block:threshold={head},last=0", dict(history_on="host")),
}


@pytest.fixture(autouse=True)
def also_on_the_cpu(monkeypatch):
    """diffusers' RMSNorm calls the NPU's operator for any tensor once torch_npu is there, also for those of the CPU."""
    import diffusers.models.normalization as normalization

    forward = normalization.RMSNorm.forward

    def by_device(norm, x):
        with monkeypatch.context() as patch:
            if x.device.type == "cpu":
                patch.setattr(normalization, "is_torch_npu_available", lambda: False)
            return forward(norm, x)

    monkeypatch.setattr(normalization.RMSNorm, "forward", by_device)


def there(x):
    return tree_map_only(torch.Tensor, torch.Tensor.npu, x)


def arguments(case, dtype, **change):
    """Of a forward: fp32 tensors but the timestep, guidance, places and masks in ``dtype``."""
    kept = ("guidance", "encoder_attention_mask", "txt_ids", "img_ids", "class_labels")
    kept = () if case.alike else kept
    given = {**case.inputs(), **change}
    given = {k: v if k in kept else tree_map_only(torch.Tensor, lambda x: x.to(dtype), v) for k, v in given.items()}
    seen = []
    case.run(lambda **all: seen.append(all["timestep"]) or [None], rand(*case.latents).to(dtype), 500.0)
    return dict(hidden_states=rand(*case.latents, seed=3).to(dtype), timestep=seen[0], return_dict=False, **given)


def built(case, dtype):
    return case.build().to(dtype)


def kernels(trace):
    return {name: n for name, n in Counter(trace).items() if name in (INFER, FUSION, NORM, TURN) or "Atten" in name}


def distance(out, exact):
    return (out.float() - exact).pow(2).mean().sqrt().item()


def compared(case, dtype, trace, **change):
    """A forward on the device beside those of the unmodified model on the CPU, in ``dtype`` and in fp32."""
    given = arguments(case, dtype, **change)
    model = built(case, dtype)
    near = model(**given)[0]
    exact = built(case, dtype).float()(**tree_map_only(torch.Tensor, floats, given))[0]
    model = model.npu()
    with c4d.attention(model, backend="ascend") as session:
        device = there(given)
        trace()
        out = model(**device)[0]
        launched = kernels(trace())
    assert out.device.type == "npu" and out.dtype == dtype
    off, usual = distance(out.cpu(), exact), distance(near, exact)
    # Of fp32 the order of sums alone differs. The fused kernels round less often than the plain model does, so that
    # in bf16 what comes out is not further from exact; 1.2 for how single roundings happen to fall.
    bound = 1e-6 * exact.abs().max() if dtype == torch.float32 else 1.2 * usual
    assert off <= bound, (off, usual)
    return SimpleNamespace(kernels=launched, lines=session.lines(), reads=session.host_reads)


def floats(x):
    return x.float() if x.is_floating_point() else x


@pytest.mark.parametrize(("name", "dtype"), sampled(WORK, [torch.bfloat16, torch.float32], nth=2))
def test_forward(trace, name, dtype):
    attentions, norms, turns = WORK[name]
    done = compared(CASES[name], dtype, trace)
    assert done.kernels == {kernel: n for kernel, n in ((FUSION, attentions), (NORM, norms), (TURN, turns)) if n}
    assert len(done.lines) == 1 and done.lines[0].endswith("through fusion"), done.lines
    assert done.reads == sum(argument.startswith("encoder_attention_mask") for argument in CASES[name].inputs())


@pytest.mark.parametrize("name", SIXTEEN)
def test_head_sizes_in_steps_of_16_take_the_kernel_for_inference(trace, name):
    case = replace(CASES[name], make=partial(CASES[name].make, **SIXTEEN[name]))
    done = compared(case, torch.bfloat16, trace)
    assert done.kernels == {INFER: WORK[name][0], NORM: WORK[name][1], TURN: WORK[name][2]}
    assert done.lines[0].endswith("through infer"), done.lines


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ends", [(9, 5), (12, 12), (4, 4)], ids=str)
def test_padded_text_of_a_batch(trace, ends, dtype):
    """What no sample has is sliced away, and samples of other lengths run one by one; no kernel gets a mask."""
    case = replace(CASES["hunyuan-t2v"], latents=(2, 4, 2, 4, 4))
    done = compared(
        case, dtype, trace,
        encoder_hidden_states=rand(2, 12, 16, seed=1), pooled_projections=rand(2, 8, seed=2),
        encoder_attention_mask=(torch.arange(12) < torch.tensor(ends)[:, None]).float(),
        guidance=torch.tensor([6000.0, 6000.0]),
    )  # fmt: skip
    assert done.kernels[FUSION] == (5 if ends[0] == ends[1] else 10) and done.reads == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_that_is_no_padding_reaches_the_kernel(trace, dtype):
    mask = torch.ones(1, 12)
    mask[:, [2, 3, 11]] = 0
    done = compared(CASES["hunyuan-t2v"], dtype, trace, encoder_attention_mask=mask)
    assert done.kernels[FUSION] == 5 and done.reads == 1


class There:
    """A transformer on the device, for callers on the CPU."""

    def __init__(self, model):
        self.model, self.cache_context = model.npu(), model.cache_context

    def __call__(self, **inputs):
        return [x.cpu() for x in self.model(**there(inputs))]


@pytest.mark.parametrize(
    "name, how",
    sampled(
        [
            *[("wan-t2v", how) for how in METHODS],
            *[("hunyuan-t2v", "head"), ("flux", "signal"), ("flux", "modules, on the host")],
        ],
        nth=5,
        complete=False,
    ),
)
def test_a_cached_loop(simulation, name, how):
    case, (text, storage) = CASES[name], METHODS[how]
    signal, head = (0.6, 0.1) if name.startswith("wan") else (0.15, 0.27)
    text = text.format(of=signal_of(name), signal=signal, head=head)
    model = case.build()
    with c4d.cached(model, text, backend="cpu", **storage) as here:
        wanted = case.loop(model, 8, here.begin)
    attention = c4d.attention(model.npu(), backend="ascend")
    with attention, c4d.cached(model, text, backend="ascend", **storage) as session:
        before = simulation.waits
        outs = case.loop(There(model), 8, session.begin)
        waited = simulation.waits - before
    report = session.report()
    assert passes(session) == passes(here) and report.computed and (report.reused or report.modules_reused)
    # One wait for each forward that decides by what it sees; those of the loop and for masks are not caching's.
    assert report.host_reads == sum(bool(entry.seen) for entry in session.trace) == waited - 16 - attention.host_reads
    assert (report.host_reads > 0) == ("threshold" in text) and report.backend == "ascend"
    # A feature at the edge of two bf16 numbers is rounded the other way where a processor adds up in another order.
    near = 2e-2 if "history_dtype" in storage else 1e-4
    torch.testing.assert_close(outs, wanted, rtol=near, atol=near / 10 if near > 1e-4 else near)


@pytest.mark.parametrize("kind", sampled(REUSING, nth=8, complete=False))
def test_every_method(simulation, kind):
    """Decisions and results of the CPU; what adds up in float64 is refused by name."""
    case, text = CASES["wan-t2v"], REUSING[kind].format(signal="time_projection")
    model = case.build()
    if kind == "dmd":
        with pytest.raises(
            UnsupportedError, match=r"dmd:interval=2 adds up in torch.float64, which backend 'ascend' does not"
        ):
            c4d.cached(model, text, backend="ascend")
        return
    with c4d.cached(model, text, backend="cpu") as here:
        wanted = case.loop(model, STEPS, lambda timesteps: here.begin(timesteps, SIGMAS))
    with c4d.attention(model.npu(), backend="ascend"), c4d.cached(model, text, backend="ascend") as session:
        outs = case.loop(There(model), STEPS, lambda timesteps: session.begin(timesteps, SIGMAS))
    assert passes(session) == passes(here)
    torch.testing.assert_close(outs, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "place, dtype", [("device", torch.float32), ("device", torch.bfloat16), ("host", torch.float32)]
)
def test_block_by_block_over_keys_and_values_that_are_kept(simulation, trace, place, dtype):
    blocks, frames = Blocks(2, window=4, sink=1), 8
    x, text, t = rand(1, 4, frames, 4, 4, seed=3), rand(1, 6, 16, seed=4), torch.tensor([500.0])

    def rolled(model, backend, device, dtype=dtype):
        cache = KVCache(blocks, frames, place=place)
        spec = spec_for(model)
        given = [each.to(device, dtype) for each in (x, text)]
        given.append(t.to(device))
        with CausalPatch(model, spec, partial(c4d.attention, model, backend=backend, spec=spec)) as patch:
            parts, waits = [], simulation.waits
            for start in range(0, frames, blocks.size):
                patch.block(cache, start, start + blocks.size)
                part = given[0][:, :, start : start + blocks.size]
                parts.append(model(part, given[2], given[1], return_dict=False)[0])
            assert simulation.waits == waits  # the host reads nothing
        return torch.cat(parts, 2), cache

    model = built(CASES["wan-t2v"], dtype)
    want, _ = rolled(model, "cpu", "cpu")
    exact, _ = (
        (want, None)
        if dtype is torch.float32
        else rolled(built(CASES["wan-t2v"], dtype).float(), "cpu", "cpu", torch.float32)
    )
    model = model.npu()
    trace()
    out, cache = rolled(model, "ascend", "npu")
    assert kernels(trace())
    assert all(held.device.type == ("npu" if place == "device" else "cpu") for held in cache._held.values())
    assert cache.bytes() == kv_bytes(model, 4, 4, itemsize=dtype.itemsize)
    usual = distance(want, exact) or 2e-6
    assert distance(out.cpu(), exact) <= 2 * usual
