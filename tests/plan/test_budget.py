"""A budget of bytes: what it chooses holds no more, what comes before it would have, and what it refuses."""

from __future__ import annotations

import functools

import pytest
import torch

import c4d
from c4d.backends.reference import Reference
from c4d.core.runtime.history import HistoryConfig
from c4d.core.text.grammar import parse
from c4d.memory_modes import MODES, float8
from c4d.memory_modes.mode import modules_of
from c4d.memory_modes.weights import size_of
from c4d.plan.budget import Limits, Need, Needs, choose, ladder
from c4d.plan.rehearsal import rehearsed, without_numbers
from c4d.plan.run import PlanError
from c4d.plan.sizes import parse_size, told
from tests.pipes import flux_kontext, image_to_video, two_experts
from tests.subjects import SUBJECTS

CALL = dict(prompt="a red circle", height=32, width=32, num_frames=5, guidance_scale=4.0, num_inference_steps=6)
HUNGRY = "taylorseer:interval=2,order=1"


class Card(Reference):
    """A device that is not the host."""

    name, device_type = "card", "xpu"


@pytest.fixture
def card(monkeypatch):
    monkeypatch.setattr(float8, "device_of", lambda backend: torch.device("cpu"))
    return Card()


@functools.cache
def tiny():
    return SUBJECTS["wan-tiny"].build()


@functools.cache
def needs(method, backend=Reference):
    return Needs(tiny(), CALL, method and parse(method), backend=backend())


def held(choice, method):
    with c4d.cached(tiny(), method, backend="cpu", **choice.history) as session:
        tiny()(**CALL, output_type="latent")
    return session.report()


@pytest.mark.parametrize(
    "method", [HUNGRY, "taylorseer-lite:interval=2@blocks", "first-block:threshold=0.1", "spectrum:weight=0.5"]
)
def test_the_first_that_fits_is_chosen_and_holds_what_was_said(method):
    """Of the host, which is the device: as computed, then in 8 bits."""
    computed = needs(method).cache(HistoryConfig())
    whole = choose(needs(method), Limits(cache=computed))
    assert whole.history == {"history_dtype": None, "history_on": "device"}
    assert held(whole, method).device_bytes == computed
    eight = choose(needs(method), Limits(cache=computed - 1))
    assert eight.history_dtype is torch.int8 and held(eight, method).device_bytes < computed
    assert f"cache memory {told(computed - 1)}: histories on the device in 8 bits" in str(eight)


def test_on_a_device_the_host_comes_next_and_is_exact(card):
    found = Needs(tiny(), CALL, parse("first-block:threshold=0.1"), backend=card)
    computed, parked = (found.cache(HistoryConfig(None, place)) for place in ("device", "host"))
    assert 0 < parked < computed  # signals stay
    choice = choose(found, Limits(cache=computed - 1))
    assert choice.history == {"history_dtype": None, "history_on": "host"}
    assert held(choice, "first-block:threshold=0.1").device_bytes == parked
    with pytest.raises(PlanError, match=r"nothing fits into .* of cache memory: they take of the device: "):
        choose(found, Limits(cache=parked - 1))


def test_memory_modes_in_their_order(card):
    """Each is chosen with just what it needs; a byte less takes a later one."""
    found, seen = Needs(tiny(), CALL, None, backend=card), []
    limit = 2**40
    while True:
        try:
            choice = choose(found, Limits(device=limit))
        except PlanError as error:
            assert all(f"{mode} takes" in str(error) for mode in ("full", "components", "groups", "sequential+float8"))
            break
        most = max(need.total for need in found.phases(choice.memory, HistoryConfig()))
        assert most <= limit
        seen.append(choice.memory)
        limit = most - 1
    order = list(dict.fromkeys(rung.memory for rung in ladder(None, [HistoryConfig()])))
    assert seen[:3] == ["full", "components", "groups"]
    assert [order.index(mode) for mode in seen] == sorted(order.index(mode) for mode in seen)


def test_a_decoder_that_is_too_much_works_in_tiles(card, monkeypatch):
    found = Needs(tiny(), CALL, None, backend=card)

    def phases(memory, storage):
        work = 5 if "tiled" in memory else 50
        return [Need("transformer", 10, 0, 0), Need("vae", 10, 0, work, True)]

    monkeypatch.setattr(found, "phases", phases)
    assert choose(found, Limits(device=20)).memory == "full+tiled"
    monkeypatch.setattr(found, "phases", lambda *_: [Need("transformer", 30, 0, 0), Need("vae", 10, 0, 50, True)])
    with pytest.raises(PlanError) as error:
        choose(found, Limits(device=20))
    assert "tiled" not in str(error.value)  # which would not help


