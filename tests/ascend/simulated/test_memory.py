"""What a cache holds on the device is known beforehand to the byte, running out of it is survived, offloading helps."""

from __future__ import annotations

import functools
import gc
from contextlib import contextmanager
from math import prod
from typing import NamedTuple

import pytest
import torch

import c4d
from c4d.plan.sizes import parse_size
from tests.sampled import first_of, sampled
from tests.subjects import SUBJECTS, passes
from tests.tiny import CASES, rand

MIB = 2**20
HALF, FULL = torch.bfloat16, torch.float32
WAN = (1, 128, 24)  # tokens of a frame's patches and channels, as they run through the blocks
IMAGE, TEXT, BOTH = (1, 20, 24), (1, 7, 24), (1, 27, 24)  # of flux
FLUX = 2 * [IMAGE, TEXT, IMAGE, TEXT] + 3 * [BOTH]  # of two dual blocks attention and MLPs, of three single ones all


class Plan(NamedTuple):
    """What a branch stores when its histories are full: features of ``dtype``, or what they are told to be kept in,
    where they are told to be kept; and signals to compare with, on the device as they are."""

    name: str
    method: str
    features: list[tuple[int, ...]]
    signals: list[tuple[int, ...]] = ()
    dtype: torch.dtype = FULL
    kept: torch.dtype | None = None
    place: str = "device"
    weights: torch.dtype | None = None  # of the model, None: as its features

    def __str__(self) -> str:
        return f"{self.name} {self.method} {self.dtype} {self.kept} {self.place} {self.weights}"

    def sizes(self) -> tuple[list[int], list[int]]:
        """Bytes of the features, of eight bits those of their fp32 scales beside them, and of the signals."""
        kept = [prod(shape) * (self.kept or self.dtype).itemsize for shape in self.features]
        scales = [4 * prod(shape[:-1]) for shape in self.features if self.kept is torch.int8]
        return kept + scales, [prod(shape) * self.dtype.itemsize for shape in self.signals]


BLOCKS, MODULES = "taylorseer-lite:interval=2,order=1@blocks", "taylorseer:interval=2,order=1"
TEACACHE = "teacache:threshold=0.6,coefficients=1/0,signal=time_projection"
SITES = 4 * 3 * [WAN]  # attention, cross-attention and MLP of four blocks
PLANS = [
    Plan("wan-t2v", MODULES, 2 * SITES, kept=torch.int8),
    Plan("wan-t2v", BLOCKS, 2 * [WAN]),
    Plan("wan-t2v", BLOCKS, 2 * [WAN], weights=HALF),  # what leaves its blocks is fp32 even so
    Plan("wan-t2v", BLOCKS, 2 * [WAN], weights=HALF, kept=HALF),
    Plan("wan-t2v", BLOCKS, 2 * [WAN], kept=HALF, place="host"),
    Plan("wan-t2v", "taylorseer-lite:interval=2,order=1", 2 * [(1, 4, 2, 16, 16)], dtype=HALF),  # what comes out
    Plan("wan-t2v", "fora:interval=2", SITES, dtype=HALF),
    Plan("wan-t2v", MODULES, 2 * SITES, kept=HALF),
    Plan("wan-t2v", MODULES, 2 * SITES, dtype=HALF, place="host"),
    Plan("wan-t2v", "first-block:threshold=0.1", [WAN], [WAN], dtype=HALF),
    Plan("wan-t2v", "first-block:threshold=0.1", [WAN], [WAN], kept=HALF, place="host"),
    Plan("wan-t2v", TEACACHE, [WAN], [(1, 6, 24)]),
    Plan("flux", BLOCKS, 2 * [IMAGE], dtype=HALF),
    Plan("flux", BLOCKS, 2 * [IMAGE], dtype=HALF, kept=torch.int8, place="host"),
    Plan("flux", MODULES, 2 * FLUX),
]


def allocated() -> int:
    torch.npu.synchronize()
    torch.empty(1, device="npu")  # the allocator looks now what streams have done
    return torch.npu.memory_allocated()


