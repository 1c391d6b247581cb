"""The ladder of the Ascend adapter: what can be held against it without an NPU, rung by rung.

Each rung is a list of checks that take the adapter and raise: the tests climb them (simulated/test_mutations.py), and
mutations.py sees which of them notices a mistake. They need the environment that install.py makes; the first rung
alone does not, and runs for everybody in tests/backends/test_ascend_arguments.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
import torch_npu  # noqa: F401 - makes the device known
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from c4d.backends.ascend import Ascend
from tests.ascend.sim import order
from tests.ascend.sim.device import Simulation
from tests.backends.ascend_rules import BF16, FP16, FP32, RULES, OnPaper
from tests.backends.doubles import exact, exact_norm, exact_rotary
from tests.backends.guard import close, rand

# -- what is called, and the kernels of CANN that it launches

INFER, FUSION = "aclnnFusedInferAttentionScoreV2", "aclnnFlashAttentionScore"
NORM, ROTARY = "aclnnRmsNorm", "aclnnRotaryPositionEmbeddingV2"
COPY = "aclnnInplaceCopy"  # into contiguous memory, or into another dtype
NOT = "aclnnBitwiseNot"  # what a mask lets through becomes what it leaves out
CAUSAL = ["aclnnInplaceOne", "aclnnTriu", COPY]  # the triangle
LSE = ["aclnnLog", "aclnnAdd"]
SEEN, FILL = ["aclnnAny", NOT], [COPY, "aclnnInplaceMaskedFillScalar"]
PAIRS, HALVES = ["aclnnRepeatInterleaveIntWithDim"] * 2, ["aclnnRepeat"] * 2  # of both tables
ONES = "aclnnInplaceFillScalar"


class Attention(NamedTuple):
    """A call of attention; ``before``: the kernels before that of the operator."""

    operator: str
    before: Sequence[str] = ()
    shape: tuple[int, ...] = (2, 48, 33, 4, 64)  # B, Sq, Sk, H, D
    mask: tuple[int, ...] | None = None
    dtype: torch.dtype = BF16
    scale: float | None = None
    causal: bool = False
    strided: bool = False

    def tensors(self):
        """q, k, v and the mask. In masks of queries some see nothing."""
        B, Sq, Sk, H, D = self.shape
        q, k, v = (rand(B, S, H, D, dtype=self.dtype, seed=seed) for seed, S in enumerate((Sq, Sk, Sk)))
        if self.strided:  # as out of a projection of all three
            q, k, v = torch.stack((q, k, v), 2).unbind(2)
        mask = None if self.mask is None else rand(*self.mask, seed=3) > 0.2
        if mask is not None and self.mask[2] > 1:
            mask[:, :, ::7] = False
        return q, k, v, mask

    def run(self, backend, lse, q, k, v, mask):
        options = dict(mask=mask, scale=self.scale, causal=self.causal)
        return backend.attention_lse(q, k, v, **options) if lse else (backend.attention(q, k, v, **options),)

    def kernels(self, lse):
        after = LSE if lse and self.operator == FUSION else []
        after = after if self.mask is None else [*after, *SEEN, *FILL * (1 + lse)]
        return [*self.before, self.operator, *after]


ATTENTION = {
    "no mask": Attention(INFER),
    "a scale": Attention(INFER, scale=0.3, dtype=FP16),
    "of one projection": Attention(INFER, [COPY] * 3, (2, 48, 48, 4, 64), strided=True),
    "many heads": Attention(INFER, shape=(1, 5, 6, 256, 16)),
    "fp32": Attention(FUSION, dtype=FP32),
    "a head size of its own": Attention(FUSION, shape=(1, 9, 7, 3, 72), scale=0.2),
    "a single query": Attention(FUSION, shape=(2, 1, 33, 4, 64)),
    "causal": Attention(FUSION, CAUSAL, (2, 37, 37, 3, 16), causal=True),
    "keys": Attention(FUSION, [NOT, COPY], mask=(2, 1, 1, 33)),
    "keys of all samples": Attention(FUSION, [NOT, COPY], mask=(1, 1, 1, 33), dtype=FP16, scale=0.1),
    "queries": Attention(FUSION, [NOT, COPY], mask=(2, 1, 48, 1)),
    "heads of all samples": Attention(FUSION, [NOT, COPY], mask=(1, 4, 48, 33)),
    "all samples": Attention(FUSION, [NOT], mask=(1, 1, 48, 33), dtype=FP32),
    "samples": Attention(FUSION, [NOT], mask=(2, 1, 48, 33)),
    "samples and heads": Attention(FUSION, [NOT], mask=(2, 4, 48, 33)),
    "as many tokens as a video": Attention(FUSION, [NOT], (1, 2, 75600, 1, 16), mask=(1, 1, 2, 75600)),
}


class Turn(NamedTuple):
    """A norm (of ``weight``: how many numbers, None: without one), a rotary embedding by a ``table``, or both."""

    kernels: list[str]
    table: tuple[int, ...] | None = None
    tokens: int | None = None
    interleaved: bool = True
    normed: bool = False
    weight: int | None = None
    of: torch.dtype | None = None  # the weight, if not that of x
    dtype: torch.dtype = BF16

    def tensors(self):
        """x, weight, cos and sin; x so small that the norm's epsilon matters."""
        x = rand(2, 9, 3, 16, seed=4).mul(1e-2).to(self.dtype)
        weight = None if self.weight is None else rand(self.weight, dtype=self.of or self.dtype, seed=5) + 1
        phase = None if self.table is None else rand(*self.table, 8, seed=6) * 3
        return x, weight, *((None, None) if phase is None else (phase.cos(), phase.sin()))

    def run(self, backend, x, weight, cos, sin):
        options = dict(interleaved=self.interleaved, tokens=self.tokens)
        if cos is None:
            return backend.rms_norm(x, weight, eps=1e-5)
        if not self.normed:
            return backend.rotary(x, cos, sin, **options)
        return backend.norm_rotary(x, weight, cos, sin, eps=1e-5, **options)

    def exact(self, x, weight, cos, sin):
        """And the magnitude of the terms."""
        out = exact_norm(x, weight, 1e-5) if self.normed else x
        return (out, out.abs()) if cos is None else exact_rotary(out, cos, sin, self.interleaved, self.tokens)


