"""What torch_npu's kernels compute, written out on the CPU, and what the documentation says they refuse.

A double takes the operator's arguments as CPU tensors and returns its results, None for those that are not modelled.
What hardware would refuse, or take for something else, is a :class:`Refused`; what is not documented is nan.
"""

from __future__ import annotations

import torch
from torch import Tensor

DOUBLES = {}
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
EVERYTHING = 2**31 - 1  # a band of tokens that covers any mask


class Refused(AssertionError):
    """The hardware, or CANN before it, would have refused this, or silently done something else."""


def double(name):
    def register(function):
        DOUBLES["npu::" + name] = function
        return function

    return register


def refuse_unless(condition, message):
    if not condition:
        raise Refused(message)


def shape(x: Tensor | None) -> str:
    return "none" if x is None else f"{list(x.shape)} {str(x.dtype).removeprefix('torch.')}"


# -- attention

# Layout -> to [B, S, N, D] given the head count, and back.
LAYOUTS = {
    "BSND": (lambda x, heads: x, lambda x: x),
    "BNSD": (lambda x, heads: x.transpose(1, 2), lambda x: x.transpose(1, 2)),
    "BSH": (lambda x, heads: x.unflatten(-1, (heads, -1)), lambda x: x.flatten(2)),
    "SBH": (lambda x, heads: x.transpose(0, 1).unflatten(-1, (heads, -1)), lambda x: x.flatten(2).transpose(0, 1)),
}


def softmax(q, k, v, scale, masked_out):
    """Over [B, S, N, D]: the output, and each query's largest logit and sum of exponentials, [B, N, S]."""
    q, k, v = (x.float().transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    logits = q @ k.mT * scale
    if masked_out is not None:
        logits = logits.masked_fill(masked_out.bool(), -torch.inf)
    largest = logits.amax(-1, keepdim=True)
    weights = (logits - largest).exp()  # a query that sees nothing: -inf - -inf, nan; no document says what comes out
    total = weights.sum(-1, keepdim=True)
    return (weights / total @ v).transpose(1, 2), largest[..., 0], total[..., 0]


def heads_of(query, key, value, heads, kv_heads, layout):
    """q, k, v as [B, S, N, D], after the rules that hold for both attention operators."""
    refuse_unless(layout in LAYOUTS, f"the double models layouts {', '.join(LAYOUTS)}, not {layout}")
    to, _ = LAYOUTS[layout]
    refuse_unless(query.dtype == key.dtype == value.dtype, "q, k and v must be of one dtype")
    q, k, v = to(query, heads), to(key, kv_heads), to(value, kv_heads)
    refuse_unless(q.shape[2] == heads, f"head count {heads} is said, but q {shape(query)} in {layout} has {q.shape[2]}")
    refuse_unless(k.shape[2] == v.shape[2] and heads % k.shape[2] == 0, f"{heads} heads over {k.shape[2]} key heads")
    refuse_unless(q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3], f"q {shape(query)} beside k {shape(key)}")
    refuse_unless(k.shape[1] == v.shape[1], f"k {shape(key)} beside v {shape(value)}")
    refuse_unless(1 <= heads <= 256, f"1 to 256 heads, not {heads}")
    refuse_unless(all(x.numel() for x in (q, k, v)), "tensors without numbers")
    return q, k, v


def check_mask(mask, dtypes, shapes, band, q, k):
    refuse_unless(mask.dtype in dtypes, f"a mask is boolean, True: masked out, not {shape(mask)}")
    refuse_unless(mask.is_contiguous(), "a mask must be contiguous")
    refuse_unless(list(mask.shape) in shapes, f"a mask is one of {shapes}, nothing is broadcast; it is {shape(mask)}")
    before, after = band
    refuse_unless(
        before >= q.shape[1] and after >= k.shape[1],
        f"with a mask, tokens further than {before} before and {after} after are cut off: say {EVERYTHING}",
    )


