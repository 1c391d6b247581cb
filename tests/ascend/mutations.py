"""Mistakes that an Ascend adapter could make, and which rung of the ladder (rungs.py) notices each of them.

``python -m tests.ascend.mutations`` writes the table into docs/ascend.md; a test holds the page against it.
"""

from __future__ import annotations

import logging
import operator
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch

from c4d.backends import ascend
from c4d.backends.ascend import attention
from c4d.backends.kernels import ADDITIVE
from tests.ascend.install import environment, prepared

PAGE = Path(__file__).resolve().parents[2] / "docs/ascend.md"
BEGIN, END = "<!-- mutations: begin -->\n", "<!-- mutations: end -->\n"


def says(**changes):
    """Of an operator's arguments some have other values."""
    return lambda real: lambda *args: {name: changes.get(name, value) for name, value in real(*args).items()}


def keeps_to_itself(*names, instead=()):
    """Of an operator's arguments some are left out; ``instead``: what they are called."""

    def mutated(*args, real):
        said = real(*args)
        return said | dict(zip(instead, [said.pop(name) for name in names], strict=False))

    return lambda real: partial(mutated, real=real)


def tokens_for_heads(name):
    return lambda real: lambda q, *rest: real(q, *rest) | {name: q.shape[1]}


def causal_by_a_band(real):
    return lambda q, k, mask, scale, causal: real(q, k, mask, scale, False) | ({"next_tockens": 0} if causal else {})


def causal(**changes):
    return lambda real: lambda q, k, mask, scale, causal: real(q, k, mask, scale, causal) | (changes if causal else {})


def left_out(change):
    """Of the mask that the operator gets."""
    return {"attention.left_out": lambda real: lambda q, k, mask: change(real(q, k, mask), mask)}


def fusion_as_it_comes(real):
    def fusion(q, k, v, mask, scale, causal, lse):
        q, k, v = (x.contiguous() for x in (q, k, v))
        arguments = attention.fusion_arguments(q, k, mask, scale, causal)
        out, largest, sums, *_ = torch.ops.npu.npu_fusion_attention(q, k, v, **arguments)
        return out, attention.log_sum_exp(largest, sums) if lse else None

    return fusion


def infer_of(strided, singles):
    """As it is, but for what is neither made contiguous nor handed on."""

    def mutated(q, k, v, mask, scale, causal, lse, real):
        if q.shape[1] == 1 and not singles:
            return real(q, k, v, mask, scale, causal, lse)
        q, k, v = (x if strided else x.contiguous() for x in (q, k, v))
        arguments = attention.infer_arguments(q, scale, lse)
        out, total = torch.ops.npu.npu_fused_infer_attention_score(q, k, v, **arguments)
        return out, total[..., 0] if lse else None

    return lambda real: partial(mutated, real=real)


def fusion_takes_additive_masks(real):
    def kernels(chip, dtypes):
        table = real(chip, dtypes)
        fusion = table["fusion"]
        limits = replace(fusion.limits, masks=(*fusion.limits.masks, ADDITIVE))
        return {**table, "fusion": replace(fusion, limits=limits)}

    return kernels


def additive_as_it_lies(real):
    def left_out(q, k, mask):
        if mask.dtype == torch.bool:
            return real(q, k, mask)
        return mask.expand(q.shape[0], q.shape[2], q.shape[1], k.shape[1]).contiguous()

    return left_out


INFER, FUSION, LSE = "attention.infer_arguments", "attention.fusion_arguments", "attention.log_sum_exp"

