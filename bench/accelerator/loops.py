"""Parts "flux", "wan", "wan14b", "hunyuan": denoising loops of whole transformers, cached by c4d and by the peers.

All contenders share one model and take turns; nothing stays on it between two of them. Passes are timed by marks in
the device's order of work, which nobody waits for before the loop's end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch

import c4d
from bench import peers
from bench.accelerator.bandwidth import copy_bandwidth
from bench.accelerator.machine import Machine
from bench.accelerator.records import Absent, Case, Record, theirs
from bench.accelerator.subjects import Subject
from bench.accelerator.verdicts import FUSED
from c4d.core.methods.teacache import published_fits
from c4d.core.text.grammar import parse
from c4d.models import SPECS

FOREVER = 10**6
UNCACHED, EMPTIED = "uncached", "stacks emptied"
PEERS = ("diffusers", "cache-dit")
Attach = Callable[[Any, Subject, int], Iterator[Callable[[], None]]]  # machine, subject, steps -> begin()


@dataclass(frozen=True)
class Plan:
    """Of one model: steps of a loop, how often each is run, guessed seconds of a full forward, TeaCache's fit.

    ``few``: only the times of full and reused forwards are wanted, which a few steps give; then every contender
    computes the first one or two and reuses the others.
    """

    steps: int
    rounds: int
    guess: float
    fit: str = ""
    few: bool = False

    def few_steps(self, name: str) -> int:
        """Of a contender whose loop as a whole is not wanted."""
        return 10 if name == EMPTIED else min(self.steps, 6) - 2 * (name in (UNCACHED, FUSED))


PLANS = {
    "flux": Plan(50, 3, 0.25, "flux.1-dev"),
    "wan": Plan(50, 1, 0.8, "wan2.1-t2v-1.3b"),
    "wan14b": Plan(5, 1, 14.0, few=True),
    "hunyuan": Plan(4, 1, 50.0, few=True),
}
LITE = "taylorseer-lite:interval=5,order=1@blocks"
BOTH = f"{FUSED} + {LITE}"
LITE_FEW = f"taylorseer-lite:interval={FOREVER},order=1,warmup=2@blocks"
FIRST_BLOCK, FIRST_BLOCK_FEW = "first-block:threshold=0.1", "first-block:threshold=1e9,last=0"


def cases(machine: Machine, part: str) -> list[Case]:
    plan = PLANS[part]
    names = contenders(part, plan)
    rounds, found = 1 if machine.rehearsal else plan.rounds, []
    for r in range(rounds):
        turn = list(names)[r % len(names) :] + list(names)[: r % len(names)]
        for name in [*turn[:: -1 if r % 2 else 1]]:
            attach, share = names[name]
            guess = plan.guess * plan.steps * (2 if part == "wan" else 1) * share
            measure = partial(loop, machine, part, plan, name, attach)
            found.append(Case(f"{name}, {r + 1}", guess, theirs(measure) if name.startswith(PEERS) else measure))
    return found


def contenders(part: str, plan: Plan) -> dict[str, tuple[Attach, float]]:
    """Name -> how it is attached, and a guess of what share of an uncached loop it takes."""
    found: dict[str, tuple[Attach, float]] = {UNCACHED: (_nothing, 1.0), EMPTIED: (_emptied, 0.02)}
    dbcache = {"Fn_compute_blocks": 1, "Bn_compute_blocks": 0}
    if plan.few:
        found[UNCACHED] = _nothing, plan.few_steps(UNCACHED) / plan.steps
        found[f"c4d {LITE_FEW}"] = ours(LITE_FEW), 2 / plan.steps
    found[FUSED] = fused, plan.few_steps(FUSED) / plan.steps
    # Whatever the model, these compute one step and reuse the others.
    found[f"c4d {FIRST_BLOCK_FEW}"] = ours(FIRST_BLOCK_FEW), 1.1 / plan.steps
    found["diffusers FirstBlock 1e9"] = first_block(1e9), 1.1 / plan.steps
    forever = {**dbcache, "max_warmup_steps": 1, "residual_diff_threshold": 1e9}
    found["cache-dit F1B0 W1 R1e9"] = dbcache_(False, **forever), 1.1 / plan.steps
    if plan.few:
        return found
    # First those whose schedule is fixed: they say the same of a random model as of a trained one.
    for name, attach in (
        (f"c4d {LITE}", ours(LITE)),
        (BOTH, both(LITE)),
        ("diffusers TaylorSeer-Lite interval 5", taylorseer_lite),
        ("c4d fora:interval=3", ours("fora:interval=3")),
    ):
        found[name] = attach, 0.4
    texts = [FIRST_BLOCK]
    for fit, known in published_fits().items():
        if fit == plan.fit:
            texts.append(f"teacache:threshold={min(known['thresholds'])},fit={fit}")  # type: ignore[call-overload]
    for text in texts:
        found[f"c4d {text}"] = ours(text), 0.4
    found["diffusers FirstBlock 0.1"] = first_block(0.1), 0.5
    warm = {**dbcache, "max_warmup_steps": 4, "residual_diff_threshold": 0.12}
    found["cache-dit F1B0 W4 R0.12"] = dbcache_(False, **warm), 0.5
    found["cache-dit F1B0 W4 R0.12 + TaylorSeer 1"] = dbcache_(True, **warm), 0.5
    return found


def loop(machine: Machine, part: str, plan: Plan, name: str, attach: Attach) -> Record:
    if name.startswith("c4d") and (subject := subject_of(machine, part)).size.cls not in SPECS:
        raise Absent(f"c4d has no spec for {subject.size.cls}")
    subject = subject_of(machine, part)
    steps = plan.few_steps(name) if plan.few or name == FUSED or "1e9" in name else plan.steps
    steps = min(steps, 10) if machine.rehearsal else steps
    if name == EMPTIED or not (plan.few or name in machine.kept.setdefault("warm", [])):
        few = min(7 if name.startswith("c4d") else 2, steps)  # compiles, or tunes, what it needs
        with contextmanager(attach)(machine, subject, few) as begin:
            denoise(machine, subject, begin, few)
        machine.kept.setdefault("warm", []).append(name)
    with contextmanager(attach)(machine, subject, steps) as begin:
        found = denoise(machine, subject, begin, steps)
    if name == EMPTIED:
        # Alone these forwards are so short that the device waits for the host; behind a computed pass it does not.
        with contextmanager(attach)(machine, subject, steps) as begin:
            queued = denoise(machine, subject, begin, steps, ahead=machine.busy())
        found["device_ms"] = queued["reused_ms"]
        found |= {"bandwidth": machine.kept.get("bandwidth") or copy_bandwidth(machine), "hidden": subject.hidden()}
        machine.kept["bandwidth"] = found["bandwidth"]
    method = name.removeprefix(f"{FUSED} + ").removeprefix("c4d ")
    if name.startswith("c4d") and name != FUSED and (rule := parse(method).whole) is not None:
        found["features"] = rule.forecast.num_features + rule.residual
        found["waits"] = bool(rule.policy.signals)  # for the device, in every forward
    return {"contender": name, "few": plan.few, "weights": subject.weights, "blocks": subject.blocks, **found}


def subject_of(machine: Machine, part: str) -> Subject:
    if "subject" not in machine.kept:
        machine.release()
        subject = machine.kept["subject"] = Subject(machine, part)
        t = torch.full((1,), 500.0, device=machine.device)
        few = PLANS[part].few
        with subject.emptied():
            subject.call(subject.latents, t, "cond")
        if not few and not subject.call(subject.latents, t, "cond").isfinite().all():
            raise RuntimeError("the random model gives numbers that are not finite")
    found: Subject = machine.kept["subject"]
    return found


def denoise(
    machine: Machine,
    subject: Subject,
    begin: Callable[[], None],
    steps: int,
    ahead: Callable[[float], None] | None = None,
) -> Record:
    """One loop with flow-matching Euler: seconds, times of forwards, most bytes between and within them.

    ``ahead`` keeps the device at work for so many seconds before each forward, outside of its time.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    backend, branches = machine.backend, subject.size.branches
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(steps, device=machine.device)
    begin()
    machine.backend.synchronize()
    backend.reset_peak()
    before = machine.allocated()
    x, between = subject.latents, 0
    marks: list[tuple[Any, Any]] = []
    ran: list[int] = []
    started = time.perf_counter()
    for t in scheduler.timesteps:
        outs = []
        for branch in branches:
            subject.ran = 0
            if ahead is not None:
                ahead(0.02)
            first = machine.mark()
            outs.append(subject.call(x, t.expand(1), branch))
            marks.append((first, machine.mark()))
            ran.append(subject.ran)
        out = outs[-1] + 4.0 * (outs[0] - outs[-1]) if len(outs) > 1 else outs[0]
        x = scheduler.step(out, t, x, return_dict=False)[0]
        del outs, out
        between = max(between, machine.allocated() - before)
    backend.synchronize()
    seconds = time.perf_counter() - started
    passes = [machine.ms(first, last) for first, last in marks]
    gaps = [machine.ms(marks[i][1], marks[i + 1][0]) for i in range(len(marks) - 1)]
    most = max(ran)
    full = [ms for ms, n in zip(passes, ran, strict=True) if n == most and n > 0]
    reused = [ms for ms, n in zip(passes, ran, strict=True) if n < most or n == 0]
    return {
        "steps": steps,
        "seconds_loop": seconds,
        "ran": "".join("C" if n == most and n > 0 else "r" for n in ran),
        "blocks_reused": min(ran),
        # The first full forward of a loop of few may still be choosing algorithms.
        "full_ms": median(full[1:] or full) if full else None,
        "reused_ms": median(reused) if reused else None,
        "gap_ms": sum(gaps) / len(marks),
        "between": between,
        "peak": backend.memory().peak - before,
        "held": before - subject.before,
        "finite": bool(x.isfinite().all()),
    }