def fusion_attention(query, key, value, heads, layout, mask, scale, keep_prob, band, sparse_mode):
    refuse_unless(query.dtype in FLOATS, f"fusion attention takes fp16, bf16 and fp32, not {query.dtype}")
    refuse_unless(scale != 1.0, "the scale is 1 unless given: give it")
    refuse_unless(keep_prob == 1.0 and sparse_mode in (0, 2), "the double models no dropout and sparse modes 0 and 2")
    kv_heads = heads
    if key.dim() == 3 and heads and query.shape[-1] % heads == 0:
        kv_heads = key.shape[-1] // (query.shape[-1] // heads)
    q, k, v = heads_of(query, key, value, heads, kv_heads, layout)
    refuse_unless(1 <= v.shape[3] <= q.shape[3] <= 768, f"head sizes up to 768, not {q.shape[3]}")
    B, N, Sq, Sk = q.shape[0], q.shape[2], q.shape[1], k.shape[1]
    if sparse_mode == 2 and mask is not None:  # one triangle stands for all sizes; the band is ignored
        upper = torch.ones(2048, 2048, dtype=torch.bool).triu(1)
        refuse_unless(mask.shape == upper.shape and torch.equal(mask.bool(), upper), "mode 2 takes the upper triangle")
        mask = torch.ones(Sq, Sk, dtype=torch.bool).triu(1)
    elif mask is not None:
        shapes = [[B, N, Sq, Sk], [B, 1, Sq, Sk], [1, 1, Sq, Sk], [Sq, Sk]]
        check_mask(mask, (torch.bool, torch.uint8), shapes, band, q, k)
    out, largest, total = softmax(q, k, v, scale, mask)
    largest, total = (x[..., None].expand(*x.shape, 8) for x in (largest, total))  # eight times the same number
    return LAYOUTS[layout][1](out).to(query.dtype), largest, total


@double("npu_fusion_attention")
def _(
    query, key, value, head_num, input_layout, pse=None, padding_mask=None, atten_mask=None, scale=1.0, keep_prob=1.0,
    pre_tockens=EVERYTHING, next_tockens=EVERYTHING, inner_precise=0, prefix=None, actual_seq_qlen=None,
    actual_seq_kvlen=None, sparse_mode=0, gen_mask_parallel=True, sync=False, softmax_layout="", sink=None,
    dropout_mask=None, seed=0, offset=0,
):  # fmt: skip
    unmodelled = (pse, padding_mask, prefix, actual_seq_qlen, actual_seq_kvlen, sink, dropout_mask)
    refuse_unless(all(x is None for x in unmodelled), "the double models neither pse, prefixes, lengths nor sinks")
    band = (pre_tockens, next_tockens)
    return fusion_attention(query, key, value, head_num, input_layout, atten_mask, scale, keep_prob, band, sparse_mode)


@double("npu_fusion_attention_v2")
def _(
    query, key, value, head_num, input_layout, *, atten_mask=None, scale=1.0, keep_prob=1.0, pre_tokens=EVERYTHING,
    next_tokens=EVERYTHING, sparse_mode=0, **unmodelled,
):  # fmt: skip
    refuse_unless(not unmodelled, f"the double does not model {', '.join(unmodelled)}")
    band = (pre_tokens, next_tokens)
    return fusion_attention(query, key, value, head_num, input_layout, atten_mask, scale, keep_prob, band, sparse_mode)


def infer_attention(query, key, value, heads, kv_heads, layout, mask, scale, band, sparse_mode, lse):
    refuse_unless(query.dtype in FLOATS[:2], f"fused infer attention takes fp16 and bf16, not {query.dtype}")
    refuse_unless(scale != 1.0, "the scale is 1 unless given: give it")
    refuse_unless(sparse_mode == 0, "the double does not model compressed masks")
    refuse_unless(all(x.is_contiguous() for x in (query, key, value)), "q, k and v must be contiguous")
    refuse_unless(layout != "SBH", "fused infer attention takes BSND, BNSD, BSH and TND")
    q, k, v = heads_of(query, key, value, heads, kv_heads or heads, layout)
    refuse_unless(q.shape[1] > 1, "the double does not model a single query: it goes to another operator")
    refuse_unless(k.shape == v.shape, f"k {shape(key)} and v {shape(value)} must be of one shape")
    refuse_unless(q.shape[3] <= 512 and q.shape[3] % 16 == 0, f"head sizes up to 512 in steps of 16, not {q.shape[3]}")
    refuse_unless(layout == "BNSD" or q.shape[2] * q.shape[3] < 65535, "fewer than 65535 numbers a token")
    if mask is not None:
        B, Sq, Sk = q.shape[0], q.shape[1], k.shape[1]
        shapes = [[*batch, *one, Sq, Sk] for batch in ([1], [B]) for one in ([], [1])]
        check_mask(mask, (torch.bool, torch.int8, torch.uint8), shapes, band, q, k)
    out, largest, total = softmax(q, k, v, scale, mask)
    return LAYOUTS[layout][1](out).to(query.dtype), (largest + total.log())[..., None] if lse else None


