"""Attention of the backends against fp64, and what is refused before a device sees it.

The kernels of GPUs run here as stand-ins (``doubles.py``): that shows the arguments, layouts, masks and outputs that
the adapter handles, not the kernels themselves.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from c4d.backends.cuda import Cuda
from c4d.backends.cuda.attention import kernels
from c4d.backends.kernels import MASKS, Call, Kernel, Limits, UnsupportedError, choose
from c4d.backends.reference import Reference
from tests.backends.doubles import PACKAGES, exact, install, on_the_cpu
from tests.backends.guard import DEVICE

# Of the largest output, whose scale is 1: one rounding of the output, and for kernels in half precision one of the
# probabilities too.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}
SHAPES = ((1, 1, 1, 1, 8), (2, 37, 37, 3, 16), (1, 5, 130, 2, 64), (2, 65, 1, 1, 128), (1, 33, 64, 4, 72))
EMPTY = ((1, 0, 5, 2, 16), (1, 5, 0, 2, 16), (0, 5, 5, 2, 16), (2, 3, 3, 0, 16))


class Hopper(Cuda):
    """The CUDA backend as on a GPU of compute capability 9.0, on CPU tensors."""

    device_type = "cpu"

    def __init__(self, capability=(9, 0)):
        super().__init__()
        self.attention_kernels = kernels(capability)


HERE = BACKENDS = {"cpu": Reference, "cuda": Hopper}
KERNELS = [("cpu", "sdpa"), ("cpu", "math"), ("cpu", "auto")] + [
    ("cuda", name) for name in ("cudnn", "flash", "efficient", "auto")
]
if DEVICE is not None:
    there = [name for name, kernel in DEVICE.attention_kernels.items() if not (kernel.missing() or kernel.lossy)]
    BACKENDS, KERNELS = {"device": lambda: DEVICE}, [("device", name) for name in (*there, "auto")]


@pytest.fixture(autouse=True)
def doubles():
    with on_the_cpu():
        yield


def tensors(shape, dtype, seed=0):
    B, Sq, Sk, H, D = shape
    make = torch.Generator().manual_seed(seed)
    return [torch.randn(B, S, H, D, generator=make).to(dtype) for S in (Sq, Sk, Sk)]


def a_mask(kind, shape, dtype):
    """One row of the boolean masks sees nothing, where a row is a query; keys are never all hidden."""
    B, Sq, Sk, H, _ = shape
    make = torch.Generator().manual_seed(1)
    if kind == "keys":
        return (
            (torch.arange(Sk) <= torch.randint(Sk, (B, 1, 1, 1), generator=make)) if Sk else torch.ones(B, 1, 1, 0) > 0
        )
    if kind == "full":
        mask = torch.rand(B, 1, Sq, Sk, generator=make) > 0.4
        mask[:, :, Sq // 2] = False
        return mask
    return torch.randn(1, H, Sq, Sk, generator=make).to(dtype) if kind == "additive" else None


def ok(backend, name, shape, dtype, kind, lse):
    if kind == "causal" and shape[1] != shape[2]:
        return False
    kernels = BACKENDS[backend]().attention_kernels
    call = Call(dtype, shape[-1], kind, lse)
    return any(kernels[each].limits.refusal(call) is None for each in (kernels if name == "auto" else [name]))


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("backend", "name"), KERNELS)
def test_attention_and_its_lse_are_those_of_double_precision(backend, name, dtype, kind):
    made, tried = BACKENDS[backend](), 0
    for shape in SHAPES:
        q, k, v = tensors(shape, dtype)
        mask, causal, scale = a_mask(kind, shape, dtype), kind == "causal", 0.3 if shape[-1] == 16 else None
        want, want_lse = (
            exact(q, k, v, mask, scale, causal) if kind != "causal" or shape[1] == shape[2] else (None, None)
        )
        for lse in (False, True):
            if not ok(backend, name, shape, dtype, kind, lse):
                continue
            tried += 1
            options = dict(mask=mask, scale=scale, causal=causal, kernel=name)
            if lse:
                out, total = made.attention_lse(q, k, v, **options)
                assert total.dtype == torch.float32 and total.shape == want_lse.shape
                torch.testing.assert_close(
                    total, want_lse.float(), rtol=1e-5, atol=1e-5 if dtype != torch.float16 else 1e-3
                )
            else:
                out = made.attention(q, k, v, **options)
            assert out.dtype == dtype and out.shape == q.shape
            assert (out.double() - want).abs().max() <= TOLERANCE[dtype] * max(1.0, want.abs().max())
    if not tried:
        assert dtype not in made.dtypes or name not in ("auto", "math")
        pytest.skip("refused by its limits")


@pytest.mark.parametrize(("backend", "name"), KERNELS)
def test_strided_inputs_are_taken_as_they_are(backend, name):
    """Heads cut out of one projection, tokens out of a longer sequence."""
    B, S, H, D = 2, 33, 3, 16
    joint = torch.randn(B, S + 5, 3, H, D, generator=torch.Generator().manual_seed(0)).bfloat16()
    q, k, v = joint[:, 2 : S + 2].unbind(2)
    assert not q.is_contiguous()
    out = BACKENDS[backend]().attention(q, k, v, kernel=name)
    assert (out.double() - exact(q, k, v)[0]).abs().max() <= TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize(("backend", "name"), KERNELS)
@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_nothing_in_gives_nothing_or_zeros_out(backend, name, shape):
    q, k, v = tensors(shape, torch.bfloat16)
    made = BACKENDS[backend]()
    out = made.attention(q, k, v, kernel=name)
    assert out.shape == q.shape and out.dtype == q.dtype and not out.abs().sum()
    out, lse = made.attention_lse(q, k, v, kernel="auto" if name == "sdpa" else name)
    assert not out.abs().sum() and lse.shape == (shape[0], shape[3], shape[1])
    assert (lse == -torch.inf).all()


def test_written_out_holds_one_tile_at_a_time(monkeypatch):
    from c4d.backends import reference

    shape = (2, 50, 40, 3, 16)
    q, k, v = tensors(shape, torch.float32)
    masks = [None, *(a_mask(kind, shape, torch.float32) for kind in ("keys", "full", "additive"))]
    whole = [Reference().attention_lse(q, k, v, mask=mask, kernel="math") for mask in masks]
    monkeypatch.setattr(reference, "TILE", 2 * 3 * 40 * 7)
    tiled = [Reference().attention_lse(q, k, v, mask=mask, kernel="math") for mask in masks]
    torch.testing.assert_close(whole, tiled, rtol=1e-6, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 40), max_size=4), seed=st.integers(0, 99), backend=st.sampled_from(sorted(BACKENDS))
)
def test_partial_results_merge_by_their_lse(cuts, seed, backend):
    """What Ring attention rests on; parts without a key, too."""
    q, k, v = tensors((1, 9, 40, 2, 16), torch.float32, seed)
    edges = [0, *sorted(cuts), 40]
    parts = [BACKENDS[backend]().attention_lse(q, k[:, a:b], v[:, a:b]) for a, b in itertools.pairwise(edges)]
    total = torch.stack([lse for _, lse in parts]).logsumexp(0)
    merged = sum(out * (lse - total).exp().transpose(1, 2)[..., None] for out, lse in parts)
    assert (merged - exact(q, k, v)[0]).abs().max() < 5e-6


@pytest.mark.parametrize("which", PACKAGES)
@pytest.mark.parametrize("causal", [False, True])
def test_packages_are_called_as_their_signatures_say(monkeypatch, tmp_path, which, causal):
    name = install(monkeypatch, tmp_path, which)
    made = Hopper()
    q, k, v = tensors((2, 33, 33, 2, 64), torch.bfloat16)
    kept = k.clone()
    want, want_lse = exact(q, k, v, None, 0.2, causal)
    out = made.attention(q, k, v, scale=0.2, causal=causal, kernel=name)
    assert (out.double() - want).abs().max() <= TOLERANCE[torch.bfloat16]
    assert torch.equal(k, kept), "the package changed the keys of the model"
    if which == "sage, version 1":
        with pytest.raises(UnsupportedError, match=r"'sage' does not give the log-sum-exp; these would do: .*cudnn"):
            made.attention_lse(q, k, v, kernel=name)
        return
    out, lse = made.attention_lse(q, k, v, scale=0.2, causal=causal, kernel=name)
    assert (out.double() - want).abs().max() <= TOLERANCE[torch.bfloat16]
    torch.testing.assert_close(lse, want_lse.float(), rtol=1e-5, atol=1e-5)


def test_a_package_that_cannot_be_imported_is_left_out_with_its_reason(monkeypatch, tmp_path):
    for package in ("flash_attn_interface", "sageattention"):
        (tmp_path / f"{package}.py").write_text("raise OSError('undefined symbol')")
    monkeypatch.syspath_prepend(str(tmp_path))
    table, call = kernels((9, 0)), Call(torch.bfloat16, 64)
    assert choose(table, call) is table["cudnn"]
    with pytest.raises(
        UnsupportedError, match="'sage' needs the package sageattention, which cannot be imported: OSError: u"
    ):
        choose(table, call, "sage")


@pytest.mark.parametrize(
    ("capability", "installed", "order"),
    [
        ((9, 0), "flash-3", ["flash-3", "cudnn", "flash", "efficient"]),
        ((9, 0), None, ["cudnn", "flash", "efficient"]),
        ((10, 0), "flash-3", ["cudnn", "flash", "efficient"]),
        ((8, 6), "flash-2", ["flash", "cudnn", "flash-2", "efficient"]),
        ((8, 0), "sage", ["flash", "cudnn", "efficient"]),
        ((7, 5), None, ["efficient"]),
    ],
)
def test_auto_takes_the_best_exact_kernel_that_this_gpu_runs(monkeypatch, tmp_path, capability, installed, order):
    if installed:
        install(monkeypatch, tmp_path, installed)
    table = kernels(capability)
    call = Call(torch.bfloat16, 64)
    able = [n for n, k in table.items() if not k.lossy and not k.missing() and not k.limits.refusal(call)]
    assert able == [*order, "sdpa", "math"]
    assert choose(table, call) is table[order[0]]


@pytest.mark.parametrize(
    ("name", "call", "words"),
    [
        (
            "flash",
            Call(torch.float32, 64),
            "takes bfloat16, float16, not float32; these would do: efficient, sdpa",
        ),
        ("flash", Call(torch.bfloat16, 260), "takes head sizes from 8 to 256 in steps of 8, not 260"),
        (
            "cudnn",
            Call(torch.bfloat16, 256),
            "takes head sizes from 8 to 128 in steps of 8, not 256; these .* flash",
        ),
        (
            "cudnn",
            Call(torch.bfloat16, 64, "keys"),
            r"does not take a boolean mask of keys, \[B or 1, 1, 1, Sk\]",
        ),
        (
            "flash",
            Call(torch.bfloat16, 64, "additive"),
            "does not take an additive mask; these would do: efficient",
        ),
        ("flash-2", Call(torch.bfloat16, 64), "needs the package flash_attn, which is not installed"),
        ("sage", Call(torch.bfloat16, 72), "takes head sizes 64, 96, 128, not 72"),
        (
            "sdpa",
            Call(torch.float32, 64, lse=True),
            "does not give the log-sum-exp; these would do: efficient, math",
        ),
    ],
)
def test_a_named_kernel_says_which_limit_is_passed_and_what_would_do(name, call, words):
    with pytest.raises(UnsupportedError, match=f"attention kernel '{name}' {words}"):
        choose(kernels((9, 0)), call, name)


def test_a_gpu_that_is_too_old_or_missing_is_named():
    with pytest.raises(UnsupportedError, match=r"needs compute capability 8\.0 or more; this GPU has 7\.5"):
        choose(kernels((7, 5)), Call(torch.bfloat16, 64), "flash")
    with pytest.raises(
        UnsupportedError, match=r"needs compute capability 9\.0 or more and less than 10\.0; this GPU has 12"
    ):
        choose(kernels((12, 0)), Call(torch.bfloat16, 64), "flash-3")
    with pytest.raises(UnsupportedError, match="'flash' has no GPU here"):
        choose(kernels(None), Call(torch.bfloat16, 64), "flash")


def test_an_unknown_kernel_is_told_the_known_ones():
    with pytest.raises(ValueError, match="unknown attention kernel 'fa': known are auto, sdpa, math"):
        Reference().attention(*tensors(SHAPES[0], torch.float32), kernel="fa")


def test_a_call_that_no_kernel_takes_lists_every_reason():
    only = {name: kernel for name, kernel in kernels((9, 0)).items() if name in ("cudnn", "sage")}
    with pytest.raises(
        UnsupportedError, match=r"no attention kernel takes this: cudnn takes .*not float32; sage is lossy"
    ):
        choose(only, Call(torch.float32, 64))


def test_auto_never_takes_a_lossy_kernel():
    """Not even where it comes first, or is the only one that would do."""
    plain = Kernel("exact", Limits((torch.float32,)), None)
    lossy = Kernel("of eight bits", Limits((torch.float32,)), None, lossy=True)
    assert choose({"lossy": lossy, "plain": plain}, Call(torch.float32, 64)) is plain
    assert choose({"lossy": lossy, "plain": plain}, Call(torch.float32, 64), "lossy") is lossy
    with pytest.raises(UnsupportedError, match="lossy is lossy and runs only by name"):
        choose({"lossy": lossy}, Call(torch.float32, 64))


def ones(*shape, **options):
    return torch.ones(2, *shape, **options)


# What is given for q, k, v and options, made of q [2, 6, 4, 16], and what the message says.
BAD = {
    "three dimensions": (lambda q: (q[0], q, q, {}), "takes q .B, Sq, H, D."),
    "other heads": (lambda q: (q, q[:, :, :1], q[:, :, :1], {}), "of one batch, head count and head size"),
    "keys without values": (lambda q: (q, q, q[:, :3], {}), "of one batch"),
    "two dtypes": (lambda q: (q, q.half(), q, {}), "of one dtype; these are .*float32, .*float16"),
    "two devices": (lambda q: (q, q.to("meta"), q.to("meta"), {}), "on one device; these are cpu, meta"),
    "heads across": (lambda q: (q.mT.contiguous().mT, q, q, {}), "stride of 1 in the last dimension; q has strides"),
    "a flat mask": (lambda q: (q, q, q, {"mask": ones(6) > 0}), "a mask is .B, H, Sq, Sk."),
    "a long mask": (lambda q: (q, q, q, {"mask": ones(1, 1, 7) > 0}), r"here \[2, 4, 6, 6\]; it is \[2, 1, 1, 7\]"),
    "a mask of ints": (lambda q: (q, q, q, {"mask": ones(1, 1, 6).int()}), "boolean .True: attends. or of the dtype"),
    "another dtype": (lambda q: (q, q, q, {"mask": ones(1, 1, 6).half()}), "of the dtype of q, torch.float32"),
    "another device": (lambda q: (q, q, q, {"mask": ones(1, 1, 6, device="meta") > 0}), "the mask is on meta"),
    "causal and masked": (lambda q: (q, q, q, {"mask": ones(1, 1, 6) > 0, "causal": True}), "no mask beside it"),
    "causal, more keys": (lambda q: (q[:, :3], q, q, {"causal": True}), "as many queries as keys .* 3 queries and 6"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("backend", HERE)
def test_tensors_that_do_not_go_together_are_refused(backend, case):
    make, words = BAD[case]
    q, k, v, options = make(torch.randn(2, 6, 4, 16))
    with pytest.raises(UnsupportedError, match=words):
        HERE[backend]().attention(q, k, v, **options)


@pytest.mark.parametrize(("name", "lse"), [("flash", True), ("cudnn", False), ("cudnn", True), ("efficient", False)])
def test_torch_knows_these_operators_and_arguments_for_its_gpus(name, lse):
    """Through torch's own shape rules for the device, with tensors that have no memory (and so cannot be cut)."""
    with FakeTensorMode():
        q, k = (torch.empty(2, S, 4, 64, dtype=torch.bfloat16, device="cuda") for S in (37, 50))
        out, total = kernels((9, 0))[name].run(q, k, k, None, 0.1, False, lse)
        assert out.shape == q.shape and out.dtype == q.dtype and out.device.type == "cuda"
        assert not lse or (total.shape == (2, 4, 37) and total.dtype == torch.float32)