# What is wrong -> a name in c4d.backends.ascend -> what stands there instead, given what is there.
MUTATIONS = {
    "a mask says what is seen, not what is left out": left_out(lambda out, mask: mask.expand(out.shape).contiguous()),
    "a mask is not written out: [B, 1, 1, Sk]": left_out(lambda out, mask: ~mask),
    "a mask is expanded, but not contiguous": left_out(lambda out, mask: (~mask).expand(out.shape)),
    "a mask is of fp32": left_out(lambda out, mask: out.float()),
    "a mask is of one head, where heads differ": left_out(lambda out, mask: out[:, :1].contiguous()),
    "an additive mask goes to fusion": {
        "kernels": fusion_takes_additive_masks,
        "attention.left_out": additive_as_it_lies,
    },
    "fusion: a band of 65535 tokens": {FUSION: says(pre_tockens=65535, next_tockens=65535)},
    "fusion: a band of 8 tokens": {FUSION: says(pre_tockens=8, next_tockens=8)},
    "fusion: pre_tokens, next_tokens (it spells them otherwise)": {
        FUSION: keeps_to_itself("pre_tockens", "next_tockens", instead=("pre_tokens", "next_tokens"))
    },
    "fusion: no scale": {FUSION: keeps_to_itself("scale")},
    "fusion: tokens as the number of heads": {FUSION: tokens_for_heads("head_num")},
    "fusion: BNSD is said of BSND": {FUSION: says(input_layout="BNSD")},
    "fusion: BHSD is said": {FUSION: says(input_layout="BHSD")},
    "fusion: causal by a band without a mask": {FUSION: causal_by_a_band},
    "fusion: causal by the triangle as a dense mask": {FUSION: causal(sparse_mode=0)},
    "fusion: causal by the triangle in mode 4, of bands": {FUSION: causal(sparse_mode=4)},
    "fusion: causal by the triangle in mode 9, which is none": {FUSION: causal(sparse_mode=9)},
    "fusion: queries that see nothing stay as they come": {"attention.fusion": fusion_as_it_comes},
    "fusion: LSE without the largest logit": {LSE: lambda real: lambda largest, sums: sums[..., 0].log()},
    "fusion: LSE with a wrong sign": {LSE: lambda real: lambda most, sums: most[..., 0] - sums[..., 0].log()},
    "fusion: LSE with largest logit and sum exchanged": {LSE: lambda real: lambda most, sums: real(sums, most)},
    "infer: no scale": {INFER: keeps_to_itself("scale")},
    "infer: tokens as the number of heads": {INFER: tokens_for_heads("num_heads")},
    "infer: BNSD is said of BSND": {INFER: says(input_layout="BNSD")},
    "infer: BHSD is said": {INFER: says(input_layout="BHSD")},
    "infer: softmax_scale (its second version's word)": {INFER: keeps_to_itself("scale", instead=["softmax_scale"])},
    "infer: the LSE is not asked for": {INFER: keeps_to_itself("softmax_lse_flag")},
    "infer: q, k, v with gaps": {"attention.infer": infer_of(strided=True, singles=False)},
    "infer: a single query": {"attention.infer": infer_of(strided=False, singles=True)},
    "norm: the operator's own epsilon": {"fused.rms_norm": lambda real: lambda x, weight, eps: real(x, weight, 1e-6)},
    "norm: without its weight": {"fused.rms_norm": lambda real: lambda x, weight, eps: real(x, None, eps)},
    "norm: a weight of another dtype": {
        "fused.rms_norm": lambda real: lambda x, weight, eps: real(x, None if weight is None else weight.float(), eps)
    },
    "rotary: modes swapped": {"fused.INTERLEAVED": lambda real: "half", "fused.HALVES": lambda real: "interleave"},
    "rotary: a mode that is not one": {"fused.INTERLEAVED": lambda real: "interleaved"},
    "rotary: tables doubled for the other mode": {
        "fused.wide": lambda real: lambda table, interleaved: real(table, not interleaved)
    },
    "rotary: tables not doubled": {
        "fused.wide": lambda real: lambda table, interleaved: real(table, interleaved)[..., : table.shape[-1]]
    },
    "rotary: tables of x's dtype": {
        "fused.wide": lambda real: lambda table, interleaved: real(table, interleaved).bfloat16()
    },
    "rotary: tables of samples as if of one": {"fused.per_sample": lambda real: lambda table: False},
    "norm and rotary: rounded in between": {
        "Ascend.norm_rotary": lambda real: (
            lambda self, x, weight, *tables, eps, **how: self.rotary(self.rms_norm(x, weight, eps=eps), *tables, **how)
        )
    },
}


def rungs():
    from tests.ascend.rungs import RUNGS  # imports torch_npu

    return RUNGS


@cache
def noticed(name: str) -> tuple[str, ...]:
    """The rungs that raise something with this mistake in the adapter."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for path, instead in MUTATIONS[name].items():
            patch.setattr(f"{ascend.__name__}.{path}", instead(operator.attrgetter(path)(ascend)))
        for rung, ladder in rungs().items():
            try:
                ladder.climb()
            except Exception:
                found.append(rung)
    return tuple(found)


def table() -> str:
    rows = [["what is wrong", *rungs()], ["---", *[":-:" for _ in rungs()]]]
    rows += [[name, *("x" if rung in noticed(name) else " " for rung in rungs())] for name in MUTATIONS]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def parts() -> tuple[str, str, str]:
    """The page before the table, the table, and what follows."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    here, _, after = rest.partition(END)
    return before + BEGIN, here, END + after


if __name__ == "__main__":
    if not os.environ.get("C4D_SIM_DEVICES"):
        again = [sys.executable, "-m", "tests.ascend.mutations"]  # where torch_npu is found
        sys.exit(subprocess.run(again, env=environment(prepared())).returncode)
    logging.disable(logging.CRITICAL)  # torch logs what a meta implementation refuses
    for ladder in rungs().values():
        ladder.climb()  # without a mistake there is nothing to notice
    before, _, after = parts()
    PAGE.write_text(before + table() + after)
