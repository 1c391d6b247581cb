"""Why a cached generation is not faster, in plain sentences; pure logic on what report.json says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

NAMES = {
    "preparing": "reading the prompt",
    "denoising": "removing noise",
    "computed": "computed forwards",
    "reused": "reused forwards",
    "between": "sampler and guidance between the forwards",
    "decoding": "decoding the frames",
}
OUTSIDE = ("preparing", "between", "decoding")  # what no cache of a transformer can shorten
LITTLE = 1.5  # times less work; a smaller speed-up is called small
NEAR = 0.9  # of what the saved work promises: from here on the speed needs no explanation
STILL = "what the method does not cache"
WORTH = 1.1  # times as fast
CLOSER = 1.0  # dB; what one clip cannot decide
BESIDE = ("cached", "fewer_steps")
NOTABLE = 0.1  # of the time, or of a computed forward


def fractions(phases: Mapping[str, float]) -> dict[str, float]:
    """Shares of the whole, together 1."""
    total = sum(phases.values())
    return {name: seconds / total for name, seconds in phases.items()}


def reasons(
    phases: Mapping[str, Mapping[str, float]],
    session: Mapping[str, Any] | None,
    work: Mapping[str, Any] | None,
    speedup: float | None,
    warm: bool,
) -> list[str]:
    """Sentences on why the cached clip was not made faster; none if much work was saved and the speed shows it.

    Args:
        phases: kind -> seconds of each phase (:class:`c4d.pipelines.phases.Stopwatch`); "uncached" beside "cached" if
            both were made.
        session: the session's report, None for an uncached generation, which owes no explanation.
        work: as :func:`c4d.pipelines.compare.work` says.
        speedup: uncached by cached seconds, None without an uncached clip.
        warm: whether an untimed run came before the timed ones.
    """
    if session is None or work is None:
        return []
    found = list(session["why"])
    cold = "one-time costs of a first run count against the cached clip, which is made first"
    if not session["reused"]:
        found = found or [f"{session['method']} computed all {session['computed']} forwards"]
        return found + ([cold] if speedup is not None and not warm else [])
    promised = work["ratio"]
    saved = f"{1 - work['done'] / work['total']:.0%} of the {work['what']}"
    if promised < LITTLE:
        found.append(f"little was skipped: {saved}, which is worth {promised:.2f} times at most")
    if speedup is not None and speedup >= NEAR * promised:
        return found
    found += _outside(phases, saved, promised, "uncached" if speedup is not None else "cached")
    found += _passes(phases, session) if "computed" in phases["cached"] else _denoising(phases, work, saved)
    if speedup is not None and not warm:
        found.append(cold)
    return found


def worth(
    fidelity: Mapping[str, Mapping[str, Any]],
    fewer_steps: int | None,
    work: Mapping[str, Any] | None,
    speedup: float | None,
) -> list[str]:
    """Sentences on whether this setting is worth it, by this one clip; none if nothing is known.

    Args:
        fidelity: kind -> closeness to the uncached clip (:func:`c4d.pipelines.compare.fidelity`), if it was made.
        fewer_steps: how many steps the kind "fewer_steps" has, which computes as much as the cached clip.
        work, speedup: as for :func:`reasons`.
    """
    found = []
    gain = speedup if speedup is not None else work["ratio"] if work else None
    if gain is not None and gain < 1:
        found.append(f"no, it is slower: {gain:.2f} times as fast")
    elif gain is not None and gain < WORTH:
        found.append(f"hardly: it is {gain:.2f} times as fast, and below {WORTH} a cache is hardly worth its error")
    if "fewer_steps" not in fidelity:
        return found
    cached, fewer = closeness(fidelity)
    if found and fewer < cached + CLOSER:
        return found
    other = f"{fewer_steps} plain steps, which compute as much"
    if cached >= fewer + CLOSER or cached == math.inf:
        figures = f"({cached:.1f} dB beside {fewer:.1f})"
        return [f"on this clip, yes: it is closer to the uncached clip {figures} than {other}"]
    figures = f"({fewer:.1f} dB beside {cached:.1f})"
    if fewer >= cached + CLOSER:
        return [
            *found,
            f"on this clip, no: {other}, are closer {figures}; take --steps {fewer_steps}, or another --cache",
        ]
    return [f"undecided: {other}, are as close on this clip {figures}; other prompts and seeds can tell"]


def instead(record: Mapping[str, Any]) -> list[str]:
    """What the figures of ``record`` (report.json) say to try in place of this setting; nothing if they do not."""
    asked, seconds, found = record["asked"], record["timing"]["median"], []
    if (record["timing"]["speedup"] or math.inf) < 1:
        took = f"{seconds['uncached']:.3g} s instead of {seconds['cached']:.3g}"
        found.append(f"--cache none: it took {took}, and is exact")
    if "fewer_steps" not in record["fidelity"]:
        return found
    cached, fewer = closeness(record["fidelity"])
    if fewer >= cached + CLOSER:
        took = f"{seconds['fewer_steps']:.3g} s, {fewer:.1f} dB where the cached clip has {cached:.1f}"
        found.append(f"--steps {record['fewer_steps']} --cache none: {took}")
    if fewer > cached - CLOSER and not (asked["cache"] or "").startswith("profile:"):
        tune = f"c4d tune --model {asked['model']} --prompt-file FILE"
        found.append(
            f"{tune}: it makes a profile, and measures it and other methods beside plain steps on your prompts"
        )
    return found


def closeness(fidelity: Mapping[str, Mapping[str, Any]]) -> tuple[float, float]:
    """PSNR in dB to the uncached clip, of the cached one and of fewer plain steps; infinity if identical."""
    cached, fewer = (math.inf if fidelity[kind]["identical"] else fidelity[kind]["psnr_db"] for kind in BESIDE)
    return cached, fewer


def shares(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Kind of clip, the cached one first, and where its time went."""
    for kind in ("cached", "uncached"):
        if found := record["timing"]["fractions"].get(kind):
            parts = ", ".join(f"{NAMES[name]} {share:.0%}" for name, share in found.items() if share >= 0.005)
            yield kind, parts


