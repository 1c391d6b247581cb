"""Living beside LoRA, offloading and compilation, set up before a session or inside it."""

from __future__ import annotations

import contextlib
import copy
import functools

import pytest
import torch
from torch import nn

import c4d
from tests.sampled import sampled
from tests.tiny import CASES, hold_methods, rand, signal_of

TWO = ("wan-t2v", "hunyuan-t2v")
ADAPTED = (*TWO, "flux", "qwen")


def methods(case):
    return {
        "modules": "taylorseer:interval=2",
        "output": "taylorseer-lite:interval=2",
        "stack": "taylorseer-lite:interval=2@blocks",
        "signal": f"teacache:threshold=1e9,coefficients=1/0,signal={signal_of(case)},max_skips=1",
        "head": "first-block:threshold=1e9,max_skips=1",
        "tail": "first-block:threshold=1e9,max_skips=1,first_blocks=2,last_blocks=1",
        "latents": "easycache:threshold=1e9,warmup=2,max_skips=1",
    }


KINDS = tuple(methods("wan-t2v"))


def compare(case, kind, prepare, undo=lambda model: None, inside=False, steps=6):
    """The cached loop of a prepared model against that of a plain one; ``inside`` prepares within the session."""
    plain = case.build()
    with c4d.cached(plain, methods(case.name)[kind]) as session:
        expected = case.loop(plain, steps, session.begin)
    reference = session.report()
    model = case.build()
    before = case.loop(model, 2)
    if not inside:
        prepare(model)
    with c4d.cached(model, methods(case.name)[kind]) as session:
        if inside:
            prepare(model)
        outs = case.loop(model, steps, session.begin)
    report = session.report()
    assert report.timelines == reference.timelines and report.reused > 0
    assert report.modules_reused == reference.modules_reused and report.blocks_entered == reference.blocks_entered
    for a, b in zip(outs, expected, strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm()
    undo(model)
    assert all(torch.equal(a, b) for a, b in zip(case.loop(model, 2), before, strict=True))


# -- LoRA


def add_lora(model):
    from peft import LoraConfig

    targets = ["to_q", "to_v", "proj_mlp", "proj_out"]  # proj_mlp and proj_out of single blocks are sites themselves
    model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False), adapter_name="a")
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = rand(*p.shape, seed=7) * 0.05


@pytest.mark.parametrize(("name", "kind", "inside"), sampled(ADAPTED, KINDS, [False, True], nth=5))
def test_lora(name, kind, inside):
    case = CASES[name]
    lora = case.build()
    add_lora(lora)
    uncached = case.loop(lora, 4)
    with c4d.cached(lora, methods(name)[kind]) as session:
        expected = case.loop(lora, 4, session.begin)
    model = case.build()
    before = case.loop(model, 4)
    assert (before[-1] - uncached[-1]).norm() > 1e-3 * uncached[-1].norm()
    with contextlib.ExitStack() as stack:
        if not inside:
            add_lora(model)
        session = stack.enter_context(c4d.cached(model, methods(name)[kind]))
        if inside:
            case.loop(model, 4, session.begin)
            add_lora(model)
        outs = case.loop(model, 4, session.begin)
    assert session.report().reused > 0
    for a, b in zip(outs, expected, strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(a, b) for a, b in zip(case.loop(model, 4), uncached, strict=True))


@pytest.mark.parametrize(("name", "kind"), sampled(TWO, KINDS, nth=2))
def test_never_skipping_with_lora_is_exact(name, kind):
    case = CASES[name]
    model = case.build()
    add_lora(model)
    before = case.loop(model, 3)
    method = methods(name)[kind].replace("interval=2", "interval=1").replace("1e9", "1e-9")
    with c4d.cached(model, method) as session:
        assert all(torch.equal(a, b) for a, b in zip(case.loop(model, 3, session.begin), before, strict=True))


