"""Part "attention": every kernel of the backend, and torch's own one by one, at the models' shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.accelerator.device import off
from bench.accelerator.machine import Machine
from bench.accelerator.records import Case, Record, said
from c4d.backends.kernels import Call, choose, name_of

SHAPES = {  # batch, tokens, heads, head size, guessed seconds
    "FLUX": (1, 4608, 24, 128, 8),
    "Wan 1.3B": (1, 32760, 12, 128, 25),
    "HunyuanVideo": (1, 118800 + 256, 24, 128, 90),
}
TINY = {"FLUX": (1, 40, 2, 16, 1), "Wan 1.3B": (1, 33, 1, 16, 1)}
PATIENCE = 40_000  # tokens; beyond, the attention that is written out takes many seconds
QUERIES = 64  # of which the result is compared
TORCH = {
    "torch flash": SDPBackend.FLASH_ATTENTION,
    "torch cuDNN": SDPBackend.CUDNN_ATTENTION,
    "torch memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
}
SECONDS, MOST = 1.0, 20  # of timed calls of a kernel in all, and how many
SHORT_MS = 20.0  # of one call: such calls are timed several at once


def cases(machine: Machine) -> list[Case]:
    found = []
    for model, (*_, seconds) in (TINY if machine.rehearsal else SHAPES).items():
        for masked in (False, True) if model == "HunyuanVideo" else (False,):
            name = f"{model}, a mask of keys" if masked else model
            found.append(Case(name, seconds, lambda m=model, k=masked: measure(machine, m, k)))
    return found


def measure(machine: Machine, model: str, masked: bool) -> Record:
    B, S, H, D, _ = (TINY if machine.rehearsal else SHAPES)[model]
    q, k, v = (machine.rand(B, S, H, D, dtype=torch.bfloat16, seed=i) for i in range(3))
    mask = torch.arange(S, device=machine.device)[None, None, None] < S - 200 if masked else None
    picked = torch.linspace(0, S - 1, min(S, QUERIES)).long().to(machine.device)
    exact = reference(machine, q[:, picked], k, v, mask)
    rows: dict[str, Record] = {}
    turns: dict[str, Callable[[], Tensor]] = {}
    for name, turn in contenders(machine, q, k, v, mask, rows).items():
        try:
            out = turn()
            machine.backend.synchronize()
            first = machine.mark()
            turn()
            last = machine.mark()
            machine.backend.synchronize()
        except Exception as error:  # a kernel that refuses or fails is a row of the table
            rows[name] = {"absent": said(error)}
            continue
        rows[name] = {"error": off(out[:, picked], exact), "once_ms": machine.ms(first, last)}
        turns[name] = turn
    machine.answers()
    reps = {name: int(min(MOST, max(2, SECONDS * 1e3 / rows[name]["once_ms"]))) for name in turns}
    taken: dict[str, list[float]] = {name: [] for name in turns}
    for r in range(2 if machine.rehearsal else max(reps.values())):
        for name in list(turns)[:: -1 if r % 2 else 1]:
            if r < reps[name]:
                first = machine.mark()
                turns[name]()
                last = machine.mark()
                machine.backend.synchronize()
                taken[name].append(machine.ms(first, last))
    kernels = machine.backend.attention_kernels
    chosen = choose(kernels, Call.of(q, k, v, mask, False))
    auto = name_of(kernels, chosen)
    short = {name: lambda i, turn=turn: turn() for name, turn in turns.items() if rows[name]["once_ms"] < SHORT_MS}
    queued = machine.batches(short, calls=8) if short else {}  # else the host's time to launch them would be in it
    for name in turns:
        alone = sorted(taken[name])[len(taken[name]) // 2]
        rows[name]["ms"] = queued[name]["ms"] if name in queued else alone
        rows[name]["lossy"] = name in kernels and kernels[name].lossy
    return {"shape": [B, S, H, D], "masked": masked, "flop": 4 * B * H * S * S * D, "auto": auto, "kernels": rows}


def contenders(
    machine: Machine, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rows: dict[str, Record]
) -> dict[str, Callable[[], Tensor]]:
    """Those that take this call; ``rows`` gets the reasons of the others."""
    backend = machine.backend
    call = Call.of(q, k, v, mask, False)
    found: dict[str, Callable[[], Tensor]] = {"auto": lambda: backend.attention(q, k, v, mask=mask)}
    for name, kernel in backend.attention_kernels.items():
        reason = kernel.missing() or kernel.limits.refusal(call)
        if reason is not None:
            rows[name] = {"absent": reason}
            continue
        if name == "math" and q.shape[1] > PATIENCE:
            rows[name] = {"absent": "too slow to wait for at this length"}
            continue
        found[name] = lambda name=name: backend.attention(q, k, v, mask=mask, kernel=name)
    if backend.device_type == "cuda":
        for name, choice in TORCH.items():
            found[name] = lambda choice=choice: forced(choice, q, k, v, mask)
    return found


def forced(choice: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    with sdpa_kernel(choice):
        out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask)
    return out.transpose(1, 2)


def reference(machine: Machine, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """In double precision, a head at a time, for the memory's sake."""
    heads = []
    hidden = None if mask is None else ~machine.exact(mask[0, 0])
    for h in range(q.shape[2]):
        q_, k_, v_ = (machine.exact(x[:, :, h]) for x in (q, k, v))
        logits = q_ @ k_.mT * q.shape[-1] ** -0.5
        if hidden is not None:
            logits.masked_fill_(hidden, -torch.inf)
        heads.append(logits.softmax(-1) @ v_)
    return torch.stack(heads, 2)