def _outside(phases: Mapping[str, Mapping[str, float]], saved: str, promised: float, kind: str) -> list[str]:
    """Amdahl: what else takes time, if it takes a notable part of what the saved work promises."""
    share = fractions(phases[kind])
    others = {name: share[name] for name in OUTSIDE if name in share}
    outside = sum(others.values())
    transformer = 1 - outside
    reachable = 1 / (outside + transformer / promised) if kind == "uncached" else outside + transformer * promised
    if reachable >= NEAR * promised:
        return []
    parts = ", ".join(f"{NAMES[name]} {part:.0%}" for name, part in others.items() if part >= 0.01)
    free = f"even if the transformer cost nothing, the clip would be made at most {1 / outside:.1f} times as fast"
    if kind == "cached":
        return [f"the cache saved {saved}, and now the transformer is {transformer:.0%} of the time ({parts}): {free}"]
    return [
        f"the cache saved {saved}, but without it the transformer is {transformer:.0%} of the time ({parts}): "
        f"what was saved is worth {reachable:.1f} times at most, and {free}"
    ]


def _passes(phases: Mapping[str, Mapping[str, float]], session: Mapping[str, Any]) -> list[str]:
    """What a forward costs, where forwards were timed."""
    computed, reused = (phases["cached"][kind] / session[kind] for kind in ("computed", "reused"))
    found = []
    if reused >= NOTABLE * computed:
        found.append(
            f"a reused forward costs {reused / computed:.0%} of a computed one, for the prediction and {STILL}"
        )
    if plain := phases.get("uncached", {}).get("computed"):
        extra = computed / (plain / (session["computed"] + session["reused"])) - 1
        if extra >= NOTABLE:
            found.append(f"a computed forward takes {extra:.0%} longer with the cache, which measures and stores")
    return found


def _denoising(phases: Mapping[str, Mapping[str, float]], work: Mapping[str, Any], saved: str) -> list[str]:
    """What the steps cost together, where forwards cannot be timed without making the device wait."""
    if "uncached" not in phases:
        return []
    took = phases["cached"]["denoising"] / phases["uncached"]["denoising"]
    if took * NEAR <= work["done"] / work["total"]:
        return []
    return [
        f"removing noise still takes {took:.0%} of its uncached time though {saved} were saved: the rest goes to the "
        f"prediction, the sampler and {STILL}"
    ]