def test_a_module_exchanged_inside_is_cached_like_the_one_before():
    case = CASES["wan-t2v"]
    model = case.build()
    with c4d.cached(model, "fora:interval=2@mlp") as session:
        before = case.loop(model, 4, session.begin)
        there = model.blocks[0].ffn
        model.blocks[0].ffn = copy.deepcopy(there)
        assert all(torch.equal(a, b) for a, b in zip(case.loop(model, 4, session.begin), before, strict=True))
        report = session.report()
        assert report.modules_reused * 2 == report.modules_total == len(session.trace) // 2 * len(model.blocks)
    assert "forward" not in vars(there) and "forward" not in vars(model.blocks[0].ffn)


# -- offloading


def accelerate_offload(model):
    from accelerate import cpu_offload

    cpu_offload(model, execution_device=torch.device("cpu"))  # parameters on meta between the calls of a leaf


def remove_accelerate(model):
    from accelerate.hooks import remove_hook_from_module

    remove_hook_from_module(model, recurse=True)


def whole_model_offload(model):
    from accelerate import cpu_offload_with_hook

    cpu_offload_with_hook(model, execution_device=torch.device("cpu"))


def group_offload(kind):
    def prepare(model):
        model.enable_group_offload(torch.device("cpu"), offload_type=kind, num_blocks_per_group=1)

    return prepare


def remove_group_offload(model):
    from diffusers.hooks import HookRegistry

    registry = HookRegistry.check_if_exists_or_initialize(model)
    registry.remove_hook("group_offloading", recurse=True)


OFFLOADS = {
    "accelerate-leaves": (accelerate_offload, remove_accelerate),
    "accelerate-model": (whole_model_offload, remove_accelerate),
    "group-blocks": (group_offload("block_level"), remove_group_offload),
    "group-leaves": (group_offload("leaf_level"), remove_group_offload),
}


@pytest.mark.parametrize(("name", "kind", "offload", "inside"), sampled(TWO, KINDS, OFFLOADS, [False, True], nth=6))
def test_offloading(name, kind, offload, inside):
    compare(CASES[name], kind, *OFFLOADS[offload], inside=inside)


class FakeStreams:
    """The face of an accelerator with streams, on the host: what diffusers asks of a device backend."""

    class Stream:
        def synchronize(self):
            pass

    def __init__(self, device):
        pass

    def current_stream(self):
        return self.Stream()

    def stream(self, stream):
        return contextlib.nullcontext()


class Lane:
    """A streamed group offload simulated on the CPU: a group's weights are NaN unless it is on the "device"."""

    def __init__(self, monkeypatch, model, level):
        from diffusers.hooks import group_offloading as go

        self.log: list[tuple[str, str]] = []
        self.resident: set[int] = set()
        lane = self
        monkeypatch.setattr(go, "TorchDeviceBackend", FakeStreams)
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)
        monkeypatch.setattr(torch.Tensor, "is_pinned", lambda x: True)
        names = {id(m): n for n, m in model.named_modules()}
        weights = {p: p.data.clone() for p in model.parameters()}

        def tensors(group):
            return [p for m in group.modules for p in m.parameters()] + list(group.parameters)

        def onload(group):
            lane.log.append(("onload", ",".join(names[id(m)] for m in group.modules) or "rest"))
            lane.resident.add(id(group))
            for p in tensors(group):
                p.data = weights[p].clone()

        def offload(group):
            lane.log.append(("offload", ",".join(names[id(m)] for m in group.modules) or "rest"))
            lane.resident.discard(id(group))
            for p in tensors(group):
                p.data = torch.full_like(p, float("nan"))

        monkeypatch.setattr(go.ModuleGroup, "onload_", onload)
        monkeypatch.setattr(go.ModuleGroup, "offload_", offload)
        config = go.GroupOffloadingConfig(
            onload_device=torch.device("cpu"), offload_device=torch.device("meta"),
            offload_type=go.GroupOffloadingType(level),
            non_blocking=True, record_stream=False, low_cpu_mem_usage=False, num_blocks_per_group=1,
            stream=FakeStreams.Stream(),
        )  # fmt: skip
        go._apply_group_offloading(model, config)

    def take(self):
        """Groups brought in since the last call."""
        names = [name for what, name in self.log if what == "onload"]
        self.log.clear()
        return names


