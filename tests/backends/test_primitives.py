"""Every primitive of every backend against double precision; the cuda backend's kernels run interpreted.

What a result may differ by stands in ``tests/backends/guard.py``.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from c4d.backends import UnsupportedError
from c4d.backends.cuda import Cuda
from tests.backends.doubles import exact_norm, exact_rotary
from tests.backends.guard import BACKENDS, HERE, KERNEL_DTYPES, UNIT, Interpreted, Moved, close, guarded, poisoned, rand

__all__ = ["poisoned"]

pytest.importorskip("triton", reason="the kernels of the cuda backend need it")

CASES = [
    pytest.param(backend, dtype, id=f"{name}-{str(dtype).removeprefix('torch.')}")
    for name, backend in BACKENDS.items()
    for dtype in UNIT
    if dtype in backend.dtypes
]
every = pytest.mark.parametrize("backend, dtype", CASES)
KERNELS = BACKENDS.get("interpreted")  # none where the matrix runs on the device

# One number, fewer and more than a tile, odd sizes; the layouts are those that models and hooks hand over.
LAYOUTS = {
    "a number": lambda make: make(),
    "one": lambda make: make(1, 1),
    "odd": lambda make: make(3, 1, 5, 7),
    "longer than a tile": lambda make: make(4099),
    "transposed": lambda make: make(2, 5, 33).transpose(1, 2),
    "permuted": lambda make: make(4, 3, 2, 5).permute(2, 0, 3, 1),
    "without the text": lambda make: make(2, 9, 40)[:, :-3],
    "rows longer than a tile": lambda make: make(2, 3, 1030)[:, :2],
    "many short rows": lambda make: make(2, 301, 7)[..., :5],
    "every other": lambda make: make(3, 8, 10)[:, ::2, 1::3],
    "broadcast": lambda make: make(3, 1, 5).expand(3, 4, 5),
    "five loops": lambda make: make(4, 4, 4, 4, 4)[::2, ::2, ::2, ::2, ::2],
    "nothing": lambda make: make(3, 0, 5),
}
layouts = pytest.mark.parametrize("layout", LAYOUTS)


def features(layout, dtype, count):
    """Tensors of that layout, every other one contiguous instead: strides differ between them."""
    made = [LAYOUTS[layout](lambda *shape, i=i: rand(*shape, dtype=dtype, seed=i)) for i in range(count)]
    return [guarded(x.contiguous() if i % 2 else x) for i, x in enumerate(made)]


def held_lincomb(backend, tensors, weights, on_device=False):
    out = backend.lincomb(tensors, torch.tensor(weights) if on_device else weights)
    terms = [w * x.double() for w, x in zip(torch.tensor(weights).double().tolist(), tensors, strict=True)]
    assert out.dtype == tensors[0].dtype
    close(backend, out, sum(terms), sum(term.abs() for term in terms))
    return out


# -- lincomb


@every
@layouts
@pytest.mark.parametrize("on_device", [False, True], ids=["numbers", "tensor"])
def test_lincomb(backend, dtype, layout, on_device, poisoned):
    tensors = features(layout, dtype, 3)
    before = [x.clone() for x in tensors]
    out = held_lincomb(backend, tensors, [0.5, -2.0, 1.25], on_device)
    out.fill_(7)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


@every
@pytest.mark.parametrize("count", [1, 2, 8, 9, 17])
@pytest.mark.parametrize("on_device", [False, True], ids=["numbers", "tensor"])
def test_lincomb_of_any_number_of_features(backend, dtype, count, on_device, poisoned):
    weights = [(-1.0) ** i * (1 + i / 8) for i in range(count)]
    held_lincomb(backend, features("without the text", dtype, count), weights, on_device)


@every
@pytest.mark.parametrize("count", [3, 17], ids=["one launch", "several launches"])
def test_lincomb_accumulates_in_single_precision(backend, dtype, count):
    """In half precision the large terms would swallow the small ones."""
    large = 60000.0 if dtype == torch.float16 else 2.0**12
    tensors = [torch.full((3,), value, dtype=dtype) for value in (large, *[1.0] * (count - 2), large)]
    assert backend.lincomb(tensors, [1.0] * (count - 1) + [-1.0]).tolist() == [count - 2.0] * 3


@pytest.mark.parametrize("first", KERNEL_DTYPES)
def test_lincomb_of_several_dtypes_gives_that_of_the_first(first, poisoned):
    held_lincomb(
        KERNELS, [rand(70, dtype=dtype, seed=i) for i, dtype in enumerate([first, *KERNEL_DTYPES])], [1, 2, -1, 3]
    )


def test_lincomb_keeps_a_dense_layout():
    x = rand(4, 6, 5).permute(2, 0, 1)
    assert KERNELS.lincomb([x, x.contiguous()], [1.0, 1.0]).stride() == x.stride()


def test_lincomb_never_reads_the_device(monkeypatch):
    tensors, weights = [rand(5), rand(5, seed=1)], torch.ones(2)

    def read(*args):
        raise AssertionError("read on the host")

    for name in ("item", "tolist", "cpu", "numpy", "__float__", "__bool__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, read)
    out = KERNELS.lincomb(tensors, weights)
    monkeypatch.undo()
    assert torch.equal(out, tensors[0] + tensors[1])


def test_weights_on_the_device_are_read_as_they_lie():
    weights = torch.tensor([3.0, 9.0, 5.0, 9.0])[::2]
    assert KERNELS.lincomb([torch.ones(3), torch.ones(3)], weights).tolist() == [8.0] * 3


@pytest.mark.parametrize("block, warps", [(64, 1), (256, 8)])
def test_tiles_of_any_size_give_the_same(block, warps, poisoned):
    from c4d.backends.cuda.lincomb import change, lincomb

    tensors = features("without the text", torch.bfloat16, 2)
    assert torch.equal(lincomb(tensors, [1.5, -2.0], block=block, warps=warps), KERNELS.lincomb(tensors, [1.5, -2.0]))
    for programs in (1, 4, 1024):
        assert change(*tensors, block=block, warps=warps, programs=programs).tolist() == pytest.approx(
            KERNELS.change(*tensors).tolist(), rel=1e-5
        )


@st.composite
def viewed(draw, most=6):
    """One shape and views of it: each of a base with permuted dimensions, slices, steps and broadcast dimensions."""
    shape = draw(st.lists(st.integers(1, 4), max_size=5))
    views = []
    for seed in range(draw(st.integers(1, most))):
        order = draw(st.permutations(range(len(shape))))
        steps = [draw(st.sampled_from([1, 1, 1, 2, 0])) for _ in shape]
        extra = [draw(st.integers(0, 2)) for _ in shape]
        base = rand(*[1 if steps[d] == 0 else shape[d] * steps[d] + extra[d] for d in order], seed=seed)
        base = (base * 8).round().permute([order.index(d) for d in range(len(shape))])
        cut = base[tuple(slice(0, None if s == 0 else n * s, s or 1) for n, s in zip(shape, steps, strict=True))]
        views.append(cut.expand(shape))
    return views


quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(views=viewed(most=10), data=st.data())
def test_lincomb_of_any_views(views, data):
    """Of whole numbers, which fp32 adds without rounding: right to the last bit, in any order of the terms, linear."""
    weights = data.draw(st.lists(st.integers(-8, 8).map(float), min_size=len(views), max_size=len(views)))
    exact = sum(w * x.double() for w, x in zip(weights, views, strict=True))
    out = KERNELS.lincomb([guarded(x) for x in views], weights)
    assert torch.equal(out.double(), exact)
    order = data.draw(st.permutations(range(len(views))))
    assert torch.equal(KERNELS.lincomb([views[i] for i in order], torch.tensor([weights[i] for i in order])), out)
    assert torch.equal(KERNELS.lincomb(views, [-2 * w for w in weights]), -2 * out)


# -- change


@every
@layouts
def test_change(backend, dtype, layout, poisoned):
    now, before = features(layout, dtype, 2)
    out = backend.change(now, before)
    exact = (now.double() - before.double()).abs().sum().item(), before.double().abs().sum().item()
    assert out.shape == (2,) and out.dtype == torch.float32
    assert out.tolist() == pytest.approx(exact, rel=1e-5)
    assert torch.equal(out, backend.change(now, before))


def test_change_goes_on_after_the_last_program(poisoned):
    from c4d.backends.cuda.lincomb import change

    now, before = guarded(rand(1000)), guarded(rand(1000, seed=1))
    out = change(now, before, block=64, programs=4)
    assert out.tolist() == pytest.approx([(now - before).abs().sum().item(), before.abs().sum().item()], rel=1e-5)


@quick
@given(views=viewed(most=2).filter(lambda views: len(views) == 2))
def test_change_of_any_views(views):
    now, before = views
    exact = [(now.double() - before.double()).abs().sum().item(), before.double().abs().sum().item()]
    assert KERNELS.change(guarded(now), guarded(before)).tolist() == exact


def test_change_of_what_is_not_finite_is_not_finite():
    x = torch.tensor([1.0, torch.nan, 2.0])
    assert KERNELS.change(x, torch.ones(3)).isnan().tolist() == [True, False]
    assert KERNELS.change(torch.ones(3), torch.full((3,), torch.inf)).tolist() == [torch.inf] * 2


# -- norms and rotary embedding


def angles(*shape, kind="halves"):
    """cos and sin: strided views of tables with every angle several times, as models hand them over, or their own."""
    phase = rand(*shape, seed=9) * 3
    if kind == "strided":
        return phase.cos().repeat_interleave(2, -1)[..., ::2], phase.sin().repeat_interleave(3, -1)[..., 1::3]
    return phase.cos(), phase.sin()


# (heads, head size, what is normed): head counts and sizes that are no powers of two, models', single ones
HEADS = [(3, 12, "none"), (3, 12, "head"), (3, 12, "token"), (5, 128, "token"), (1, 2, "head"), (2, 256, "head")]
heads = pytest.mark.parametrize("H, D, normed", HEADS)


def weight_of(H, D, normed, dtype):
    return None if normed == "none" else guarded(rand(D if normed == "head" else H * D, dtype=dtype, seed=5) + 1)


@every
@heads
def test_rms_norm(backend, dtype, H, D, normed):
    x, weight = rand(2, 3, H, D, dtype=dtype), weight_of(H, D, normed, dtype)
    exact = exact_norm(x, weight, 1e-6)
    close(backend, backend.rms_norm(x, weight, eps=1e-6), exact, exact.abs())


@every
@heads
@pytest.mark.parametrize("interleaved", [True, False], ids=["interleaved", "halves"])
@pytest.mark.parametrize("tokens", [None, 2])
def test_norm_rotary(backend, dtype, H, D, normed, interleaved, tokens, poisoned):
    x, weight = guarded(rand(2, 3, H, D, dtype=dtype)), weight_of(H, D, normed, dtype)
    cos, sin = angles(3 if tokens is None else tokens, D // 2)
    exact, magnitude = exact_rotary(exact_norm(x, weight, 1e-6), cos, sin, interleaved, tokens)
    out = backend.norm_rotary(x, weight, cos, sin, eps=1e-6, interleaved=interleaved, tokens=tokens)
    assert out.dtype == dtype
    close(backend, out, exact, magnitude)


X_LAYOUTS = {
    "contiguous": lambda: rand(2, 5, 3, 8),
    "of a fused projection": lambda: rand(2, 5, 3, 3, 8)[:, :, 1],
    "heads before tokens": lambda: rand(2, 3, 5, 8).transpose(1, 2),
    "without the text": lambda: rand(2, 7, 3, 8)[:, 2:],
    "size before heads": lambda: rand(2, 5, 8, 3).transpose(2, 3),
    "broadcast": lambda: rand(1, 5, 3, 8).expand(2, 5, 3, 8),
}


TABLES = [*((layout, (5, 4)) for layout in X_LAYOUTS), ("contiguous", (1, 5, 4)), ("contiguous", (2, 5, 4))]


@every
@pytest.mark.parametrize("layout, table", TABLES, ids=str)
@pytest.mark.parametrize("interleaved", [True, False], ids=["interleaved", "halves"])
def test_rotary(backend, dtype, layout, table, interleaved, poisoned):
    x = guarded(X_LAYOUTS[layout]().to(dtype))
    cos, sin = angles(*table, kind="strided" if interleaved else "halves")
    exact, magnitude = exact_rotary(x, cos, sin, interleaved, None)
    out = backend.rotary(x, cos, sin, interleaved=interleaved)
    assert out.dtype == dtype
    close(backend, out, exact, magnitude)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_tables_and_weights_of_other_dtypes(dtype, poisoned):
    x, weight = rand(1, 4, 3, 8), (rand(8, seed=3) + 1).to(dtype)
    cos, sin = (table.to(dtype) for table in angles(4, 4))
    exact, magnitude = exact_rotary(exact_norm(x, weight, 1e-5), cos, sin, False, None)
    close(KERNELS, KERNELS.norm_rotary(x, weight, cos, sin, eps=1e-5, interleaved=False), exact, magnitude)


def test_heads_are_divided_among_programs(poisoned):
    from c4d.backends.cuda.norm_rotary import HEAD, launch

    x, weight = guarded(rand(1, 3, 7, 8)), rand(8, seed=3)
    cos, sin = angles(3, 4)
    exact, magnitude = exact_rotary(exact_norm(x, weight, 1e-6), cos, sin, True, None)
    close(KERNELS, launch(x, weight, cos, sin, 1e-6, HEAD, True, 3, tile=16, warps=1), exact, magnitude)


@every
@pytest.mark.filterwarnings("ignore:invalid value")  # of numpy, which the interpreter computes with
def test_tokens_that_are_not_turned_keep_what_is_not_finite(backend, dtype):
    x = torch.full((1, 2, 1, 2), torch.inf, dtype=dtype)
    out = backend.rotary(x, torch.zeros(1, 1), torch.ones(1, 1), interleaved=True, tokens=1)
    assert out[0, 1].tolist() == [[torch.inf, torch.inf]]


@every
@pytest.mark.parametrize("shape", [(0, 3, 2, 4), (2, 0, 2, 4), (2, 3, 0, 4)], ids=str)
def test_norm_and_rotary_of_nothing(backend, dtype, shape):
    x = rand(*shape, dtype=dtype)
    cos, sin = angles(shape[1], 2)
    assert backend.norm_rotary(x, rand(4), cos, sin, eps=1e-6, interleaved=True).shape == shape
    assert backend.rotary(x, cos, sin, interleaved=False).shape == shape


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_block_keeps_norm_and_rotary_as_one_node(dynamic):
    weight = torch.nn.Parameter(rand(8))
    nodes = []

    def block(x, cos, sin):
        x = KERNELS.norm_rotary(x * 2, weight, cos, sin, eps=1e-6, interleaved=True)
        return KERNELS.rotary(x, cos, sin, interleaved=False) + 1

    def seen(graph, inputs):
        nodes.append(sum("norm_rotary" in str(node.target) for node in graph.graph.nodes))
        return graph

    compiled = torch.compile(block, fullgraph=True, backend=seen, dynamic=dynamic)
    with torch.no_grad():
        for S in (3, 5):
            x, (cos, sin) = rand(1, S, 2, 8), angles(S, 4)
            assert torch.equal(compiled(x, cos, sin), block(x, cos, sin))
    assert nodes == [2] * (1 if dynamic else 2)


def test_the_custom_operator_keeps_torchs_rules():
    from c4d.backends.cuda.norm_rotary import TOKEN, norm_rotary

    arguments = (rand(1, 3, 8, 2).transpose(2, 3), rand(16), *angles(3, 4), 1e-6, TOKEN, True, 2)
    torch.library.opcheck(norm_rotary, arguments, test_utils=("test_schema", "test_faketensor"))


def test_the_way_to_a_device_and_back_changes_nothing():
    """For the matrix above on a real one."""
    moved, here = Moved(BACKENDS["reference"]), BACKENDS["reference"]
    for layout in LAYOUTS:
        x, y = features(layout, torch.float32, 2)
        there = moved.moved(x)
        assert there.stride() == x.stride() and (not x.numel() or there.data_ptr() != x.data_ptr())
        assert torch.equal(moved.lincomb([x, y], [2.0, -1.0]), here.lincomb([x, y], [2.0, -1.0]))
        assert torch.equal(moved.change(x, y), here.change(x, y))


# -- what goes to the reference, and what is refused


class Elsewhere(Cuda):
    """The real class on a machine without its device: every tensor here is on the host."""


def test_tensors_on_the_host_get_plain_torch():
    x, cos = rand(1, 3, 2, 4).double(), angles(3, 2)
    backend, reference = Elsewhere(), BACKENDS["reference"]
    assert torch.equal(backend.lincomb([x, x], [1.0, 0.5]), reference.lincomb([x, x], [1.0, 0.5]))
    assert torch.equal(backend.change(x, 2 * x), reference.change(x, 2 * x))
    assert torch.equal(backend.rms_norm(x, None, eps=1e-6), reference.rms_norm(x, None, eps=1e-6))
    assert torch.equal(backend.rotary(x, *cos, interleaved=True), reference.rotary(x, *cos, interleaved=True))
    both = [b.norm_rotary(x, None, *cos, eps=1e-6, interleaved=True) for b in (backend, reference)]
    assert torch.equal(*both)


def test_what_wants_a_gradient_gets_one():
    x, cos = rand(1, 3, 2, 4).requires_grad_(), angles(3, 2)
    for out in (
        KERNELS.lincomb([x, x], [1.0, 0.5]),
        KERNELS.rotary(x, *cos, interleaved=True),
        KERNELS.norm_rotary(x, None, *cos, eps=1e-6, interleaved=True),
    ):
        assert torch.autograd.grad(out.sum(), x)[0].abs().sum() > 0


DOUBLE = r"takes bfloat16, float16, float32, not float64: convert it"


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda b, x, t: b.lincomb([x, x.double()], [1.0, 1.0]), f"lincomb on cuda {DOUBLE}"),
        (lambda b, x, t: b.change(x.double(), x), f"change on cuda {DOUBLE}"),
        (lambda b, x, t: b.rms_norm(x.double(), None, eps=1e-6), f"rms_norm on cuda {DOUBLE}"),
        (lambda b, x, t: b.rotary(x.double(), t, t, interleaved=True), f"rotary on cuda {DOUBLE}"),
        (
            lambda b, x, t: b.norm_rotary(x.double(), None, t, t, eps=1e-6, interleaved=True),
            f"norm_rotary on cuda {DOUBLE}",
        ),
        (
            lambda b, x, t: b.norm_rotary(
                x.new_ones(1, 3, 600, 64), x.new_ones(600 * 64), *[x.new_ones(3, 32)] * 2, eps=1e-6, interleaved=True
            ),
            r"up to 32768 numbers that are normed together, .* 600 x 64\. Call rms_norm, then rotary",
        ),
    ],
)
def test_what_the_kernels_do_not_take_is_refused(call, message):
    with pytest.raises(UnsupportedError, match=message):
        call(KERNELS, rand(1, 3, 2, 4), rand(3, 2))


@pytest.mark.parametrize("backend", HERE.values(), ids=HERE)
@pytest.mark.parametrize(
    "call, message",
    [
        (lambda b, x, t: b.lincomb([], []), "features of one shape on one device, not nothing"),
        (lambda b, x, t: b.lincomb([x, x[:, :1]], [1.0, 1.0]), r"\[1, 3, 2, 4\] on cpu, \[1, 1, 2, 4\] on cpu"),
        (lambda b, x, t: b.lincomb([x, x.to("meta")], [1.0, 1.0]), "on one device, .* on cpu, .* on meta"),
        (lambda b, x, t: b.lincomb([x, x], [1.0]), "a weight for each feature, not 1 for 2"),
        (lambda b, x, t: b.lincomb([x, x], torch.ones(3)), "a weight for each feature, not 3 for 2"),
        (lambda b, x, t: b.lincomb([x], torch.ones(1, device="meta")), r"beside its features, .* not \[1\] on meta"),
        (lambda b, x, t: b.change(x, x[:, :1]), "two tensors of one shape on one device, not"),
        (lambda b, x, t: b.change(x, x.to("meta")), "two tensors of one shape on one device, not .* on meta"),
        (lambda b, x, t: b.rms_norm(x, torch.ones(3), eps=1e-6), r"weight \[D\] or \[H \* D\] beside it, not .* \[3\]"),
        (lambda b, x, t: b.rms_norm(x, torch.ones(4).to("meta"), eps=1e-6), "beside it, not .* on meta"),
        (lambda b, x, t: b.rotary(x, t[:2], t[:2], interleaved=True), "a rotary embedding of 3 tokens takes"),
        (lambda b, x, t: b.rotary(x, t, t, interleaved=True, tokens=4), "a rotary embedding of 4 tokens takes"),
        (lambda b, x, t: b.rotary(x, t, t.to("meta"), interleaved=True), "beside it, not .* on meta"),
        (lambda b, x, t: b.norm_rotary(x[..., :3], None, t, t, eps=1e-6, interleaved=True), "an even D"),
    ],
)
def test_what_does_not_go_together_is_refused(backend, call, message):
    with pytest.raises(UnsupportedError, match=message):
        call(backend, rand(1, 3, 2, 4), rand(3, 2))


def test_without_triton_the_backend_says_so(monkeypatch):
    code = """
import sys
sys.modules["triton"] = None
import torch, c4d
from c4d.backends.cuda import Cuda
torch.version.cuda, torch.cuda.is_available = "13.0", lambda: True
assert Cuda().missing() == "triton is not installed (pip install triton)", Cuda().missing()
x = torch.ones(2)
assert Cuda().lincomb([x], [2.0]).tolist() == [2.0, 2.0]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_launched_for_nothing(monkeypatch):
    from c4d.backends.cuda import lincomb, norm_rotary

    for module, kernel in [
        (lincomb, "lincomb_kernel"),
        (lincomb, "change_kernel"),
        (norm_rotary, "norm_rotary_kernel"),
    ]:
        monkeypatch.setattr(module, kernel, None)
    x = torch.ones(2, 0, 3)
    assert KERNELS.lincomb([x], [1.0]).shape == x.shape
    assert KERNELS.change(x, x).tolist() == [0.0, 0.0]
    assert isinstance(KERNELS, Interpreted)
