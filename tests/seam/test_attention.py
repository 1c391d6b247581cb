"""Attention through a backend: the same result, the same model afterwards, padding gone where nobody can tell."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import pickle
from types import MappingProxyType

import pytest
import torch
from torch.overrides import TorchFunctionMode

import c4d
from c4d.backends import UnsupportedError
from c4d.backends.kernels import KEYS, Kernel, Limits
from c4d.backends.reference import DTYPES, Reference, sdpa
from c4d.core.attention import Processor
from tests.pipes import hunyuan_image, two_experts
from tests.sampled import first_of, sampled
from tests.seam.test_coexist import COMPILE, OFFLOADS, add_lora, graphs
from tests.subjects import SUBJECTS
from tests.tiny import CASES, hold_methods, rand, signal_of, text

FAMILIES = ("wan-t2v", "hunyuan-t2v", "flux")
ATTENTIONS = {"wan-t2v": 8, "wan-vace": 12, "hunyuan-t2v": 5, "flux": 5}


def lively(case):
    """Fresh norms have weights of 1, which hide what is wrong with them."""
    model = case.build()
    for i, (name, p) in enumerate(model.named_parameters()):
        if ".norm_" in name and ".attn" in name:
            p.data = 1.0 + 0.3 * rand(*p.shape, seed=i)
    return model


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(params=FAMILIES)
def family(request):
    return CASES[request.param]


def error(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def attentions(model):
    return {name: m for name, m in model.named_modules() if name.rsplit(".", 1)[-1] in ("attn", "attn1", "attn2")
            and "refiner" not in name}  # fmt: skip


def processors(model):
    return {name: m.processor for name, m in attentions(model).items()}


def ours(model):
    return sum(isinstance(p, Processor) for p in processors(model).values())


def cast(inputs, dtype):
    if isinstance(inputs, list):
        return [cast(x, dtype) for x in inputs]
    return inputs.to(dtype) if isinstance(inputs, torch.Tensor) and inputs.is_floating_point() else inputs


def padded(*lengths, tokens=12, seed=1):
    """Text and mask of HunyuanVideo; what is padded is large, so that nobody overlooks it."""
    mask = torch.zeros(len(lengths), tokens)
    for row, n in zip(mask, lengths, strict=True):
        row[:n] = 1
    text = rand(len(lengths), tokens, 16, seed=seed)
    return dict(encoder_hidden_states=torch.where(mask[..., None] > 0, text, 7 * text), encoder_attention_mask=mask)


def hunyuan(lengths, name="hunyuan-t2v"):
    extra = dict(pooled_projections=rand(len(lengths), 8, seed=2), guidance=torch.full((len(lengths),), 6000.0))
    case = CASES[name]
    return dataclasses.replace(
        case, inputs=lambda: {**padded(*lengths), **extra}, latents=(len(lengths), *case.latents[1:])
    )


class Watching(TorchFunctionMode):
    """Counts what waits for the device."""

    def __init__(self):
        super().__init__()
        self.reads = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in ("tolist", "item", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__"):
            self.reads.append(name)
        return func(*args, **(kwargs or {}))


class Counting(Reference):
    """A backend whose one kernel counts its calls by kind of mask; ``limits`` are those of the kernel."""

    def __init__(self, lossy=False, **limits):
        self.calls, self.fused, self.dtypes, self.keys = [], [], set(), set()
        kernel = Kernel("counts", Limits(DTYPES, lse=False, **limits), self.run, lossy=lossy)
        self.attention_kernels = MappingProxyType({"counting": kernel})

    def run(self, q, k, v, mask, *rest):
        self.calls.append(None if mask is None else tuple(mask.shape))
        self.dtypes.update(x.dtype for x in (q, k, v))
        self.keys.add(k.shape[1])
        return sdpa(q, k, v, mask, *rest)

    def rms_norm(self, *args, **kwargs):
        self.fused.append("norm")
        return super().rms_norm(*args, **kwargs)

    def rotary(self, *args, **kwargs):
        self.fused.append("rotary")
        return super().rotary(*args, **kwargs)


# -- the same result


@pytest.mark.parametrize("kernel", ["auto", "sdpa", "math"])
def test_the_result_is_that_of_the_model_alone(case, kernel):
    model, x = lively(case), rand(*case.latents)
    plain = case.run(model, x, 700.0)
    with c4d.attention(model, kernel):
        inside = case.run(model, x, 700.0)
        assert ours(model) == len(attentions(model))
    assert error(inside, plain) < 5e-6
    if kernel != "math" and case.name.startswith("wan"):
        assert torch.equal(inside, plain)


@pytest.mark.parametrize("name", [name for name in CASES if name != "dit"])  # it has neither
def test_the_test_above_would_notice_norms_and_rotary_embeddings(name):
    case = CASES[name]
    model, x = lively(case), rand(*case.latents)
    plain = case.run(model, x, 700.0)
    assert error(case.run(case.build(), x, 700.0), plain) > 1e-3
    rope = getattr(model, "rope", None) or model.pos_embed
    handle = rope.register_forward_hook(
        lambda module, args, out: (out[0].roll(1, -3 if out[0].ndim > 2 else 0), out[1])
    )
    assert error(case.run(model, x, 700.0), plain) > 1e-4
    handle.remove()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_close_to_double_precision_as_the_model_alone(case, dtype):
    def run(model, to):
        given = dataclasses.replace(case, inputs=lambda: {k: cast(v, to) for k, v in case.inputs().items()})
        return given.run(model, rand(*case.latents).to(to), 700.0)

    exact = run(lively(case).double(), torch.float64)
    model = lively(case).to(dtype)
    plain = run(model, dtype)
    with c4d.attention(model):
        inside = run(model, dtype)
    assert inside.dtype == dtype
    assert error(inside, exact) < (5e-6 if dtype == torch.float32 else 1.25 * error(plain, exact) + 1e-3)


def test_autocast(family):
    """Kernels get the dtype that they were chosen for; norms whose weights have another one are called."""
    model, x, backend = lively(family), rand(*family.latents), Counting()
    with torch.autocast("cpu", torch.bfloat16):
        plain = family.run(model, x, 700.0)
        with c4d.attention(model, backend=backend):
            inside = family.run(model, x, 700.0)
    assert error(inside, plain) < 2e-2
    assert backend.dtypes == {torch.bfloat16} and "norm" not in backend.fused


@pytest.mark.parametrize("name", ["wan-t2v", "wan-i2v", "flux"])
def test_fused_projections(name):
    case = CASES[name]
    model, x = lively(case), rand(*case.latents)
    plain = case.run(model, x, 700.0)
    model.fuse_qkv_projections()
    with c4d.attention(model):
        for module in attentions(model).values():
            module.to_k = module.add_v_proj = None  # must not be called
        assert error(case.run(model, x, 700.0), plain) < 5e-6


def test_lora(family):
    model, x = lively(family), rand(*family.latents)
    plain = family.run(model, x, 700.0)
    add_lora(model)
    adapted = family.run(model, x, 700.0)
    assert error(adapted, plain) > 1e-3
    with c4d.attention(model):
        assert error(family.run(model, x, 700.0), adapted) < 5e-6
    other = lively(family)
    with c4d.attention(other):
        add_lora(other)
        assert error(family.run(other, x, 700.0), adapted) < 5e-6


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("offload", OFFLOADS)
def test_offloading(family, offload, inside):
    model, x = lively(family), rand(*family.latents)
    prepare, undo = OFFLOADS[offload]
    plain = family.run(model, x, 700.0)
    if not inside:
        prepare(model)
    with c4d.attention(model):
        if inside:
            prepare(model)
        assert error(family.run(model, x, 700.0), plain) < 5e-6
    undo(model)
    assert torch.equal(family.run(model, x, 700.0), plain)


def test_a_norm_of_another_kind_is_called(family):
    class Doubled(torch.nn.Module):
        def forward(self, x):
            return 2.0 * torch.nn.functional.layer_norm(x, x.shape[-1:])

    model, x = lively(family), rand(*family.latents)
    for module in attentions(model).values():
        module.norm_q, module.norm_k = Doubled(), Doubled()
    plain = family.run(model, x, 700.0)
    backend = Counting()
    with c4d.attention(model, backend=backend):
        assert error(family.run(model, x, 700.0), plain) < 5e-6
    assert "rotary" in backend.fused


# -- kernels


def test_every_attention_runs_the_kernel_and_the_primitives(family):
    model, backend, x = lively(family), Counting(), rand(*family.latents)
    with c4d.attention(model, "counting", backend=backend) as session:
        family.run(model, x, 700.0)
    total = ATTENTIONS[family.name]
    assert backend.calls == [None] * total
    streams = {"wan-t2v": (16, 8), "hunyuan-t2v": (14, 10), "flux": (14, 14)}[family.name]  # text has norms of its own
    assert (backend.fused.count("norm"), backend.fused.count("rotary")) == streams
    assert session.lines()[0].endswith(" through counting")


def test_a_kernel_is_chosen_once(monkeypatch, family):
    import c4d.api

    chosen, choose = [], c4d.api.choose
    monkeypatch.setattr(
        c4d.api, "choose", lambda kernels, call, name: chosen.append(call) or choose(kernels, call, name)
    )
    model, x = family.build(), rand(*family.latents)
    with c4d.attention(model):
        for _ in range(3):
            family.run(model, x, 700.0)
        assert len(chosen) == 1 and chosen[0].mask == "none"
        if family.name == "hunyuan-t2v":
            mixed, strange = (
                hunyuan((5, 12)),
                {"encoder_attention_mask": torch.ones(1, 12).index_fill(1, torch.tensor(3), 0)},
            )
            mixed.run(model, rand(*mixed.latents), 700.0)
            assert len(chosen) == 1  # cut to its own keys, no sample needs a mask
            odd = dataclasses.replace(family, inputs=lambda: {**family.inputs(), **strange})
            for _ in range(3):
                odd.run(model, x, 700.0)
            assert [call.mask for call in chosen] == ["none", KEYS]


def test_what_a_kernel_cannot_take_is_refused_before_anything_is_installed(family):
    model = family.build()
    before = processors(model)
    size = family.build().config.attention_head_dim
    for kernel, backend, kind, message in (
        ("flash-9", "cpu", ValueError, "unknown attention kernel 'flash-9': known are auto, sdpa, math"),
        ("counting", Counting(head_sizes=(5, 7)), UnsupportedError, f"takes head sizes 5, 7, not {size}; these would"),
        ("auto", Counting(head_sizes=range(64, 257, 64)), UnsupportedError, f"64 to 256 in steps of 64, not {size}"),
        ("auto", Counting(lossy=True), UnsupportedError, "is lossy and runs only by name"),
    ):
        with pytest.raises(kind, match=message):
            c4d.attention(model, kernel, backend=backend)
    with pytest.raises(TypeError, match="kernel is 3; give the name of an attention kernel"):
        c4d.attention(model, 3)
    assert processors(model) == before and not model._forward_pre_hooks


def test_a_lossy_kernel_runs_by_name_and_is_called_lossy():
    backend = Counting(lossy=True)
    with c4d.attention(CASES["wan-t2v"].build(), "counting", backend=backend) as session:
        assert session.lines()[0].endswith("through counting (lossy)")


def test_a_dtype_that_a_kernel_cannot_take_is_refused():
    model = CASES["wan-t2v"].build()
    backend = Counting()
    backend.attention_kernels = {"half": Kernel("", Limits((torch.bfloat16,)), backend.run)}
    with pytest.raises(UnsupportedError, match="'half' takes bfloat16, not float32"):
        c4d.attention(model, "half", backend=backend)
    with c4d.attention(model.bfloat16(), "half", backend=backend) as session:
        model.float()
        with pytest.raises(UnsupportedError, match="'half' takes bfloat16, not float32"):
            CASES["wan-t2v"].run(model, rand(*CASES["wan-t2v"].latents), 700.0)
    assert session.lines() == ["transformer: 4 self-attentions and 4 cross-attentions through half"]


def test_a_kernel_without_masks_runs_where_slicing_leaves_none():
    """It is refused at the first forward that needs one, before that computes anything."""
    backend, entered = Counting(masks=()), []
    mixed = hunyuan((5, 9))
    holes = {
        **mixed.inputs(),
        "encoder_attention_mask": torch.tensor([[1.0, 0.0, 1.0, 0.0]] * 2).repeat_interleave(3, 1),
    }
    odd = dataclasses.replace(mixed, inputs=lambda: holes)
    model, x = lively(mixed), rand(*mixed.latents)
    plain = mixed.run(model, x, 700.0)
    with c4d.attention(model, "counting", backend=backend):
        assert error(mixed.run(model, x, 700.0), plain) < 5e-6
        model.x_embedder.register_forward_hook(lambda *_: entered.append(1))
        with pytest.raises(UnsupportedError, match="'counting' does not take a boolean mask of keys"):
            odd.run(model, x, 700.0)
    assert not entered


def test_a_named_kernel_needs_attention_in_the_spec():
    spec = c4d.ModelSpec("WanTransformer3DModel", stacks=(c4d.Stack("blocks"),), exit="norm_out")
    model = CASES["wan-t2v"].build()
    with pytest.raises(ValueError, match="nowhere to run: the spec of WanTransformer3DModel declares no attention"):
        c4d.attention(model, "sdpa", spec=spec)
    with c4d.attention(model, spec=spec) as session:
        assert ours(model) == 0
    assert session.lines() == ["transformer: no attention declared in its spec; all left as they are"]


# -- install, leave alone, restore


def test_the_very_processors_come_back_and_no_class_was_touched(case):
    model, x = case.build(), rand(*case.latents)
    plain = case.run(model, x, 700.0)
    before = processors(model)
    classes = {type(p): dict(vars(type(p))) for p in before.values()} | {
        type(m): dict(vars(type(m))) for m in attentions(model).values()
    }
    attributes = {name: dict(m.__dict__) for name, m in model.named_modules()}
    with c4d.attention(model) as session, pytest.raises(RuntimeError, match="already at work"):
        session.__enter__()
    with c4d.attention(model):
        case.run(model, x, 700.0)
        assert list(model.state_dict()) == list(case.build().state_dict())
    after = processors(model)
    assert all(after[name] is p for name, p in before.items())
    assert {name: dict(m.__dict__) for name, m in model.named_modules()} == attributes
    assert all(dict(vars(cls)) == old for cls, old in classes.items())
    assert torch.equal(case.run(model, x, 700.0), plain)


def test_a_failed_forward_and_a_failed_block_leave_nothing(family):
    model, x = family.build(), rand(*family.latents)
    before, plain = processors(model), family.run(model, x, 700.0)
    with pytest.raises(ZeroDivisionError), c4d.attention(model):
        handle = model.norm_out.register_forward_hook(lambda *_: 1 / 0)
        family.run(model, x, 700.0)
    handle.remove()
    assert processors(model) == before and torch.equal(family.run(model, x, 700.0), plain)


class Own:
    """Somebody's own processor: the stock one's result, doubled."""

    def __init__(self, stock):
        self.stock = stock

    def __call__(self, *args, **kwargs):
        out = self.stock(*args, **kwargs)
        return tuple(2.0 * x for x in out) if isinstance(out, tuple) else 2.0 * out


def test_other_processors_are_left_alone_or_refused(family):
    model, x = lively(family), rand(*family.latents)
    path, module = list(attentions(model).items())[1]
    own = module.processor = Own(module.processor)
    plain = family.run(model, x, 700.0)
    with c4d.attention(model) as session:
        assert module.processor is own and ours(model) == ATTENTIONS[family.name] - 1
        assert error(family.run(model, x, 700.0), plain) < 5e-6
    assert session.lines()[1] == "transformer: 1 attention left to its own processor Own"
    assert module.processor is own
    with pytest.raises(ValueError, match=f"but transformer.{path} has the processor Own; give it its stock"):
        c4d.attention(model, "sdpa")
    assert ours(model) == 0


def test_a_processor_that_was_configured_is_not_the_stock_one(monkeypatch, family):
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    monkeypatch.setattr(registry, "_active_backend", registry._active_backend)  # a model's backend becomes everybody's
    model = family.build()
    model.set_attention_backend("_native_math")
    with c4d.attention(model) as session:
        assert ours(model) == 0
    assert "_attention_backend set" in session.lines()[0]
    with pytest.raises(ValueError, match="_attention_backend set"):
        c4d.attention(model, "sdpa")
    model.reset_attention_backend()
    with c4d.attention(model, "sdpa"):
        assert ours(model) == ATTENTIONS[family.name]
        with pytest.raises(AttributeError, match="set _attention_backend before or after it"):
            model.set_attention_backend("native")


def test_a_processor_that_others_set_meanwhile_stays(family):
    model = family.build()
    module = next(iter(attentions(model).values()))
    stock = module.processor
    with c4d.attention(model):
        own = Own(stock)
        module.set_processor(own)
    assert module.processor is own
    module.set_processor(stock)
    assert ours(model) == 0


def test_a_copy_or_a_saved_model_is_plain(case, tmp_path):
    model, x = lively(case), rand(*case.latents)
    before, plain = processors(model), case.run(model, x, 700.0)
    backend = Counting()
    with c4d.attention(model, backend=backend):
        case.run(model, x, 700.0)
        model.save_pretrained(tmp_path)
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), type(model).from_pretrained(tmp_path)]
        calls = len(backend.calls)
        for other in copies:
            assert {n: type(p) for n, p in processors(other).items()} == {n: type(p) for n, p in before.items()}
            assert error(case.run(other.eval(), x, 700.0), plain) < 1e-6  # loaded weights lie elsewhere in memory
        assert len(backend.calls) == calls
    for other in copies:
        with c4d.attention(other):
            assert ours(other) == len(before)
        assert not ours(other)


@pytest.mark.parametrize("kernel", ["auto", "sdpa"])
def test_processors_exchanged_inside_are_told(kernel):
    case = CASES["wan-t2v"]
    model, x = lively(case), rand(*case.latents)
    stock = dict(processors(model))
    with c4d.attention(model, kernel) as session:
        case.run(model, x, 700.0)
        module = next(iter(attentions(model).values()))
        module.processor = Own(next(iter(stock.values())))
        if kernel == "auto":
            case.run(model, x, 700.0)
        else:
            with pytest.raises(RuntimeError, match=r"'sdpa' is to run in every attention, .* other processors \(Own\)"):
                case.run(model, x, 700.0)
    assert session.lines()[1] == "transformer: 1 of them given another processor inside the with block, Own"


def test_one_inside_another_is_told(family):
    model = family.build()
    with c4d.attention(model):
        for another in (lambda: c4d.attention(model, "sdpa"), lambda: c4d.attention(model), lambda: c4d.sharded(model)):
            with pytest.raises(RuntimeError, match=r"are in a c4d\.attention, c4d\.sharded or .* already: leave that"):
                another()
    with c4d.attention(model):
        pass


def test_a_pipeline_with_two_experts():
    pipe = two_experts()[0]
    with c4d.attention(pipe) as session:
        assert ours(pipe.transformer) == ours(pipe.transformer_2) == 8
    through = "4 self-attentions and 4 cross-attentions will go through sdpa"  # nothing ran
    assert session.lines() == [f"transformer: {through}", f"transformer_2: {through}"]


def test_a_forward_past_the_hooks_is_right(case):
    model, x = lively(case), rand(*case.latents)
    plain = case.run(model, x, 700.0)
    with c4d.attention(model):
        case.run(model, x, 700.0)
        direct = dataclasses.replace(case).run(model.forward, x, 700.0)
    assert error(direct, plain) < 5e-6


# -- padding


@pytest.mark.parametrize("name", ["hunyuan-t2v", "hunyuan-i2v-concat", "hunyuan-i2v-replace"])
@pytest.mark.parametrize("lengths", [(9,), (12,), (1,), (9, 9), (5, 9), (12, 3)], ids=str)
def test_padded_text_is_sliced_away_and_nobody_can_tell(name, lengths):
    case, backend, seen = hunyuan(lengths, name), Counting(), []
    model, x = lively(case), rand(*case.latents)
    plain = case.run(model, x, 700.0)
    with c4d.attention(model, backend=backend) as session:
        handle = model.context_embedder.register_forward_hook(lambda module, args, out: seen.append(out.shape[1]))
        inside = case.run(model, x, 700.0)
        again = case.run(model, x, 700.0)
    handle.remove()
    assert error(inside, plain) < 5e-6 and torch.equal(inside, again)
    assert seen == [max(lengths)] * 2
    image = x.shape[2] * x.shape[3] * x.shape[4]
    samples = 1 if len(set(lengths)) == 1 else len(lengths)  # each with its own keys, and no mask
    assert set(backend.calls) == {None} and len(backend.calls) == 10 * samples
    assert backend.keys == {image + n for n in lengths}
    assert session.host_reads == 2  # each run makes its own mask


def test_the_test_above_would_notice_padding():
    case = hunyuan((5, 9))
    model, x = lively(case), rand(*case.latents)
    plain = case.run(model, x, 700.0)
    for lengths in ((6, 9), (5, 10), (5, 8), (4, 9)):
        inputs = {**case.inputs(), "encoder_attention_mask": padded(*lengths)["encoder_attention_mask"]}
        other = dataclasses.replace(case, inputs=lambda inputs=inputs: inputs)
        assert error(other.run(model, x, 700.0), plain) > 1e-4


@pytest.mark.parametrize(
    "rows", [[[0, 1, 1, 1]], [[1, 0, 1, 0]], [[1, 1, 0.5, 0]], [[1, 1, 0, 0], [0, 1, 0, 0]]], ids=str
)
def test_a_mask_that_is_no_prefix_stays_as_it_is(rows):
    case, backend = hunyuan((9,) * len(rows)), Counting()
    given = {**case.inputs(), "encoder_attention_mask": torch.tensor(rows).float().repeat_interleave(3, 1)}
    case = dataclasses.replace(case, inputs=lambda: given)
    model, x = lively(case), rand(*case.latents)
    plain = case.run(model, x, 700.0)
    with c4d.attention(model, backend=backend) as session:
        assert error(case.run(model, x, 700.0), plain) < 5e-6
    assert set(backend.calls) == {(len(rows), 1, 1, 32 + 12)} and session.host_reads == 1


def qwen(lengths, name="qwen-masked"):
    case = CASES[name]
    shapes = case.inputs()["img_shapes"] * len(lengths)
    mask = "encoder_hidden_states_mask"
    return dataclasses.replace(
        case,
        inputs=lambda: dict(**text(*lengths, mask=mask), img_shapes=shapes),
        latents=(len(lengths), *case.latents[1:]),
    )


def two_texts(first, second):
    """HunyuanImage with texts of these lengths from its two encoders."""
    case = CASES["hunyuan-image-two-texts"]
    extra = {name: case.inputs()[name].repeat(len(first)) for name in ("guidance", "timestep_r")}
    return dataclasses.replace(
        case,
        inputs=lambda: {**text(*first), **text(*second, tokens=6, seed=2, suffix="_2"), **extra},
        latents=(len(first), *case.latents[1:]),
    )


@pytest.mark.parametrize(
    "case, lengths",
    [
        *[(qwen(n), n) for n in ((9,), (12,), (1,), (0,), (5, 9), (9, 9))],
        (qwen((5, 9), "qwen-edit"), (5, 9)),
        (two_texts((9,), (3,)), (12,)),
        (two_texts((12,), (0,)), (12,)),
        (two_texts((5, 9), (6, 0)), (11, 9)),
        (two_texts((9, 5), (2, 6)), (11, 11)),
        (two_texts((9, 9), (0, 0)), (9, 9)),
    ],
    ids=lambda x: getattr(x, "name", str(x)),
)
def test_padding_of_text_that_stands_first_and_of_several_texts(case, lengths):
    """No key of padding is attended to, and no mask is needed for that."""
    backend = Counting()
    model, x = lively(case), rand(*case.latents)
    plain = case.run(model, x, 700.0)
    with c4d.attention(model, backend=backend) as session:
        inside, again = (case.run(model, x, 700.0) for _ in range(2))
    assert error(inside, plain) < 5e-6 and torch.equal(inside, again)
    image = x.shape[1] if case.name.startswith("qwen") else x.shape[2] * x.shape[3]
    assert set(backend.calls) == {None} and backend.keys == {image + n for n in lengths}
    assert session.host_reads == (4 if "encoder_hidden_states_2" in case.inputs() else 2)


@pytest.mark.parametrize("name", ["qwen-masked", "hunyuan-image-two-texts"])
def test_masks_with_holes_stay_beside_one_another(name):
    case = CASES[name]
    first = "encoder_hidden_states_mask" if name == "qwen-masked" else "encoder_attention_mask"
    given = {**case.inputs(), first: torch.tensor([[1.0, 0.0, 1.0, 0.0]]).repeat_interleave(3, 1)}
    case, backend = dataclasses.replace(case, inputs=lambda: given), Counting()
    model, x = lively(case), rand(*case.latents)
    plain = case.run(model, x, 700.0)
    with c4d.attention(model, backend=backend):
        assert error(case.run(model, x, 700.0), plain) < 5e-6
    # The second text of HunyuanImage, 3 of 6 tokens, loses its padding all the same.
    assert set(backend.calls) == {(1, 1, 1, 20 + 12 + (0 if name == "qwen-masked" else 3))}


def test_a_second_text_that_the_model_does_not_read_counts_for_nothing():
    case = CASES["hunyuan-image"]
    given = {**text(9, 5), **text(3, 0, tokens=6, seed=2, suffix="_2")}
    case = dataclasses.replace(case, inputs=lambda: given, latents=(2, *case.latents[1:]))
    model, x, backend = lively(case), rand(*case.latents), Counting()
    plain = case.run(model, x, 700.0)
    with c4d.attention(model, backend=backend):
        assert error(case.run(model, x, 700.0), plain) < 5e-6
    assert backend.keys == {20 + 9, 20 + 5}


@pytest.mark.parametrize("name, argument", [("qwen-masked", "attention_mask"), ("dit", "attention_mask")])
def test_masks_that_a_stock_processor_would_take_otherwise_are_refused(name, argument):
    case = CASES[name]
    model = case.build()
    module = next(iter(attentions(model).values()))
    module.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, argument: torch.ones(1, 1, 1, 20)}), with_kwargs=True
    )
    with c4d.attention(model), pytest.raises(ValueError, match="takes no"):
        case.run(model, rand(*case.latents), 700.0)


def test_a_mask_without_any_text_leaves_one_token_of_padding_that_nobody_attends_to():
    case, seen, backend = hunyuan((0,)), [], Counting()
    model = lively(case)
    with c4d.attention(model, backend=backend):
        model.context_embedder.register_forward_hook(lambda module, args, out: seen.append(out.shape[1]))
        case.run(model, rand(*case.latents), 700.0)
    assert seen == [1] and backend.keys == {32}


def test_padding_given_by_position_or_as_integers():
    case = hunyuan((5, 9))
    model, x, t = lively(case), rand(*case.latents), torch.full((2,), 700.0)
    given = case.inputs()
    plain = case.run(model, x, 700.0)
    mask = given.pop("encoder_attention_mask").long()
    with c4d.attention(model) as session:
        out = model(x, t, given.pop("encoder_hidden_states"), mask, **given, return_dict=False)[0]
    assert error(out, plain) < 5e-6 and session.host_reads == 1


def test_a_mask_is_read_once_while_it_stays_as_it_is():
    case = hunyuan((9,))
    model, x, given = lively(case), rand(*case.latents), case.inputs()
    fixed = dataclasses.replace(case, inputs=lambda: given)
    watch = Watching()
    with c4d.attention(model) as session:
        with watch:
            for _ in range(4):
                fixed.run(model, x, 700.0)
        assert session.host_reads == 1 and watch.reads == ["tolist"]
        given["encoder_attention_mask"][:, 6:] = 0  # written to in place
        plain_inputs = copy.deepcopy(given)
        inside = fixed.run(model, x, 700.0)
        assert session.host_reads == 2
    assert error(inside, dataclasses.replace(case, inputs=lambda: plain_inputs).run(model, x, 700.0)) < 5e-6


def test_a_mask_that_cannot_be_watched_is_read_every_time():
    case = hunyuan((9,))
    model, x = lively(case), rand(*case.latents)
    with torch.inference_mode(), c4d.attention(model) as session:
        given = case.inputs()
        fixed = dataclasses.replace(case, inputs=lambda: given)
        for length in (9, 6):
            given["encoder_attention_mask"][:, length:] = 0
            inside = fixed.run(model, x, 700.0)
        assert session.host_reads == 2
    assert error(inside, dataclasses.replace(case, inputs=lambda: copy.deepcopy(given)).run(model, x, 700.0)) < 5e-6


@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith(("hunyuan", "qwen-masked", "qwen-edit"))])
def test_models_without_padding_never_make_the_host_wait(name):
    case = CASES[name]
    model, x = case.build(), rand(*case.latents)
    case.run(model, x, 700.0)
    with Watching() as plain:
        case.run(model, x, 700.0)
    with c4d.attention(model) as session, Watching() as watch:
        case.run(model, x, 700.0)
    assert watch.reads == plain.reads and session.host_reads == 0


def test_beside_somebody_s_own_processor_text_keeps_its_padding():
    case, backend = hunyuan((9,)), Counting()
    model, x = lively(case), rand(*case.latents)
    module = next(iter(attentions(model).values()))
    module.processor = Own(module.processor)
    plain = case.run(model, x, 700.0)
    with c4d.attention(model, backend=backend) as session:
        assert error(case.run(model, x, 700.0), plain) < 5e-6
    assert set(backend.calls) == {(1, 1, 1, 32 + 12)} and session.host_reads == 0


@pytest.mark.parametrize("name", ["flux", "hunyuan-t2v"])
@pytest.mark.parametrize("kind", ["an additive mask", "a boolean mask of queries and keys"])
def test_a_mask_that_a_kernel_was_not_chosen_for(name, kind):
    """One that nobody announced, or of another kind, in the middle of a forward: a kernel is chosen for it there."""
    case = CASES[name]
    model = lively(case)
    module = next(iter(attentions(model).values()))

    def of_pairs(module, args, kwargs):
        tokens = kwargs["hidden_states"].shape[1] + kwargs["encoder_hidden_states"].shape[1]
        mask = rand(1, 1, tokens, tokens, seed=9)
        return args, {**kwargs, "attention_mask": mask if kind == "an additive mask" else mask > 0}

    mixed = hunyuan((5, 9)) if name == "hunyuan-t2v" else case
    x = rand(*mixed.latents)
    module.register_forward_pre_hook(of_pairs, with_kwargs=True)
    with c4d.attention(model, backend=Counting(masks=(KEYS,))), pytest.raises(UnsupportedError, match=kind):
        mixed.run(model, x, 700.0)
    if name == "flux":
        plain = case.run(model, x, 700.0)
        with c4d.attention(model):
            assert error(case.run(model, x, 700.0), plain) < 5e-6


# -- beside caching


ORDERS = {"around": (0, 1), "inside": (1, 0)}


@contextlib.contextmanager
def both(model, method, order):
    makers = [lambda: c4d.attention(model), lambda: c4d.cached(model, method)]
    with contextlib.ExitStack() as stack:
        made = {i: stack.enter_context(makers[i]()) for i in ORDERS[order]}
        yield made[1]


@pytest.mark.parametrize(("name", "kind", "order"), sampled(CASES, hold_methods("wan-t2v"), ORDERS, nth=5))
def test_caching_reuses_what_it_computed(name, kind, order):
    case = CASES[name]
    model, x = lively(case), rand(*case.latents)
    plain = case.run(model, x, 900.0)
    before = processors(model)
    with both(model, hold_methods(case.name)[kind], order) as session:
        session.begin([900.0, 900.0])
        computed, reused = (case.run(model, x, 900.0) for _ in range(2))
    assert set(session.report().timelines.values()) == {"Cr"}
    assert error(computed, plain) < 5e-6 and error(reused, computed) < 1e-6
    assert processors(model) == before and not model._forward_pre_hooks and not model._forward_hooks


NEVER = [
    "fora:interval=1",
    "taylorseer-lite:interval=1",
    "first-block:threshold=1e-9",
    "teacache:threshold=1e-9,coefficients=1/0,signal={signal}",
]


@pytest.mark.parametrize(("name", "method", "order"), sampled(CASES, NEVER, ORDERS, nth=5))
def test_never_skipping_is_bit_exact(name, method, order):
    case = CASES[name]
    model = lively(case)
    with c4d.attention(model):
        alone = case.loop(model, 4)
    with both(model, method.format(signal=signal_of(case.name)), order) as session:
        inside = case.loop(model, 4, session.begin)
    assert session.report().reused == 0
    assert all(torch.equal(a, b) for a, b in zip(alone, inside, strict=True))


@pytest.mark.parametrize("order", ORDERS)
def test_a_text_that_becomes_shorter_within_a_run_starts_afresh(order):
    """The mask alone changes; what a session stored of the text has the length that it had."""
    long, short = hunyuan((9,)), hunyuan((6,))
    model, x = lively(long), rand(*long.latents)
    plain = short.run(model, x, 800.0)
    with both(model, "fora:interval=2", order) as session:
        session.begin([900.0, 800.0])
        long.run(model, x, 900.0)
        assert error(short.run(model, x, 800.0), plain) < 5e-6
    assert session.trace[1].restarted


def request(pipe, lengths, prompts=1):
    """HunyuanVideo asked with texts of these lengths for the prompt and what is not wanted."""
    ask = SUBJECTS["hunyuan"].request(prompts=prompts)
    for prefix, length in zip(("", "negative_"), lengths, strict=True):
        ask.update({
            f"{prefix}prompt_embeds": padded(length, seed=length)["encoder_hidden_states"].repeat(prompts, 1, 1),
            f"{prefix}prompt_attention_mask": padded(length)["encoder_attention_mask"].repeat(prompts, 1),
        })  # fmt: skip
    return pipe(**ask, generator=torch.Generator().manual_seed(3), output_type="latent").frames


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", SUBJECTS["hunyuan"].methods)
def test_branches_and_requests_with_texts_of_other_lengths(kind, order):
    pipe = SUBJECTS["hunyuan"].build()
    asked = [(9, 4), (6, 4), (12, 1)]
    expected, traces = [], []
    with c4d.cached(pipe, SUBJECTS["hunyuan"].methods[kind]) as session:
        for lengths in asked:
            expected.append(request(pipe, lengths))
            traces.append(session.report().timelines)
    with both(pipe, SUBJECTS["hunyuan"].methods[kind], order) as session:
        for lengths, wanted, trace in zip(asked, expected, traces, strict=True):
            assert error(request(pipe, lengths), wanted) < 2e-5  # over eight steps
            assert session.report().timelines == trace and session.report().reused > 0
            assert not any(e.restarted for e in session.trace)


def test_host_reads_of_a_request():
    pipe = SUBJECTS["hunyuan"].build()
    with c4d.attention(pipe) as session:
        for n in range(1, 4):
            request(pipe, (9, 4), prompts=2)
            assert session.host_reads == 2 * n  # one for each branch, over eight steps


@pytest.mark.parametrize("name", ["wan", "flux"])
def test_pipelines(name):
    subject = SUBJECTS[name]
    pipe = subject.build()
    plain = subject.ask(pipe)
    with c4d.attention(pipe) as session:
        assert error(subject.ask(pipe), plain) < 1e-5
    assert session.host_reads == 0 and torch.equal(subject.ask(pipe), plain)


# -- compiled blocks


@pytest.mark.parametrize(("name", "inside"), sampled(FAMILIES, [False, True], nth=4, complete=False))
def test_compiled_blocks(name, inside):
    family = CASES[name]
    model = lively(family)
    model.compile_repeated_blocks(**COMPILE)
    plain, count = graphs(lambda: family.loop(model, 3))
    fresh, backend = lively(family), Reference()

    def run():
        if not inside:
            fresh.compile_repeated_blocks(**COMPILE)
        with c4d.attention(fresh, backend=backend):
            if inside:
                fresh.compile_repeated_blocks(**COMPILE)
            return family.loop(fresh, 3)

    outs, with_attention = graphs(run)
    assert with_attention == count
    assert all(error(a, b) < 1e-5 for a, b in zip(outs, plain, strict=True))


@pytest.mark.parametrize("family", first_of(FAMILIES), indirect=True)
def test_compiled_blocks_and_caching(family):
    eager = lively(family)
    with c4d.cached(eager, "taylorseer-lite:interval=2@blocks") as session:
        expected = family.loop(eager, 4, session.begin)
    model = lively(family)
    model.compile_repeated_blocks(**COMPILE)

    def run():
        with both(model, "taylorseer-lite:interval=2@blocks", "inside") as session:
            return family.loop(model, 4, session.begin)

    outs, _ = graphs(run)
    assert all(error(a, b) < 1e-5 for a, b in zip(outs, expected, strict=True))


def test_a_whole_compiled_model_is_refused():
    model = CASES["wan-t2v"].build()
    with pytest.raises(TypeError, match="compile its blocks"):
        c4d.attention(torch.compile(model, backend="eager"))
    model.compile(backend="eager")
    with pytest.raises(RuntimeError, match="compile its blocks"):
        c4d.attention(model)


@pytest.mark.parametrize("method", [None, "taylorseer-lite:interval=2@blocks"])
def test_a_guider_that_perturbs_attention_finds_the_stock_processors(method):
    """It looks up their class, and takes torch's own attention away while the perturbed call runs."""
    from diffusers import LayerSkipConfig
    from diffusers.guiders import PerturbedAttentionGuidance

    pipe, request = hunyuan_image()
    pipe.set_progress_bar_config(disable=True)
    config = LayerSkipConfig(
        indices=[0, 1], fqn="transformer_blocks", skip_attention=False, skip_attention_scores=True, skip_ff=False
    )

    def ask(scale):
        guider = PerturbedAttentionGuidance(3.0, scale, 0.0, 1.0, perturbed_guidance_config=config)
        pipe.register_modules(guider=guider)
        seed = torch.Generator().manual_seed(0)
        return pipe(**request("A"), num_inference_steps=4, generator=seed, output_type="latent", return_dict=False)[0]

    def cached():
        return contextlib.nullcontext() if method is None else c4d.cached(pipe, method)

    with cached():
        plain, without = ask(2.5), ask(0.0)
    with c4d.attention(pipe) as attention, cached():
        out = ask(2.5)
    assert error(out, plain) < 1e-5 < error(without, plain)
    assert any("2 of them left to their own while a guider perturbs it" in line for line in attention.lines())
    assert not any(isinstance(p, Processor) for p in processors(pipe.transformer).values())
    with c4d.attention(pipe, "sdpa"), pytest.raises(RuntimeError, match=r"perturbed by a guider.*or use the kernel"):
        ask(2.5)
