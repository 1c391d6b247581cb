"""Stand-ins on the CPU for attention kernels of GPUs: the same arguments, the same refusals, the same odd outputs."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib import import_module

import torch

HALF = (torch.bfloat16, torch.float16)


def exact(q, k, v, mask=None, scale=None, causal=False):
    """Attention in fp64 over [B, S, H, D]: output, LSE [B, H, S]; zeros and -inf for a query that sees nothing."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        mask = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask.double()
    weights = logits.softmax(-1).nan_to_num(0.0)
    return (weights @ v).transpose(1, 2), logits.logsumexp(-1) if k.shape[2] else logits.new_full(
        logits.shape[:-1], -torch.inf
    )


def exact_norm(x, weight, eps):
    x = x.double()
    over = (-2, -1) if weight is not None and weight.numel() != x.shape[-1] else (-1,)
    normed = x / (x.square().mean(over, keepdim=True) + eps).sqrt()
    return normed if weight is None else normed * weight.double().view(-1, x.shape[-1])


def exact_rotary(x, cos, sin, interleaved, tokens):
    """By complex numbers, unlike any of the kernels; the second result is the magnitude of the terms."""
    turned = x.shape[1] if tokens is None else tokens
    x, half = x.double(), x.shape[-1] // 2
    pairs = x.unflatten(-1, (half, 2)) if interleaved else x.unflatten(-1, (2, half)).transpose(-1, -2)
    table = torch.complex(cos.double(), sin.double()).unsqueeze(-2)
    numbers = torch.view_as_complex(pairs.contiguous()).clone()
    numbers[:, :turned] *= table
    out = torch.view_as_real(numbers)
    return (out if interleaved else out.transpose(-1, -2)).flatten(-2), pairs.norm(dim=-1).max()


def _heads_first(q, k, v, bias, scale, causal):
    _refuse_unless(q.numel() and k.numel(), "tensors without numbers")
    out, lse = exact(*(x.transpose(1, 2) for x in (q, k, v)), bias, scale, causal)
    return out.to(q.dtype).transpose(1, 2), lse.float()


def _refuse_unless(condition, what):
    if not condition:
        raise RuntimeError(f"the kernel does not take {what}")


def flash(q, k, v, dropout_p=0.0, is_causal=False, return_debug_mask=False, *, scale=None):
    _refuse_unless(q.dtype in HALF, q.dtype)
    _refuse_unless(q.shape[-1] % 8 == 0 and q.shape[-1] <= 256, q.shape)
    _refuse_unless(dropout_p == 0.0 and not return_debug_mask, "dropout")
    out, lse = _heads_first(q, k, v, None, scale, is_causal)
    nothing = q.new_empty(0)
    return out, lse, nothing, nothing, q.shape[2], k.shape[2], nothing, nothing, nothing


def cudnn(q, k, v, bias, compute_lse, dropout_p=0.0, is_causal=False, return_debug_mask=False, *, scale=None):
    _refuse_unless(q.dtype in HALF, q.dtype)
    _refuse_unless(q.shape[-1] % 8 == 0 and q.shape[-1] <= 128, q.shape)
    _refuse_unless(k.shape[2] != 1, "a single key")
    _refuse_unless(bias is None and dropout_p == 0.0 and not return_debug_mask, "a bias or dropout")
    out, lse = _heads_first(q, k, v, None, scale, is_causal)
    nothing = q.new_empty(0)
    lse = lse[..., None] if compute_lse else nothing
    return out, lse, nothing, nothing, q.shape[2], k.shape[2], nothing, nothing, nothing


def efficient(q, k, v, bias, compute_lse, dropout_p=0.0, is_causal=False, *, scale=None):
    _refuse_unless(q.dtype in (*HALF, torch.float32), q.dtype)
    _refuse_unless(q.shape[-1] % 8 == 0, q.shape)
    if bias is not None:
        _refuse_unless(bias.shape == (*q.shape[:3], k.shape[2]) and bias.dtype == q.dtype, "this bias")
        _refuse_unless(bias.stride(-1) == 1 and not any(s % 8 for s in bias.stride()[:3]), "a bias without alignment")
    out, lse = _heads_first(q, k, v, bias, scale, is_causal)
    if bias is not None:  # a softmax over nothing
        out = out.masked_fill((lse == -torch.inf)[..., None], torch.nan)
        lse = lse.masked_fill(lse == -torch.inf, torch.nan)
    padded = lse.new_full((*lse.shape[:2], -(-lse.shape[2] // 32) * 32), torch.inf)
    padded[..., : lse.shape[2]] = lse
    nothing = q.new_empty(0)
    return out, padded if compute_lse else lse[..., :0], nothing, nothing


@contextmanager
def on_the_cpu():
    """torch's operators for GPUs answer CPU tensors with the doubles above; the dispatcher checks the arguments."""
    library = torch.library.Library("aten", "IMPL", "CPU")
    for name, double in (("flash", flash), ("cudnn", cudnn), ("efficient", efficient)):
        library.impl(f"_scaled_dot_product_{name}_attention", double)
    try:
        yield
    finally:
        library._destroy()


FLASH_2 = """
from tests.backends.doubles import exact
def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
                    alibi_slopes=None, deterministic=False, return_attn_probs=False):
    assert q.is_contiguous() or q.stride(-1) == 1
    out, lse = exact(q, k, v, None, softmax_scale, causal)
    return (out.to(q.dtype), lse.float(), None) if return_attn_probs else out.to(q.dtype)
"""
FLASH_3_FIRST = """
from tests.backends.doubles import exact
def flash_attn_func(q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None,
                    window_size=(-1, -1), softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False, sm_margin=0):
    out, lse = exact(q, k, v, None, softmax_scale, causal)
    return out.to(q.dtype), lse.float()
"""
FLASH_3_LATER = """
from tests.backends.doubles import exact
def flash_attn_func(q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None,
                    window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None,
                    deterministic=False, sm_margin=0, return_attn_probs=False):
    out, lse = exact(q, k, v, None, softmax_scale, causal)
    return (out.to(q.dtype), lse.float()) if return_attn_probs else out.to(q.dtype)
"""
SAGE_1 = """
from tests.backends.doubles import exact
def sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, smooth_k=True, **kwargs):
    assert tensor_layout == "NHD" and q.shape[-1] in (64, 96, 128)
    k -= k.mean(1, keepdim=True)
    return exact(q, k, v, None, sm_scale, is_causal)[0].to(q.dtype)
"""
SAGE_2 = """
from tests.backends.doubles import exact
def sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, return_lse=False, **kwargs):
    assert tensor_layout == "NHD"
    out, lse = exact(q, k, v, None, sm_scale, is_causal)
    return (out.to(q.dtype), lse.float()) if return_lse else out.to(q.dtype)
"""
PACKAGES = {
    "flash-2": ("flash_attn", FLASH_2),
    "flash-3": ("flash_attn_interface", FLASH_3_LATER),
    "flash-3, first releases": ("flash_attn_interface", FLASH_3_FIRST),
    "sage": ("sageattention", SAGE_2),
    "sage, version 1": ("sageattention", SAGE_1),
}


def install(monkeypatch, folder, which):
    """A stand-in package with the signature of the real one, found by import as that would be."""
    package, text = PACKAGES[which]
    (folder / f"{package}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    module = import_module(package)
    del sys.modules[package]
    monkeypatch.setitem(sys.modules, package, module)  # gone again after the test
    return which.partition(",")[0]
