"""What a session did: one entry a forward, and the report made of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from c4d.core.caching.rules import GuidanceRule, Rule
from c4d.core.runtime.guidance import PAIRS
from c4d.core.types import Action, RelativeL1, Signal, Step


class Entry(NamedTuple):
    """One forward: its run (0, 1, ...), where it stood, what each rule did, host seconds inside it.

    ``blocks`` were entered; of ``modules`` cached inside them ``modules_reused`` were forecast.

    ``actions`` has one action per rule of the method, without that of ``guidance``, which is None but for calls without
    condition; one that it spared has no others. ``seconds`` are host time without a device synchronisation: the
    full cost on a CPU, the time to launch the work on an asynchronous device. ``seen`` are the changes it measured;
    ``restarted`` says that its inputs had another shape, dtype or device than the branch's last, so that it began anew.
    ``weighed`` has for each rule the number that its policy compared with its threshold (:meth:`c4d.Policy.weigh`),
    None where the step was decided without one; ``noise`` is the noise level (0 to 1), None where the host lacks it.
    Of the ``tokens`` that came to modules that can compute some of them, counted at each, ``tokens_computed`` were.
    """

    run: int
    step: Step
    actions: tuple[Action, ...]
    blocks: int
    modules: int
    modules_reused: int
    seconds: float
    seen: Mapping[Signal, RelativeL1]
    restarted: bool
    weighed: tuple[float | None, ...] = ()
    noise: float | None = None
    guidance: Action | None = None
    tokens: int = 0
    tokens_computed: int = 0

    @property
    def partial(self) -> bool:
        """Whether some of the tokens were computed."""
        return Action.PARTIAL in self.actions and self.guidance is not Action.REUSE

    @property
    def computed(self) -> bool:
        ran = Action.COMPUTE in self.actions or not self.actions
        return ran and self.guidance is not Action.REUSE and not self.partial

    @property
    def did(self) -> str:
        """ "C": it was computed; "r": all that is cached was reused; "p": only some of the modules were, or tokens."""
        if self.partial:
            return "p"
        if not self.computed or 0 < self.modules == self.modules_reused:
            return "r"
        return "p" if self.modules_reused else "C"

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, ready for JSON; a weighed value is a number, "inf" or "nan" as text, or None."""
        weighed = [x if x is None or math.isfinite(x) else str(x) for x in self.weighed]
        where = {"branch": self.step.branch, "expert": self.step.expert, "step": self.step.index, "noise": self.noise}
        return {**where, "did": self.did, "weighed": weighed, "seconds": self.seconds}


def timeline(entries: Sequence[Entry]) -> dict[str, str]:
    """Branch -> "CCrpC": C a forward where anything was computed in full, p one that computed some of the tokens, r one
    where every rule reused; experts by "|"."""
    lines: dict[str, str] = {}
    expert: dict[str, int] = {}
    for entry in entries:
        branch = entry.step.branch
        if expert.setdefault(branch, entry.step.expert) != entry.step.expert:
            lines[branch] += "|"
            expert[branch] = entry.step.expert
        lines[branch] = lines.get(branch, "") + ("C" if entry.computed else "p" if entry.partial else "r")
    return lines


def why(rules: Sequence[Rule], entries: Sequence[Entry], kinds: Collection[str]) -> tuple[str, ...]:
    """Sentences on what kept the forwards of one run from being reused, and on what had no effect; none if nothing did.

    ``kinds`` are the sites that the models have.
    """
    sentences = []
    broken = [e for e in entries if any(not change.finite for change in e.seen.values())]
    if broken:
        sentences.append(f"{len(broken)} of {len(entries)} forwards measured NaN or infinity; each was computed")
    anew = [e for e in entries if e.restarted]
    if anew:
        sentences.append(
            f"{len(anew)} of {len(entries)} forwards had inputs of another shape or dtype than the last on their "
            "branch and began anew"
        )
    first = {(e.step.branch, e.step.expert): e for e in reversed(entries)}.values()
    bound = {id(e) for e in (*broken, *anew, *first)}
    free = [e for e in entries if id(e) not in bound]
    measured = [(e.step, e.seen) for e in free if e.seen]
    explained = not free and (broken or anew)
    for i, rule in enumerate(rules if entries else ()):
        policy, total = rule.policy, entries[-1].step.total
        if remark := policy.remark(total):
            sentences.append(remark)
        guided = isinstance(rule, GuidanceRule)
        actions = [e.guidance if guided else e.actions[i] for e in entries if guided or e.actions]
        if guided and not any(actions):
            called = ", ".join(sorted({e.step.branch for e in entries}))
            sentences.append(f"no call was spared: none was named {' or '.join(PAIRS)} (there were {called})")
        elif not explained and not {Action.REUSE, Action.PARTIAL} & set(actions):
            reason = policy.idle(total, measured)
            where = ", ".join(site for site in rule.sites if guided or site in kinds)
            sentences.append(f"nothing was reused at {where}: {reason}")
    return tuple(sentences)