# The casts that make one rounding of all are the copies at both ends.
TURNS = {
    "norm of heads": Turn([NORM], normed=True, weight=16),
    "norm of tokens": Turn([NORM], normed=True, weight=48, dtype=FP32),
    "norm without a weight": Turn([ONES, NORM], normed=True, dtype=FP16),
    "pairs": Turn([COPY, *PAIRS, ROTARY, COPY], (9,)),
    "halves": Turn([COPY, *HALVES, ROTARY, COPY], (9,), interleaved=False, dtype=FP16),
    "fp32": Turn([*PAIRS, ROTARY], (1, 9), dtype=FP32),
    "leading tokens": Turn([COPY, *PAIRS, ROTARY, COPY, "aclnnCat"], (5,), 5),
    "tables of samples": Turn([COPY, *HALVES, ROTARY, COPY], (2, 9), interleaved=False),
    "leading tokens of samples": Turn([COPY, *PAIRS, ROTARY, "aclnnCat"], (2, 5), 5, dtype=FP32),
    "norm and pairs": Turn([COPY, COPY, NORM, *PAIRS, ROTARY, COPY], (9,), normed=True, weight=48),
    "norm and halves": Turn(
        [COPY, NORM, COPY, *HALVES, ROTARY, "aclnnCat", COPY], (2, 5), 5, False, normed=True, weight=16, of=FP32
    ),
}


# -- the rungs


def there(*tensors):
    """On the device, with the same strides."""
    made = [x if x is None else torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="npu") for x in tensors]
    return [x if x is None else x.copy_(of) for x, of in zip(made, tensors, strict=True)]


def shapes_of_attention(backend):
    """The real operators take the call, and their meta implementations say the shapes that the adapter counts on."""
    for case in ATTENTION.values():
        tensors = there(*case.tensors())
        for lse in (False, True):
            out, *total = case.run(backend, lse, *tensors)
            B, Sq, _, H, D = case.shape
            assert (out.shape, out.dtype, out.device.type) == ((B, Sq, H, D), case.dtype, "npu")
            assert [(x.shape, x.dtype) for x in total] == [((B, H, Sq), FP32)] * lse


def shapes_of_norm_and_rotary(backend):
    for case in TURNS.values():
        x, *rest = there(*case.tensors())
        out = case.run(backend, x, *rest)
        assert (out.shape, out.dtype, out.device) == (x.shape, x.dtype, x.device)