# -- who takes part; each is a generator that yields begin()


def _nothing(machine: Machine, subject: Subject, steps: int) -> Iterator[Callable[[], None]]:
    yield lambda: None


def _emptied(machine: Machine, subject: Subject, steps: int) -> Iterator[Callable[[], None]]:
    with subject.emptied():
        yield lambda: None


def fused(machine: Machine, subject: Subject, steps: int) -> Iterator[Callable[[], None]]:
    """Nothing is cached; attention, norms and rotary embeddings are the backend's."""
    with c4d.attention(subject.model, backend=machine.backend):
        yield lambda: None


def both(text: str) -> Attach:
    def attach(machine: Machine, subject: Subject, steps: int) -> Iterator[Callable[[], None]]:
        with contextmanager(fused)(machine, subject, steps):
            yield from ours(text)(machine, subject, steps)

    return attach


def ours(text: str) -> Attach:
    def attach(machine: Machine, subject: Subject, steps: int) -> Iterator[Callable[[], None]]:
        with c4d.cached(subject.model, text, backend=machine.backend) as session:
            yield lambda: session.begin(range(steps))

    return attach


def first_block(threshold: float) -> Attach:
    def attach(machine: Machine, subject: Subject, steps: int) -> Iterator[Callable[[], None]]:
        from diffusers import FirstBlockCacheConfig

        with subject.untouched(), peers.hooks(subject.model, FirstBlockCacheConfig(threshold=threshold)) as begin:
            yield begin

    return attach


def taylorseer_lite(machine: Machine, subject: Subject, steps: int) -> Iterator[Callable[[], None]]:
    with subject.untouched(), peers.hooks(subject.model, peers.taylorseer_config(5, 1, lite=True)) as begin:
        yield begin


def dbcache_(calibrated: bool, **config: Any) -> Attach:
    def attach(machine: Machine, subject: Subject, steps: int) -> Iterator[Callable[[], None]]:
        calibrator = "TaylorSeer 1" if calibrated else None
        cfg = len(subject.size.branches) > 1
        adapter = peers.adapter_of(subject.model, subject.size.stacks, subject.size.pattern)
        with (
            subject.untouched(),
            peers.cache_dit(subject.model, steps, cfg=cfg, calibrator=calibrator, adapter=adapter, **config) as begin,
        ):
            yield begin

    return attach
