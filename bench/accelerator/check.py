"""Part "check": every primitive of the device's backend against double precision.

That is computed on the device where it can be, else on the host (``Machine.exact``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.accelerator import device
from bench.accelerator.device import Checks, off, worst
from bench.accelerator.machine import Machine
from bench.accelerator.records import Absent, Case, Record
from c4d.backends.kernels import Call
from c4d.backends.reference import Reference

REFERENCE = Reference()
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
# Relative errors in the Euclidean norm. One rounding of the result is at most 2^-8, 2^-11, 2^-24 of it; a norm before
# a rotation may be rounded too; attention also rounds its probabilities.
ONCE = {"bfloat16": 4e-3, "float16": 5e-4, "float32": 1e-6}
TWICE = {"bfloat16": 8e-3, "float16": 1e-3, "float32": 2e-6}
ATTENTION = {"bfloat16": 1e-2, "float16": 1.5e-3, "float32": 1e-5}
SHAPES = ((1,), (3, 5, 7), (2, 1023, 129), (1, 4096, 3072))  # the last one not in a rehearsal
SUITES = ("tests/backends", "tests/seam/test_waits.py", "tests/seam/test_shared.py")  # on the device
LOSSY = 0.1  # of a kernel that says of itself that it is
SUMS, LSE = 1e-5, 1e-3  # relative; absolute


def cases(machine: Machine) -> list[Case]:
    parts: list[Case] = []
    for name in DTYPES:
        for what, checks in {"lincomb": lincomb, "change": change, "norm and rotary": norm_rotary}.items():
            parts.append(Case(f"{what}, {name}", 5, lambda checks=checks, name=name: worst(checks(machine, name))))
        for kernel in ["auto", *machine.backend.attention_kernels]:
            parts.append(Case(f"attention {kernel}, {name}", 8, lambda k=kernel, n=name: attention_case(machine, k, n)))
    parts.append(Case("offload and fetch", 5, lambda: device.offload(machine)))
    parts.append(Case("memory figures", 2, lambda: device.memory(machine)))
    # After these: where it cannot begin, there may be no pinned memory any more in this process.
    parts.append(Case("captured graph", 5, lambda: device.graph(machine)))
    for path in SUITES:
        parts.append(Case(path, 60, lambda path=path: device.suite(machine, path)))
    return parts


def lincomb(machine: Machine, dtype: str) -> Checks:
    for shape in SHAPES[: 3 if machine.rehearsal else 4]:
        for K in range(1, 5):
            xs = [machine.rand(*shape, dtype=DTYPES[dtype], seed=k) for k in range(K)]
            if len(shape) > 1:
                xs[-1] = xs[-1].transpose(0, 1).contiguous().transpose(0, 1)  # another layout
            for weights in ([1.0, 0.25, -0.5, 2.0][:K], [-0.5, 3.0, 1e-3, -1.0][:K]):
                there = torch.tensor(weights, device=machine.device)
                terms = [w * machine.exact(x) for w, x in zip(machine.exact(there), xs, strict=True)]
                exact = torch.stack(terms).sum(0)
                # Terms that cancel leave less than they were: the limit is of the terms.
                scale = float(sum(term.norm() for term in terms) / exact.norm())
                for where, given in (("host", weights), ("device", there)):
                    yield (
                        f"{shape} K={K} weights on the {where}",
                        lambda xs=xs, given=given, exact=exact: off(machine.backend.lincomb(xs, given), exact),
                        ONCE[dtype] * max(1.0, scale),
                    )


def change(machine: Machine, dtype: str) -> Checks:
    for shape in SHAPES[: 3 if machine.rehearsal else 4]:
        now, before = (machine.rand(*shape, dtype=DTYPES[dtype], seed=k) for k in (0, 1))
        if len(shape) > 1:
            before = before.transpose(0, 1).contiguous().transpose(0, 1)
        wide = machine.exact(before)
        sums = torch.stack(((machine.exact(now) - wide).abs().sum(), wide.abs().sum()))

        def error(now: Tensor = now, before: Tensor = before, exact: Tensor = sums) -> float:
            found = machine.backend.change(now, before)
            if not torch.equal(found, machine.backend.change(now, before)):
                raise AssertionError("the same inputs give other bits")
            return float(((machine.exact(found) - exact) / exact).abs().max())

        yield f"{shape}", error, SUMS


def norm_rotary(machine: Machine, dtype: str) -> Checks:
    backend, kind = machine.backend, DTYPES[dtype]
    shapes = ((1, 77, 3, 64), (2, 333, 5, 128), (1, 17, 1, 40), (1, 4608, 24, 128))
    for B, S, H, D in shapes[: 3 if machine.rehearsal else 4]:
        x = machine.rand(B, S, H, D, dtype=kind)
        for wide in (None, D, H * D):
            w = None if wide is None else machine.rand(wide, dtype=kind, seed=1)
            exact = REFERENCE.rms_norm(machine.exact(x), None if w is None else machine.exact(w), eps=1e-6)
            yield (
                f"rms_norm {[B, S, H, D]}, weight {wide}",
                lambda x=x, w=w, exact=exact: off(backend.rms_norm(x, w, eps=1e-6), exact),
                ONCE[dtype],
            )
            for tokens in (None, S - 9):
                angles = machine.rand(S if tokens is None else tokens, D // 2, dtype=torch.float32, seed=2)
                cos, sin = angles.cos(), angles.sin()
                for pairs in (True, False):
                    how: dict[str, Any] = {"interleaved": pairs, "tokens": tokens}
                    tables = machine.exact(cos), machine.exact(sin)
                    turned = REFERENCE.rotary(exact, *tables, **how)
                    yield (
                        f"norm_rotary {[B, S, H, D]}, weight {wide}, {how}",
                        lambda x=x, w=w, c=cos, s=sin, how=how, exact=turned: off(
                            backend.norm_rotary(x, w, c, s, eps=1e-6, **how), exact
                        ),
                        TWICE[dtype],
                    )
                    if w is None:
                        plain = REFERENCE.rotary(machine.exact(x), *tables, **how)
                        yield (
                            f"rotary {[B, S, H, D]}, {how}",
                            lambda x=x, c=cos, s=sin, how=how, exact=plain: off(backend.rotary(x, c, s, **how), exact),
                            ONCE[dtype],
                        )


def attention_case(machine: Machine, kernel: str, dtype: str) -> Record:
    if kernel != "auto":
        found = machine.backend.attention_kernels[kernel]
        reason = found.missing() or found.limits.refusal(Call(DTYPES[dtype], 128))
        if reason is not None:
            raise Absent(f"{kernel} {reason}")
    return worst(attention(machine, kernel, dtype))


def attention(machine: Machine, kernel: str, dtype: str) -> Checks:
    backend, kernels = machine.backend, machine.backend.attention_kernels
    limit = LOSSY if kernel != "auto" and kernels[kernel].lossy else ATTENTION[dtype]
    shapes = ((1, 333, 333, 3, 128), (2, 65, 257, 5, 64), (1, 1, 77, 2, 128), (1, 1153, 1153, 2, 128))
    for B, Sq, Sk, H, D in shapes[: 3 if machine.rehearsal else 4]:
        q, k, v = (machine.rand(B, S, H, D, dtype=DTYPES[dtype], seed=i) for i, S in enumerate((Sq, Sk, Sk)))
        keys = torch.arange(Sk, device=machine.device) < Sk - 19
        full = machine.rand(1, H, Sq, Sk, dtype=torch.float32, seed=4) > -1
        full[..., 0] = True
        kinds: dict[str, dict[str, Any]] = {
            "none": {},
            "keys": {"mask": keys[None, None, None].expand(B, 1, 1, Sk)},
            "full": {"mask": full},
            "additive": {"mask": machine.rand(1, 1, Sq, Sk, dtype=DTYPES[dtype], seed=5)},
            "scale": {"scale": 0.07},
            **({"causal": {"causal": True}} if Sq == Sk else {}),
        }
        for kind, how in kinds.items():
            wide = {key: machine.exact(x) if isinstance(x, Tensor) else x for key, x in how.items()}
            exact = REFERENCE.attention_lse(*map(machine.exact, (q, k, v)), kernel="math", **wide)
            mask = kind if kind != "scale" else "none"
            for lse in (False, True):
                call = Call(DTYPES[dtype], D, mask, lse, H)
                if kernel != "auto" and kernels[kernel].limits.refusal(call):
                    continue

                def error(q=q, k=k, v=v, how=how, lse=lse, exact=exact) -> float:
                    if not lse:
                        return off(backend.attention(q, k, v, kernel=kernel, **how), exact[0])
                    out, total = backend.attention_lse(q, k, v, kernel=kernel, **how)
                    aside = float((machine.exact(total) - exact[1].double()).abs().max()) / LSE
                    return max(off(out, exact[0]), limit * aside)

                yield f"{[B, Sq, Sk, H, D]} {kind}{' with LSE' if lse else ''}", error, limit