@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
@pytest.mark.parametrize("kind", ["stack", "output"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_streamed_offload_prefetches_no_block_that_is_skipped(monkeypatch, kind, level, inside):
    """Simulated on the CPU; on hardware not verified."""
    case = CASES["wan-t2v"]
    plain = case.build()
    with c4d.cached(plain, methods(case.name)[kind]) as session:
        expected = case.loop(plain, 6, session.begin)
    model = case.build()
    with contextlib.ExitStack() as stack:
        lane = None if inside else Lane(monkeypatch, model, level)
        session = stack.enter_context(c4d.cached(model, methods(case.name)[kind]))
        lane = lane or Lane(monkeypatch, model, level)
        fetched = []
        model.register_forward_hook(lambda *_: fetched.append(lane.take()))
        outs = case.loop(model, 6, session.begin)
    assert all(torch.isfinite(x).all() for x in outs)
    for a, b in zip(outs, expected, strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm()
    computed = [e.computed for e in session.trace]
    assert computed.count(False) == 6
    for i, (names, full) in enumerate(zip(fetched, computed, strict=True)):
        blocks = [n for n in names if n.startswith("blocks")]
        assert bool(blocks) == full, (i, full, names)


def test_a_forward_in_which_a_streamed_offload_learns_its_order_is_computed(monkeypatch):
    """Also in the middle of a run, where it would be reused."""
    case = CASES["wan-t2v"]
    model, x = case.build(), rand(*case.latents)
    with c4d.cached(model, "fora:interval=9@blocks") as session:
        session.begin([900.0] * 5)
        case.run(model, x, 900.0)
        Lane(monkeypatch, model, "block_level")
        case.run(model, x, 900.0), case.run(model, x, 900.0)
    assert session.report().timelines == {"0": "CCr"}


# -- compilation

COMPILE = {"backend": "aot_eager", "fullgraph": True}


def graphs(call):
    import torch._dynamo as dynamo
    from torch._dynamo.utils import counters

    dynamo.reset()
    counters.clear()
    outs = call()
    assert not counters["graph_break"]
    return outs, counters["stats"]["unique_graphs"]


OF_BLOCKS = [kind for kind in KINDS if kind not in ("modules", "latents")]


@functools.cache
def compiled_alone(name):
    """Without a session: four steps, and how many graphs they took."""
    model = CASES[name].build()
    model.compile_repeated_blocks(**COMPILE)
    outs, count = graphs(lambda: CASES[name].loop(model, 4))
    assert count == {"wan-t2v": 1, "hunyuan-t2v": 5}[name]
    return outs, count


@pytest.mark.parametrize(("name", "kind"), sampled(TWO, OF_BLOCKS, nth=6, complete=False))
def test_compiled_blocks_of_which_none_is_skipped(name, kind):
    case, (uncached, count) = CASES[name], compiled_alone(name)
    model = case.build()
    model.compile_repeated_blocks(**COMPILE)

    def never():
        method = methods(name)[kind].replace("interval=2", "interval=1").replace("1e9", "1e-9")
        with c4d.cached(model, method) as session:
            return case.loop(model, 4, session.begin)

    outs, with_session = graphs(never)
    assert with_session == count and all(torch.equal(a, b) for a, b in zip(outs, uncached, strict=True))


@pytest.mark.parametrize(("name", "kind", "inside"), sampled(TWO, OF_BLOCKS, [False, True], nth=11, complete=False))
def test_compiled_blocks(name, kind, inside):
    case, method, (_, count) = CASES[name], methods(name)[kind], compiled_alone(name)
    eager = case.build()
    with c4d.cached(eager, method) as session:
        expected = case.loop(eager, 4, session.begin)
    fresh = case.build()

    def skipping():
        if not inside:
            fresh.compile_repeated_blocks(**COMPILE)
        with c4d.cached(fresh, method) as session:
            if inside:
                fresh.compile_repeated_blocks(**COMPILE)
            out = case.loop(fresh, 4, session.begin)
        assert session.report().reused > 0
        return out

    outs, with_skips = graphs(skipping)
    assert with_skips == count
    for a, b in zip(outs, expected, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


@pytest.mark.parametrize("inside", [False, True])
def test_module_rules_refuse_compiled_blocks(inside):
    case = CASES["wan-t2v"]
    model = case.build()
    with contextlib.ExitStack() as stack:
        if not inside:
            model.compile_repeated_blocks(**COMPILE)
            with pytest.raises(RuntimeError, match="which are compiled: use the method at @blocks"):
                stack.enter_context(c4d.cached(model, "taylorseer:interval=2"))
            assert type(model.blocks) is nn.ModuleList
            return
        session = stack.enter_context(c4d.cached(model, "taylorseer:interval=2"))
        model.compile_repeated_blocks(**COMPILE)
        with pytest.raises(RuntimeError, match="which are compiled: use the method at @blocks"):
            case.loop(model, 2, session.begin)


def test_a_whole_compiled_model_is_refused():
    case, text = CASES["wan-t2v"], "compile its blocks"
    model = case.build()
    with pytest.raises(TypeError, match="compile its blocks"):
        c4d.cached(torch.compile(model, backend="eager"), "fora:interval=2")
    with c4d.cached(model, "taylorseer-lite:interval=2@blocks") as session:
        model.compile(backend="eager")
        with pytest.raises(RuntimeError, match=text):
            case.loop(model, 2, session.begin)
    with pytest.raises(RuntimeError, match=text):
        c4d.cached(model, "fora:interval=2").__enter__()


@pytest.mark.parametrize("kind", ["modules", "stack", "output"])
@pytest.mark.parametrize("name", TWO)
def test_hooks_that_others_set_survive(name, kind):
    """accelerate and diffusers set forward on instances; what was there comes back, whoever leaves first."""
    case = CASES[name]
    model = case.build()
    accelerate_offload(model)
    forwards = {n: m.__dict__.get("forward") for n, m in model.named_modules()}
    hooked = {"modules": "single_transformer_blocks.0.proj_out", "stack": "proj_out", "output": ""}[kind]
    if name.startswith("hunyuan") or kind != "modules":
        assert forwards[hooked] is not None
    with c4d.cached(model, hold_methods(case.name)[kind]) as session:
        case.loop(model, 2, session.begin)
    assert {n: m.__dict__.get("forward") for n, m in model.named_modules()} == forwards
    with c4d.cached(model, hold_methods(case.name)[kind]) as session:
        case.loop(model, 2, session.begin)
        remove_accelerate(model)
        case.loop(model, 2, session.begin)
    plain = case.build()
    assert all(torch.equal(a, b) for a, b in zip(case.loop(model, 2), case.loop(plain, 2), strict=True))


# -- IP-adapters


@pytest.mark.parametrize("kind", hold_methods("flux"))
def test_ip_adapter(kind):
    """FLUX's adapter stands in the processors and gives a third result of an attention; no method loses it."""
    from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor

    case = CASES["flux"]
    model = case.build()
    torch.manual_seed(1)
    for block in model.transformer_blocks:
        block.attn.processor = FluxIPAdapterAttnProcessor(24, 8, num_tokens=(4,)).requires_grad_(False)
    given = dict(joint_attention_kwargs={"ip_hidden_states": [rand(1, 4, 8, seed=9)]})
    other = dict(joint_attention_kwargs={"ip_hidden_states": [rand(1, 4, 8, seed=10)]})
    x = rand(*case.latents)
    plain = case.run(model, x, 900.0, **given)
    assert (plain - case.run(model, x, 900.0, **other)).norm() > 1e-3 * plain.norm()
    with c4d.cached(model, hold_methods("flux")[kind]) as session, c4d.attention(model) as kernels:
        session.begin([900.0, 900.0])
        computed, reused = (case.run(model, x, 900.0, **given) for _ in range(2))
    assert session.report().timelines == {"0": "Cr"} and "FluxIPAdapterAttnProcessor" in " ".join(kernels.lines())
    for found in (computed, reused):
        torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
    assert torch.equal(case.run(model, x, 900.0, **given), plain)