@double("npu_fused_infer_attention_score")
def _(
    query, key, value, *, atten_mask=None, num_heads=1, scale=1.0, pre_tokens=EVERYTHING, next_tokens=EVERYTHING,
    input_layout="BSH", num_key_value_heads=0, sparse_mode=0, softmax_lse_flag=False, inner_precise=0, **unmodelled,
):  # fmt: skip
    refuse_unless(not unmodelled, f"the double does not model {', '.join(unmodelled)}")
    heads, band = (num_heads, num_key_value_heads), (pre_tokens, next_tokens)
    return infer_attention(
        query, key, value, *heads, input_layout, atten_mask, scale, band, sparse_mode, softmax_lse_flag
    )


@double("npu_fused_infer_attention_score_v2")
def _(
    query, key, value, *, atten_mask=None, num_query_heads=1, num_key_value_heads=0, softmax_scale=1.0,
    pre_tokens=EVERYTHING, next_tokens=EVERYTHING, input_layout="BSH", sparse_mode=0, inner_precise=0,
    return_softmax_lse=False, **unmodelled,
):  # fmt: skip
    refuse_unless(not unmodelled, f"the double does not model {', '.join(unmodelled)}")
    heads, band = (num_query_heads, num_key_value_heads), (pre_tokens, next_tokens)
    return infer_attention(
        query, key, value, *heads, input_layout, atten_mask, softmax_scale, band, sparse_mode, return_softmax_lse
    )


# -- norm, rotary embedding, activation


def normed(x, gamma, epsilon):
    refuse_unless(x.dtype in FLOATS and gamma.dtype == x.dtype, f"x {shape(x)} beside gamma {shape(gamma)}")
    refuse_unless(x.shape[-gamma.dim() :] == gamma.shape, f"gamma {shape(gamma)} is not the end of x {shape(x)}")
    wide = x.float()
    factor = torch.rsqrt(wide.pow(2).mean(tuple(range(-gamma.dim(), 0)), keepdim=True) + epsilon)
    return (wide * factor * gamma.float()).to(x.dtype), factor


@double("npu_rms_norm")
def _(input, gamma, epsilon=1e-6):
    return normed(input, gamma, epsilon)


@double("npu_add_rms_norm")
def _(x1, x2, gamma, epsilon=1e-6):
    total = x1 + x2
    return *normed(total, gamma, epsilon), total


@double("npu_rotary_mul")
def _(input, r1, r2, rotary_mode="half", rotate=None):
    x, size = input, input.shape[-1]
    refuse_unless(rotary_mode in ("half", "interleave") and rotate is None, f"rotary mode {rotary_mode!r}")
    refuse_unless(x.dtype in FLOATS and r1.dtype == r2.dtype == x.dtype, f"x {shape(x)} beside tables {shape(r1)}")
    refuse_unless(size < 896 and size % 2 == 0, f"even head sizes below 896, not {size}")
    refuse_unless(x.dim() == 4 and r1.shape == r2.shape and r1.dim() == 4, f"x {shape(x)} beside tables {shape(r1)}")
    # Which of the first three dimensions holds the tokens is for the tables to say; the others are 1.
    tokens = [i for i in range(3) if r1.shape[i] == x.shape[i] and r1.numel() == x.shape[i] * size]
    refuse_unless(tokens and r1.shape[-1] == size, f"tables are 1S1D, 11SD or S11D of x {shape(x)}, not {shape(r1)}")
    others = [x.shape[i] for i in range(3) if i != tokens[-1]]
    refuse_unless(max(others) < 1000, f"batch and heads below 1000, not {others}")
    refuse_unless(rotary_mode == "half" or others[0] * others[1] < 1000, f"batch times heads below 1000, not {others}")
    wide = x.float()
    if rotary_mode == "half":
        first, second = wide.chunk(2, -1)
        turned = torch.cat((-second, first), -1)
    else:
        turned = torch.stack((-wide[..., 1::2], wide[..., 0::2]), -1).flatten(-2)
    return (wide * r1.float() + turned * r2.float()).to(x.dtype)


@double("npu_gelu")
def _(input, *, approximate="none"):
    return torch.nn.functional.gelu(input, approximate=approximate)
