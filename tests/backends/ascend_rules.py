"""What the Ascend adapter may say to torch_npu's operators, by their documentation: held against the calls it makes.

torch_npu is not needed: stand-ins with the documented signatures note the calls and compute nothing. Each rule is a
property of an adapter; ``RULES`` are all of them.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from c4d.backends.ascend import Ascend
from c4d.backends.kernels import ADDITIVE, CAUSAL, FULL, KEYS, NONE

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
EVERYTHING = 2**31 - 1


class OnPaper(Ascend):
    """The adapter on an NPU that is not there, for tensors on the host."""

    device_type = "cpu"
    dtypes = (BF16, FP16, FP32)

    def __init__(self, chip="Ascend910B3"):
        super().__init__()
        self.chip = chip

    def missing(self):
        return None


# -- the operators


def npu_fusion_attention(
    query, key, value, head_num, input_layout, pse=None, padding_mask=None, atten_mask=None, scale=1.0, keep_prob=1.0,
    pre_tockens=EVERYTHING, next_tockens=EVERYTHING, inner_precise=0, sparse_mode=0,
):  # fmt: skip
    B, S, N, _ = query.shape
    return torch.empty_like(query), *torch.ones(2, B, N, S, 8), torch.empty(0), 0, 0, 0


def npu_fused_infer_attention_score(
    query, key, value, *, atten_mask=None, num_heads=1, scale=1.0, pre_tokens=EVERYTHING, next_tokens=EVERYTHING,
    input_layout="BSH", num_key_value_heads=0, sparse_mode=0, inner_precise=0, softmax_lse_flag=False,
):  # fmt: skip
    B, S, N, _ = query.shape
    return torch.empty_like(query), torch.zeros((B, N, S, 1) if softmax_lse_flag else 1)


def npu_rms_norm(input, gamma, epsilon=1e-6):
    return torch.empty_like(input), input.new_empty(*input.shape[:-1], 1, dtype=FP32)


def npu_rotary_mul(input, r1, r2, rotary_mode="half", rotate=None):
    return torch.empty_like(input)


OPERATORS = (npu_fusion_attention, npu_fused_infer_attention_score, npu_rms_norm, npu_rotary_mul)


@contextmanager
def noted():
    """The calls of the operators: their names, and their arguments by name, those left to their defaults too."""
    calls = []

    def stand_in(operator):
        def called(*args, **kwargs):
            bound = inspect.signature(operator).bind(*args, **kwargs)
            bound.apply_defaults()
            calls.append((operator.__name__, SimpleNamespace(**bound.arguments)))
            return operator(*args, **kwargs)

        return called

    with pytest.MonkeyPatch.context() as patch:
        stand_ins = {operator.__name__: stand_in(operator) for operator in OPERATORS}
        patch.setattr(torch.ops, "npu", SimpleNamespace(**stand_ins))
        yield calls


# -- attention

# (heads, head size): sizes that either operator, both and none take; as many heads as they take, and one more
HEADS = [
    (2, 1),
    (3, 16),
    (4, 64),
    (2, 72),
    (1, 128),
    (2, 512),
    (2, 528),
    (2, 768),
    (1, 776),
    (256, 16),
    (257, 16),
    (256, 256),
]


def often(times):
    """Of a property; nothing is left to chance, so that the same mistakes are found each time."""
    return settings(
        max_examples=times,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


@cache
def triangle():
    return torch.ones(2048, 2048, dtype=torch.bool).triu(1)


def numbers(draw):
    """A maker of tensors."""
    make = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return lambda *shape, dtype=FP32: torch.randn(shape, generator=make).to(dtype)


@st.composite
def attention_calls(draw, kind):
    """q, k, v, some of them cut out of a fused projection, and the options of a call."""
    N, D = draw(st.sampled_from(HEADS))
    dtype = draw(st.sampled_from((BF16, FP16, FP32)))
    B, Sq, Sk = draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(st.integers(1, 12))
    Sk = Sq if kind == CAUSAL else Sk
    new = numbers(draw)
    q = new(B, Sq, N, D, dtype=dtype)
    k, v = new(B, Sk, 2, N, D, dtype=dtype).unbind(2)
    mask = None
    if kind not in (NONE, CAUSAL):
        shape = [draw(st.sampled_from((1, full))) for full in (B, N, Sq, Sk)]
        if kind == KEYS:
            shape[1:3] = 1, 1
        mask = new(*shape, dtype=dtype)
        mask = mask if kind == ADDITIVE else mask > -0.5
    scale = draw(st.one_of(st.none(), st.floats(0.01, 0.9)))
    return q, k, v, dict(mask=mask, scale=scale, causal=kind == CAUSAL), draw(st.booleans())


def attention(backend):
    for kind, times in {NONE: 100, KEYS: 20, FULL: 40, CAUSAL: 20, ADDITIVE: 10}.items():

        @often(times)
        @given(case=attention_calls(kind))
        def of_this_kind(case):
            attention_call(backend, *case)

        of_this_kind()


def attention_call(backend, q, k, v, options, lse):
    with noted() as calls:
        (backend.attention_lse if lse else backend.attention)(q, k, v, **options)
    mask, (B, Sq, N, D), Sk = options["mask"], q.shape, k.shape[1]
    if (mask is not None and mask.dtype != torch.bool) or N > 256 or D > 768:
        assert not calls, "additive masks, more heads and larger ones are for other kernels"
        return
    ((name, said),) = calls
    for given_, passed in ((q, said.query), (k, said.key), (v, said.value)):
        assert passed.is_contiguous() and passed.dtype == given_.dtype and torch.equal(passed, given_)
    assert said.input_layout == "BSND"
    assert said.scale == (D**-0.5 if options["scale"] is None else options["scale"])
    left_out = said.atten_mask
    if name == "npu_fused_infer_attention_score":
        assert mask is left_out is None and not options["causal"]
        assert said.num_heads == N and said.num_key_value_heads in (0, N)
        assert said.pre_tokens == said.next_tokens == EVERYTHING
        assert q.dtype in (BF16, FP16) and D % 16 == 0 and D <= 512 and N * D < 65535 and Sq > 1
        assert said.softmax_lse_flag == lse
        return
    assert name == "npu_fusion_attention" and said.head_num == N and said.keep_prob == 1.0
    assert said.pre_tockens == said.next_tockens == EVERYTHING
    if options["causal"]:  # leftUpCausal, by the compressed triangle
        assert said.sparse_mode == 2 and left_out.dtype == torch.bool
        assert torch.equal(left_out, triangle())
        return
    assert said.sparse_mode == 0 and (mask is None) == (left_out is None)
    if mask is not None:
        assert left_out.dtype == torch.bool and left_out.is_contiguous()
        assert list(left_out.shape) in ([B, N, Sq, Sk], [B, 1, Sq, Sk], [1, 1, Sq, Sk], [Sq, Sk])
        assert torch.equal(left_out.expand(B, N, Sq, Sk), ~mask.expand(B, N, Sq, Sk))


# -- norm and rotary embedding


@st.composite
def norm_calls(draw):
    dtype, kind = draw(st.sampled_from((BF16, FP16, FP32))), draw(st.sampled_from(("none", "head", "token")))
    B, S, H, D = (draw(st.integers(1, 6)) for _ in range(4))
    of = draw(st.sampled_from((dtype, FP32)))
    new = numbers(draw)
    weight = None if kind == "none" else new(D if kind == "head" else H * D, dtype=of)
    return new(B, S, H, D, dtype=dtype), weight, draw(st.floats(1e-8, 1e-2))


@often(60)
@given(case=norm_calls())
def norm(backend, case):
    x, weight, eps = case
    with noted() as calls:
        backend.rms_norm(x, weight, eps=eps)
    assert len(calls) == 1 or (not calls and weight is not None and weight.dtype != x.dtype)
    for name, said in calls:
        assert name == "npu_rms_norm" and said.epsilon == eps
        assert said.gamma.dtype == said.input.dtype == x.dtype
        assert torch.equal(said.gamma, torch.ones(x.shape[-1], dtype=x.dtype) if weight is None else weight)
        assert said.input.shape[-1] == len(said.gamma) and torch.equal(said.input.flatten(), x.flatten())


@st.composite
def rotary_calls(draw):
    H, D = draw(st.sampled_from([(1, 2), (3, 8), (2, 64), (500, 2), (999, 2), (1000, 2), (1, 894), (1, 896)]))
    B, S = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    tokens = draw(st.one_of(st.none(), st.integers(0, S)))
    shape = *draw(st.sampled_from(((), (1,), (B,)))), S if tokens is None else tokens, D // 2
    new = numbers(draw)
    x, cos, sin = new(B, S, H, D, dtype=draw(st.sampled_from((BF16, FP16, FP32)))), new(*shape).cos(), new(*shape).cos()
    return x, cos, sin, dict(interleaved=draw(st.booleans()), tokens=tokens)


@often(60)
@given(case=rotary_calls())
def rotary(backend, case):
    x, cos, sin, options = case
    with noted() as calls:
        backend.rotary(x, cos, sin, **options)
    B, _, H, D = x.shape
    turned = cos.shape[-2]
    if turned == 0 or D >= 896 or H >= 1000:
        assert not calls
        return
    samples = cos.ndim == 3 and cos.shape[0] > 1  # the operator knows one table: they lie behind each other
    if not calls:
        assert not samples and B * H >= 1000
    for name, said in calls:
        one = x[:, :turned].float()
        one = one.flatten(0, 1)[None] if samples else one
        assert name == "npu_rotary_mul" and said.rotate is None
        assert said.input.is_contiguous() and said.input.dtype == FP32 and torch.equal(said.input, one)
        assert one.shape[0] * H < 1000
        assert said.rotary_mode == ("interleave" if options["interleaved"] else "half")
        for table, wide in ((cos, said.r1), (sin, said.r2)):
            assert wide.shape == (1, one.shape[1], 1, D) and wide.dtype == FP32
            pairs = wide.unflatten(-1, (-1, 2) if options["interleaved"] else (2, -1))
            both = pairs.unbind(-1 if options["interleaved"] else -2)
            assert all(torch.equal(angle.flatten(), table.flatten()) for angle in both)


@often(60)
@given(case=rotary_calls())
def norm_rotary(backend, case):
    """Between norm and rotary embedding nothing is rounded."""
    x, cos, sin, options = case
    with noted() as calls:
        backend.norm_rotary(x, x[0, 0, 0].clone(), cos, sin, eps=1e-5, **options)
    assert [name for name, _ in calls] in (["npu_rms_norm"], ["npu_rms_norm", "npu_rotary_mul"])
    assert all(said.input.dtype == FP32 for _, said in calls)


RULES = (norm, rotary, norm_rotary, attention)