def test_what_is_said_is_kept_and_only_refused():
    found = c4d.budget(tiny(), HUNGRY, cache_memory="1GiB", history_dtype=torch.bfloat16, backend="cpu", **CALL)
    assert found.history_dtype is torch.bfloat16
    with pytest.raises(ValueError, match=r"nothing fits into 1000 bytes of cache memory: .* in torch.bfloat16 .*; or"):
        c4d.budget(tiny(), HUNGRY, cache_memory=1000, history_dtype=torch.bfloat16, backend="cpu", **CALL)
    with pytest.raises(ValueError, match=r"'groups|groups: it moves weights from the host"):
        c4d.budget(tiny(), memory="groups", device_memory="1GiB", backend="cpu", **CALL)
    with pytest.raises(ValueError, match="full: int8 does not say what it holds"):
        c4d.budget(tiny(), memory="full+int8", device_memory="1GiB", backend="cpu", **CALL)


def test_ranks_take_less():
    alone = needs(HUNGRY).cache(HistoryConfig())
    spread = c4d.SequenceParallel(ulysses=2)
    shared = c4d.budget(tiny(), HUNGRY, cache_memory="1GiB", parallel=spread, backend="cpu", **CALL)
    assert f"on the device as computed {told(alone // 2)}" in str(shared)


@pytest.mark.parametrize("make", [two_experts, image_to_video, flux_kontext])
def test_pipelines_are_rehearsed_as_they_run(make):
    """Which components, in which order, and with what; two calls a step, so that guidance is seen."""
    pipe, request = make()
    call = request("a") if callable(request) else {**CALL, **request}
    real, calls = [], rehearsed(without_numbers(pipe), {**call, "num_inference_steps": 2})
    denoisers = [name for name in ("transformer", "transformer_2") if getattr(pipe, name, None) is not None]
    for name in denoisers:
        getattr(pipe, name).register_forward_pre_hook(
            lambda part, args, kwargs, name=name: real.append((name, shapes(kwargs))), with_kwargs=True
        )
    pipe(**{**call, "num_inference_steps": 2}, output_type="latent")
    assert [(each.name, shapes(each.given)) for each in calls if each.given is not None] == real
    assert calls[-1].name == "vae" and calls[-1].peak > calls[-1].around > 0
    assert all(x.device.type == "cpu" for part in modules_of(pipe).values() for x in part.parameters())


def shapes(given):
    return {name: x.shape for name, x in given.items() if isinstance(x, torch.Tensor)}


def test_weights_that_modes_hold(card):
    pipe = without_numbers(tiny())
    parts, called = modules_of(pipe), ["text_encoder", "transformer"]
    sizes = {name: size_of(part) for name, part in parts.items()}
    hold = {name: MODES[name]().holds(pipe, called, card) for name in ("full", "components", "groups", "sequential")}
    assert hold["full"] == sum(sizes.values()) and hold["components"] == sizes["transformer"]
    assert hold["full"] > hold["components"] > hold["groups"] > hold["sequential"] > 0
    assert MODES["components"]().holds(pipe, ["vae", "transformer"], card) == sizes["vae"] + sizes["transformer"]
    two, stream = MODES["groups"](blocks=2).holds(pipe, called, card), Card()
    stream.asynchronous = True
    assert two == MODES["groups"]().holds(pipe, called, stream) > hold["groups"]


@pytest.mark.parametrize("text, size", [("8GiB", 8 * 2**30), ("24GB", 24 * 10**9), ("500MiB", 500 * 2**20), ("7", 7)])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["0", "0GiB", "-1GiB", "8 potatoes", "", "8G", "nan", "1e3"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match=r"such as 8GiB|units are B, KB, MB"):
        c4d.budget(tiny(), HUNGRY, cache_memory=text, backend="cpu", **CALL)


def test_what_cannot_be_budgeted():
    with pytest.raises(ValueError, match="no budget: give device_memory= or cache_memory="):
        c4d.budget(tiny(), HUNGRY, **CALL)
    with pytest.raises(TypeError, match="is no diffusers pipeline"):
        c4d.budget(tiny().transformer, HUNGRY, cache_memory="1GiB")
    with pytest.raises(
        ValueError, match=r"WanPipeline cannot be rehearsed without numbers: .*; or leave the budget out"
    ):
        c4d.budget(tiny(), HUNGRY, cache_memory="1GiB", backend="cpu", prompt="a", height=33)