def padded(size: int) -> int:
    """What the allocator gives for ``size`` bytes: 32 more, in steps of 512."""
    return -(-(size + 32) // 512) * 512


@pytest.mark.parametrize("plan", sampled([(plan,) for plan in PLANS], nth=5, complete=False))
def test_planned_is_measured(plan):
    case, dtype = CASES[plan.name], plan.weights or plan.dtype
    model, latents = case.build().to("npu", dtype), rand(*case.latents).to("npu", dtype)
    kept = ("txt_ids", "img_ids", "guidance")
    inputs = {name: x.to("npu", None if name in kept else dtype) for name, x in case.inputs().items()}

    def step(k):
        for name in ("cond", "uncond"):
            with model.cache_context(name):
                model(latents, timestep=torch.full((1,), 900.0 - k, device="npu"), **inputs)

    step(0)  # what a model makes for itself the first time
    gc.collect()  # what other tests left
    before, (features, signals) = allocated(), plan.sizes()
    there = 2 * [*signals, *(features if plan.place == "device" else [])]
    with c4d.cached(model, plan.method, backend="ascend", history_on=plan.place, history_dtype=plan.kept) as session:
        session.begin(range(4))
        for k in range(3):  # computed, reused, computed
            step(k)
        assert session.bytes() == 2 * sum(features + signals)
        assert allocated() - before == sum(map(padded, there))
        step(3)
        assert session.bytes() == 0 and allocated() == before
        session.begin(range(4))
        step(0)
        assert session.bytes() > 0
    assert session.bytes() == 0 and allocated() == before


@contextmanager
def limited(to: int):
    """A device of so many bytes."""
    gc.collect()
    torch.npu.empty_cache()
    torch.npu.set_per_process_memory_fraction(to / torch.npu.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.npu.set_per_process_memory_fraction(1.0)


TINY = SUBJECTS["wan-tiny"]
HUNGRY = "taylorseer:interval=3,order=1"  # at the modules: 6.75 MiB of LARGE for a forward that is computed
SMALL, LARGE = dict(frames=5, steps=4), dict(frames=13, steps=4, size=(96, 96))
ENOUGH = 52 * MIB  # for the weights and a forward of LARGE, and the features of two forwards


@pytest.fixture(scope="module")
def pipe():
    return TINY.build().to("npu")


@pytest.mark.nightly
def test_running_out_of_memory_leaves_nothing_behind(pipe):
    with c4d.cached(pipe, HUNGRY, backend="ascend") as alone:
        wanted = TINY.ask(pipe, **SMALL)
    plain = TINY.ask(pipe, **SMALL)
    gc.collect()
    before = allocated()
    with limited(ENOUGH):
        with c4d.cached(pipe, HUNGRY, backend="ascend") as session:
            with pytest.raises(torch.OutOfMemoryError, match="NPU out of memory"):
                TINY.ask(pipe, **LARGE)
            assert len(session.trace) == 6  # of 8 forwards; the seventh would have been computed again
            assert torch.equal(TINY.ask(pipe, **SMALL), wanted) and passes(session) == passes(alone)
            with pytest.raises(torch.OutOfMemoryError):
                TINY.ask(pipe, **LARGE)
        assert session.bytes() == 0
        assert torch.equal(TINY.ask(pipe, **SMALL), plain)  # also the scheduler lets go of the large request
        del session  # which knows the run by its timesteps
        gc.collect()
        assert allocated() == before
        with c4d.cached(pipe, HUNGRY, backend="ascend", history_on="host") as session:
            TINY.ask(pipe, **LARGE)  # there is room on the host
        assert session.report().peak_bytes == 3 * 6.75 * MIB  # a branch that is done lets go


@functools.cache
def on_the_cpu(method, mode="full"):
    pipe = TINY.build()
    c4d.memory(pipe, mode, backend="cpu")
    with c4d.cached(pipe, method, backend="cpu") as session:
        return TINY.ask(pipe, **SMALL), passes(session)


@pytest.mark.parametrize("mode", first_of(["groups", "components", "sequential", "groups:blocks=2+tiled"]))
def test_offloaded_weights(mode):
    """They are on the device only while they are needed, also where a cache skips what needs them."""
    method = "taylorseer-lite:interval=3@blocks"
    wanted, trace = on_the_cpu(method)
    gc.collect()
    before, pipe = allocated(), TINY.build()
    c4d.memory(pipe, mode, backend="ascend")
    torch.npu.reset_peak_memory_stats()
    with c4d.attention(pipe, backend="ascend"), c4d.cached(pipe, method, backend="ascend") as session:
        found = TINY.ask(pipe, **SMALL)
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert torch.npu.max_memory_allocated() - before < 0.8 * sum(p.nbytes for part in parts for p in part.parameters())
    assert passes(session) == trace
    torch.testing.assert_close(found.cpu(), wanted, rtol=1e-3, atol=1e-3)


FITTED = dict(prompt="a red circle", height=96, width=96, num_frames=13, guidance_scale=4.0, num_inference_steps=4)


@pytest.mark.parametrize(
    ("mode", "device"),  # what decodes needs most; then the cache: with it on the device even groups are too much
    first_of([("groups", "50MiB"), ("full", "62MiB"), ("components", "55MiB"), ("full+float8", "60MiB")]),
)
def test_what_a_budget_chooses_keeps_to_it(mode, device):
    gc.collect()
    before, pipe = allocated(), TINY.build()
    given = {"memory": mode} if "float8" in mode else {}
    choice = c4d.budget(pipe, HUNGRY, device_memory=device, backend="ascend", **given, **FITTED)
    assert choice.memory == mode and choice.history_on == "device"
    c4d.memory(pipe, choice.memory, backend="ascend")
    torch.npu.reset_peak_memory_stats()
    with c4d.attention(pipe, backend="ascend"), c4d.cached(pipe, HUNGRY, backend="ascend", **choice.history):
        pipe(**FITTED, output_type="pt")
    assert torch.npu.max_memory_allocated() - before <= parse_size(device)


def test_a_cache_on_the_host_leaves_nothing_on_the_device(pipe):
    choice = c4d.budget(pipe, HUNGRY, cache_memory="1MiB", backend="ascend", **FITTED)
    assert (choice.memory, choice.history_on, choice.history_dtype) == (None, "host", None)
    with c4d.cached(pipe, HUNGRY, backend="ascend", **choice.history) as session:
        TINY.ask(pipe, **SMALL)
    report = session.report()
    assert report.device_bytes == 0 < report.peak_bytes


@pytest.mark.parametrize("mode", first_of(["full+float8+tiled+sliced", "groups+float8"]))
def test_weights_in_eight_bits_and_a_decoder_in_pieces(mode):
    """With histories on the host: as on the CPU, and the transformer's weights are a third of what they were."""
    method = "taylorseer-lite:interval=3@blocks"
    wanted, trace = on_the_cpu(method, "float8+tiled+sliced")
    pipe = TINY.build()
    whole = sum(p.nbytes for p in pipe.transformer.parameters())
    c4d.memory(pipe, mode, backend="ascend")
    assert sum(p.nbytes for p in pipe.transformer.parameters()) < whole / 3
    there = dict(backend="ascend", history_on="host")
    with c4d.attention(pipe, backend="ascend"), c4d.cached(pipe, method, **there) as session:
        found = TINY.ask(pipe, **SMALL)
    assert passes(session) == trace
    torch.testing.assert_close(found.cpu(), wanted, rtol=1e-3, atol=1e-3)