def kernels_of_attention(backend):
    """torch_npu's own code takes the call and launches exactly one kernel of attention, and what is named beside it."""
    for name, case in ATTENTION.items():
        tensors = there(*case.tensors())
        for lse in (False, True):
            order.taken_trace()
            case.run(backend, lse, *tensors)
            assert order.taken_trace() == case.kernels(lse), name


def kernels_of_norm_and_rotary(backend):
    for name, case in TURNS.items():
        tensors = there(*case.tensors())
        order.taken_trace()
        case.run(backend, *tensors)
        assert order.taken_trace() == case.kernels, name


def numbers_of_attention(backend):
    """Within one rounding of fp64; queries that see nothing give zeros and -inf, others never."""
    for case in ATTENTION.values():
        q, k, v, mask = case.tensors()
        wanted, wanted_lse = exact(q, k, v, mask, case.scale, case.causal)
        for lse in (False, True):
            out, *total = case.run(backend, lse, *there(q, k, v, mask))
            close(backend, out.cpu(), wanted, v.double().abs().max())
            for found in total:
                unseen = wanted_lse == -torch.inf
                assert torch.equal(found.cpu() == -torch.inf, unseen)
                close(backend, found.cpu().masked_fill(unseen, 0), wanted_lse.masked_fill(unseen, 0), 16)


def numbers_of_additive_masks(backend):
    q, k, v, _ = Attention(FUSION).tensors()
    mask = rand(1, 4, 48, 33, dtype=BF16, seed=3)
    for lse in (False, True):
        out, *_ = Attention(FUSION).run(backend, lse, *there(q, k, v, mask))
        torch.testing.assert_close(out.cpu().double(), exact(q, k, v, mask)[0], rtol=1.6e-2, atol=1.6e-2)


def numbers_merged(backend):
    """Results over parts of the keys are one by their LSE: where a query sees nothing of a part, or of all, too."""
    for dtype in (BF16, FP32):
        case = Attention(FUSION, mask=(1, 1, 48, 33), dtype=dtype)
        q, k, v, mask = case.tensors()
        mask[:, :, 1, :20] = False
        q, k, v, hidden = there(q, k, v, mask)
        for given in (hidden, None):
            parts = []
            for at in (slice(0, 20), slice(20, 21), slice(21, 33)):
                part = None if given is None else given[..., at]
                out, lse = case.run(backend, True, q, k[:, at], v[:, at], part)
                parts.append((out.cpu().double(), lse.cpu().double()))
            total = torch.stack([lse for _, lse in parts]).logsumexp(0).clamp_min(-1e30)
            merged = sum(out * (lse - total).exp().mT[..., None] for out, lse in parts)
            wanted, _ = exact(*(x.cpu() for x in (q, k, v)), None if given is None else mask)
            torch.testing.assert_close(merged, wanted, rtol=0, atol=1.6e-2 if dtype == BF16 else 2e-6)


def numbers_of_norm_and_rotary(backend):
    """Within one rounding of fp64: norm and rotary embedding together, too."""
    for case in TURNS.values():
        tensors = case.tensors()
        wanted, magnitude = case.exact(*tensors)
        close(backend, case.run(backend, *there(*tensors)).cpu(), wanted, magnitude)


class Rung(NamedTuple):
    adapter: Callable
    device: Callable  # a context in which tensors of the device work as the rung wants
    checks: tuple[Callable, ...]

    def climb(self, *checks):
        """Raises what the rung, or those of its checks, find in the adapter as it is now."""
        with _disable_current_modes(), torch.no_grad(), self.device(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says when a norm is not fused
            for check in checks or self.checks:
                check(self.adapter())


RUNGS = {
    "arguments": Rung(OnPaper, nullcontext, RULES),
    "schema and meta": Rung(Ascend, FakeTensorMode, (shapes_of_attention, shapes_of_norm_and_rotary)),
    "host path": Rung(Ascend, partial(Simulation, compute=False), (kernels_of_attention, kernels_of_norm_and_rotary)),
    "numerics": Rung(
        Ascend,
        Simulation,
        (numbers_of_attention, numbers_of_additive_masks, numbers_merged, numbers_of_norm_and_rotary),
    ),
}