def scales(rules: Sequence[Rule]) -> tuple[dict[str, Any], ...]:
    """What each rule weighs, in plain types."""
    of = [rule.policy.scale for rule in rules]
    nothing = {"what": None, "threshold": None}
    return tuple(
        {"sites": list(rule.sites), **(scale._asdict() if scale else nothing)}
        for rule, scale in zip(rules, of, strict=True)
    )


@dataclass(frozen=True)
class Report:
    """A session in numbers. Counts and timelines are those of the last run; ``runs`` counts all.

    ``blocks_entered`` of ``blocks_total`` (block calls of an uncached run), ``modules_reused`` of the ``modules_total``
    calls of cached modules (0 for methods of the whole forward), ``tokens_computed`` of the ``tokens_total`` that came
    to modules which can compute some of them (0 for other methods; forwards that compute some count as reused),
    ``peak_bytes`` held by histories and signals, ``device_bytes`` those of them that are not kept on the host,
    ``host_reads`` (waits for the device made to decide) and ``nonfinite`` measurements of the session, ``seconds`` of
    host time inside computed and reused forwards, ``why`` sentences on what kept them from it, ``chosen`` why it is
    this method, if nobody said which. ``forwards`` are the last run's, one by one (:meth:`Entry.to_dict`), and
    ``rules`` say for each of their weighed values its ``sites``, ``what`` it is and the ``threshold`` that it was
    compared with (None: the rule decides by no number).
    """

    method: str
    transformers: tuple[str, ...]
    backend: str
    runs: int
    timelines: dict[str, str]
    computed: int
    reused: int
    blocks_entered: int
    blocks_total: int
    modules_reused: int
    modules_total: int
    peak_bytes: int
    device_bytes: int
    host_reads: int
    nonfinite: int
    seconds: dict[str, float]
    why: tuple[str, ...]
    chosen: str | None = None
    rules: tuple[dict[str, Any], ...] = ()
    tokens_computed: int = 0
    tokens_total: int = 0
    forwards: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, ready for JSON."""
        return {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(self).items()}

    def __str__(self) -> str:
        passes = self.computed + self.reused
        if not passes:
            return f"{self.method} on {', '.join(self.transformers)}: no forward yet"
        blocks = (
            f"{self.blocks_entered} of {self.blocks_total} blocks entered" if self.blocks_total else "at its output"
        )
        lines = [
            f"{self.method} on {', '.join(self.transformers)} ({self.backend} backend), run {self.runs}",
            f"  forwards {self.computed} computed, {self.reused} reused of {passes}; {blocks}",
            *([f"  modules  {self.modules_reused} of {self.modules_total} reused"] if self.modules_total else []),
            *([f"  tokens   {self.tokens_computed} of {self.tokens_total} computed"] if self.tokens_total else []),
            f"  held     {self.peak_bytes / 2**20:.2f} MiB at most; the host waited {self.host_reads} times to decide",
            f"  seconds  {self.seconds['computed']:.3f} in computed forwards, {self.seconds['reused']:.3f} in reused",
        ]
        lines += [f"  chosen   {self.chosen}"] if self.chosen else []
        lines += [f"  note     {sentence}" for sentence in self.why]
        lines += [f"  {branch:<8} {line}" for branch, line in self.timelines.items()]
        return "\n".join(lines)
