"""Kernels of torch_npu: through its own host code, by their doubles against fp64, and who refuses what.

``RuntimeError`` and the like come from torch_npu itself; ``Refused`` stands for CANN and the hardware, which this
machine does not have: those rules are written down from the documentation.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torch_npu

from tests.ascend.sim.device import Simulation
from tests.ascend.sim.doubles import DOUBLES, LAYOUTS, Refused
from tests.backends.doubles import exact

B, SQ, SK, N, D = 2, 48, 33, 4, 64
SCALE = D**-0.5
ATTENTION = "aclnnFlashAttentionScore"


def qkv(dtype=torch.bfloat16, heads=N, seed=0):
    make = torch.Generator().manual_seed(seed)
    return [torch.randn(B, s, n, D, generator=make).to(dtype) for s, n in ((SQ, N), (SK, heads), (SK, heads))]


def keep(*shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.4
    mask[..., 0] = True
    return mask


def fused(q, k, v, heads=N, layout="BSND", scale=SCALE, **rest):
    back = LAYOUTS.get(layout, LAYOUTS["BSND"])[1]
    return torch_npu.npu_fusion_attention(
        *(back(x).contiguous().npu() for x in (q, k, v)), heads, layout, scale=scale, **rest
    )


def inferred(q, k, v, heads=N, layout="BSND", scale=SCALE, **rest):
    back = LAYOUTS[layout][1]
    q, k, v = (back(x).contiguous().npu() for x in (q, k, v))
    return torch_npu.npu_fused_infer_attention_score(q, k, v, num_heads=heads, input_layout=layout, scale=scale, **rest)


def rows(out, layout):
    return LAYOUTS[layout][0](out.cpu(), N).double()


def near(out, wanted, dtype):
    bound = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]
    torch.testing.assert_close(out.double(), wanted, rtol=bound, atol=bound)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_fusion_attention(trace, layout, dtype):
    q, k, v = qkv(dtype)
    trace()
    out, largest, total, *_ = fused(q, k, v, layout=layout)
    assert [name for name in trace() if "Attention" in name] == [ATTENTION]
    wanted, lse = exact(q, k, v, scale=SCALE)
    near(rows(out, layout), wanted, dtype)
    near((largest[..., 0] + total[..., 0].log()).cpu(), lse, torch.float32)
    assert largest.shape == (B, N, SQ, 8) and out.dtype == dtype


@pytest.mark.parametrize("layout", ["BSND", "BNSD", "BSH"])
def test_fused_infer_attention(trace, layout):
    q, k, v = qkv()
    trace()
    out, lse = inferred(q, k, v, layout=layout, softmax_lse_flag=True)
    assert [name for name in trace() if "Attention" in name] != []
    wanted, wanted_lse = exact(q, k, v, scale=SCALE)
    near(rows(out, layout), wanted, q.dtype)
    near(lse[..., 0].cpu(), wanted_lse, torch.float32)


def test_second_versions_spell_it_otherwise():
    q, k, v = qkv()
    mask = keep(1, SQ, SK)
    wanted, _ = exact(q, k, v, mask, SCALE)
    q, k, v, out_of_sight = (x.npu() for x in (q, k, v, ~mask))
    infer = dict(num_query_heads=N, input_layout="BSND", softmax_scale=SCALE, atten_mask=out_of_sight)
    near(torch_npu.npu_fused_infer_attention_score_v2(q, k, v, **infer)[0].cpu(), wanted, q.dtype)
    fusion = torch_npu.npu_fusion_attention_v2(q, k, v, N, "BSND", scale=SCALE, atten_mask=out_of_sight[0])
    near(fusion[0].cpu(), wanted, q.dtype)
    with pytest.raises(Refused, match="cut off"):
        torch_npu.npu_fusion_attention_v2(q, k, v, N, "BSND", scale=SCALE, atten_mask=out_of_sight[0], next_tokens=0)


@pytest.mark.parametrize("shape", [(B, N, SQ, SK), (B, 1, SQ, SK), (1, 1, SQ, SK), (SQ, SK)], ids=str)
def test_true_is_masked_out(shape):
    q, k, v = qkv(torch.float32)
    mask = keep(*shape)
    wanted, _ = exact(q, k, v, mask.expand(B, N, SQ, SK), SCALE)
    near(fused(q, k, v, atten_mask=(~mask).npu())[0].cpu(), wanted, q.dtype)
    flipped = fused(q, k, v, atten_mask=mask.npu())[0].cpu()
    assert (flipped.double() - wanted).abs().nan_to_num(9).max() > 0.5


def test_a_query_that_sees_nothing_is_nowhere_documented():
    mask = torch.zeros(SQ, SK, dtype=torch.bool)
    mask[3] = True
    out = fused(*qkv(), atten_mask=mask.npu())[0].cpu()
    assert out[:, 3].isnan().all() and not out[:, 4:].isnan().any()


def test_grouped_heads():
    q, k, v = qkv(torch.float32, heads=2)
    wanted, _ = exact(q, *(x.repeat_interleave(2, 2) for x in (k, v)), scale=SCALE)
    near(fused(q, k, v)[0].cpu(), wanted, q.dtype)


def test_partial_results_merge():
    q, k, v = qkv(torch.float32)
    parts = [fused(q, k[:, at], v[:, at]) for at in (slice(0, 20), slice(20, SK))]
    lse = torch.stack([(m[..., 0] + s[..., 0].log()).mT for _, m, s, *_ in parts])  # [parts, B, S, N]
    weights = lse.softmax(0)[..., None]
    merged = sum(weight * part[0] for weight, part in zip(weights, parts, strict=True))
    near(merged.cpu(), exact(q, k, v, scale=SCALE)[0], q.dtype)


OURS, THEIRS = Refused, (RuntimeError, TypeError)
MASK = torch.zeros(B, 1, SQ, SK, dtype=torch.bool)
MISTAKES = {
    "layout": (THEIRS, "BHSD|layout", fused, dict(layout="BHSD")),
    "argument": (THEIRS, "atten_masks", fused, dict(atten_masks=None)),
    "infer argument": (THEIRS, "softmax_scale", inferred, dict(softmax_scale=1.0)),
    "dropout of all": (THEIRS, "keep_prob", fused, dict(keep_prob=0.0)),
    "sparse mode": (THEIRS, "sparse", fused, dict(sparse_mode=9)),
    "mask of the host": (THEIRS, "device", fused, dict(atten_mask=MASK)),
    "heads": (OURS, "head count 2", fused, dict(heads=2)),
    "no scale": (OURS, "scale", fused, dict(scale=1.0)),
    "float mask": (OURS, "boolean", fused, dict(atten_mask=MASK.float())),
    "bf16 mask": (OURS, "boolean", fused, dict(atten_mask=MASK.bfloat16())),
    "mask of keys": (OURS, "nothing is broadcast", fused, dict(atten_mask=MASK[:, :, :1])),
    "strided mask": (OURS, "contiguous", fused, dict(atten_mask=MASK.mT.contiguous().mT)),
    "band": (OURS, "cut off", fused, dict(atten_mask=MASK, pre_tockens=8)),
    "infer heads": (OURS, "head count 2", inferred, dict(heads=2)),
    "infer no scale": (OURS, "scale", inferred, dict(scale=1.0)),
    "infer mask of heads": (OURS, "nothing is broadcast", inferred, dict(atten_mask=MASK.expand(B, N, SQ, SK).clone())),
    "infer one query": (OURS, "another operator", lambda q, k, v: inferred(q[:, :1], k, v), {}),
    "infer float mask": (OURS, "boolean", inferred, dict(atten_mask=MASK.float())),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_who_refuses_what(mistake):
    error, words, call, arguments = MISTAKES[mistake]
    on_host = mistake == "mask of the host"
    arguments = {k: x.npu() if isinstance(x, torch.Tensor) and not on_host else x for k, x in arguments.items()}
    if mistake == "strided mask":
        arguments["atten_mask"] = arguments["atten_mask"].cpu().mT.contiguous().npu().mT
    with pytest.raises(error, match=words):
        call(*qkv(), **arguments)


@pytest.mark.parametrize(
    "call, dtype, size",
    [
        (fused, torch.float32, 776),
        (inferred, torch.float32, 64),
        (inferred, torch.bfloat16, 72),
        (inferred, torch.bfloat16, 528),
    ],
)
def test_dtypes_and_head_sizes(call, dtype, size):
    q = torch.randn(1, 4, N, size).to(dtype)
    with pytest.raises(Refused, match=r"head sizes|takes fp16"):
        call(q, q, q)
    near(fused(q[..., :768], q[..., :768], q[..., :768])[0].cpu(), exact(*[q[..., :768]] * 3, scale=SCALE)[0], dtype)


def test_torch_attention():
    q, k, v = (x.transpose(1, 2) for x in qkv(torch.float32))
    mask = keep(B, 1, 1, SK)
    out = F.scaled_dot_product_attention(*(x.npu() for x in (q, k, v)), attn_mask=mask.npu())
    assert torch.equal(out.cpu(), F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


# -- norm and rotary embedding


def test_one_norm_where_many_kernels_would_run(trace):
    x, gamma = torch.randn(2, 7, 32).bfloat16(), torch.rand(32).bfloat16()
    trace()
    out, factor = torch_npu.npu_rms_norm(x.npu(), gamma.npu(), epsilon=1e-6)
    assert [name for name in trace() if "Copy" not in name] == ["aclnnRmsNorm"]
    wide = x.double()
    near(out.cpu(), wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * gamma.double(), x.dtype)
    assert factor.shape == (2, 7, 1)
    with Simulation(compute=False):  # torch_npu's own F.rms_norm
        x, gamma = (torch.empty_like(tensor, device="npu") for tensor in (x, gamma))
        trace()
        F.rms_norm(x, (32,), gamma, 1e-6)
    assert len(trace()) == 8
    for wrong in (gamma[:16], gamma.float()):
        with pytest.raises(Refused, match="gamma"):
            torch_npu.npu_rms_norm(x, wrong)


def test_sum_and_norm_and_gelu():
    x, y, gamma = (torch.randn(shape) for shape in ((2, 7, 32), (2, 7, 32), (32,)))
    out, _, total = torch_npu.npu_add_rms_norm(x.npu(), y.npu(), gamma.npu(), 1e-6)
    near(total.cpu(), (x + y).double(), x.dtype)
    near(out.cpu(), F.rms_norm((x + y).double(), (32,), gamma.double(), 1e-6), x.dtype)
    near(torch_npu.npu_gelu(x.npu(), approximate="tanh").cpu(), F.gelu(x.double(), approximate="tanh"), x.dtype)


@pytest.mark.parametrize("mode", ["half", "interleave"])
def test_rotary(trace, mode):
    x, angle = torch.randn(2, 9, 3, 16), torch.randn(9, 8)
    pairs = x.double().unflatten(-1, (8, 2) if mode == "interleave" else (2, 8))
    a, b = pairs.unbind(-1 if mode == "interleave" else -2)
    cos, sin = angle.double().cos()[:, None], angle.double().sin()[:, None]
    wanted = torch.stack((a * cos - b * sin, a * sin + b * cos), -1 if mode == "interleave" else -2).flatten(-2)
    wide = angle.repeat_interleave(2, -1) if mode == "interleave" else angle.repeat(1, 2)
    cos, sin = (table[None, :, None].npu() for table in (wide.cos(), wide.sin()))
    trace()
    near(torch_npu.npu_rotary_mul(x.npu(), cos, sin, mode).cpu(), wanted, x.dtype)
    assert len([name for name in trace() if "Rot" in name]) == 1
    other = torch_npu.npu_rotary_mul(x.npu(), cos, sin, "half" if mode == "interleave" else "interleave").cpu()
    assert (other.double() - wanted).abs().max() > 0.5
    for wrong in (cos[..., :8], cos.bfloat16(), cos.expand(2, 9, 1, 16), cos[:, :5]):
        with pytest.raises((Refused, RuntimeError)):
            torch_npu.npu_rotary_mul(x.npu(), wrong, wrong, mode)
    with pytest.raises((Refused, RuntimeError)):
        torch_npu.npu_rotary_mul(x.npu(), cos, sin, "interleaved")


def test_what_has_no_double_is_said():
    assert "npu::npu_swiglu" not in DOUBLES
    with pytest.raises(NotImplementedError, match="no double"):
        torch_npu.npu_swiglu(torch.ones(2, 4, device="npu"))
