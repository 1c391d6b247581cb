"""A tiny Wan on the device: the CPU's numbers, and the CPU's decisions under a cache."""

from __future__ import annotations

import gc

import pytest
import torch
from diffusers import WanTransformer3DModel

import c4d
from tests.ascend.simulated.test_backend import Npu

STEPS = torch.linspace(900, 100, 8).long()


def tiny():
    torch.manual_seed(0)
    sizes = dict(num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, text_dim=16, freq_dim=32)
    made = WanTransformer3DModel(
        patch_size=(1, 2, 2), **sizes, ffn_dim=64, num_layers=2, cross_attn_norm=True, rope_max_seq_len=32
    )
    return made.eval().to(torch.bfloat16)


def inputs(device):
    make = torch.Generator().manual_seed(1)
    latents, text = (torch.randn(shape, generator=make).bfloat16() for shape in ((1, 4, 3, 8, 8), (1, 7, 16)))
    return latents.to(device), text.to(device)


def loop(model, device, **how):
    latents, text = inputs(device)
    with c4d.cached(model, "taylorseer-lite:interval=2@stack", **how) as session:
        session.begin(STEPS.to(device))
        for step in STEPS:
            noise = model(latents, step[None].to(device), text, return_dict=False)[0]
            latents = latents - 0.1 * noise
    return latents.cpu(), session


@pytest.fixture
def simulated_wan():
    return tiny().to("npu")


def test_forward(simulated_wan):
    latents, text = inputs("cpu")
    wanted = tiny()(latents, torch.tensor([500]), text, return_dict=False)[0]
    latents, text = inputs("npu")
    out = simulated_wan(latents, torch.tensor([500], device="npu"), text, return_dict=False)[0]
    assert out.device.type == "npu" and out.dtype == torch.bfloat16
    assert torch.equal(out.cpu(), wanted)


def test_cached_loop(simulated_wan):
    wanted, here = loop(tiny(), "cpu", backend="cpu")
    found, there = loop(simulated_wan, "npu", backend=Npu())
    traces = [[entry._replace(seconds=0.0) for entry in session.trace] for session in (here, there)]
    assert traces[0] == traces[1] and {entry.computed for entry in traces[0]} == {True, False}
    assert there.bytes() == here.bytes()
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("streams", [False, True])
def test_cached_loop_with_offloaded_weights(streams):
    """diffusers' own streams are in order, and the weights are on the device only while they are needed."""
    wanted, _ = loop(tiny(), "cpu", backend="cpu")
    gc.collect()
    before, model = torch.npu.memory_allocated(), tiny()
    model.enable_group_offload(
        torch.device("npu"), offload_type="block_level", num_blocks_per_group=1, use_stream=streams
    )
    found, session = loop(model, "npu", backend=Npu())
    held = torch.npu.memory_allocated() - before - session.bytes()
    assert held < sum(p.nbytes for p in model.parameters()) / 2
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)