def test_no_switch_of_the_process_is_touched():
    def switches():
        kinds = ("flash", "mem_efficient", "math", "cudnn")
        return [getattr(torch.backends.cuda, f"{kind}_sdp_enabled")() for kind in kinds]

    before = switches()
    for name in ("flash", "cudnn", "efficient"):
        Hopper().attention(*tensors(SHAPES[1], torch.bfloat16), kernel=name)
        assert switches() == before


@pytest.mark.skipif("device" in BACKENDS, reason="of the host's double")
def test_torch_may_choose_a_kernel_that_gives_blind_queries_a_mean(monkeypatch):
    """As cuDNN's did on an H100: the backend's "sdpa" gives zeros like all others."""

    def cudnns(q, k, v, attn_mask=None, is_causal=False, scale=None):
        out = real(q, k, v, attn_mask=attn_mask, is_causal=is_causal, scale=scale)
        return torch.where(attn_mask.any(-1, keepdim=True), out, v.mean(2, keepdim=True))

    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", cudnns)
    shape = (1, 5, 7, 2, 16)
    q, k, v = tensors(shape, torch.bfloat16)
    mask = a_mask("full", shape, torch.bfloat16)
    out = BACKENDS["cuda"]().attention(q, k, v, mask=mask, kernel="sdpa")
    assert (out.double() - exact(q, k, v, mask)[0]).abs().max() <= TOLERANCE[torch.bfloat16]
    assert not out[:, 2].any()
