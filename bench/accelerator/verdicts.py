"""What the records say against the limits; pure functions."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import NamedTuple

from bench.accelerator.records import Record, Records

KEPT, MISSED, UNKNOWN = "kept", "MISSED", "not measured"
COPY_SHARE = 0.85  # of the copy's bandwidth, for lincomb
BEST = 1.05  # times what the best alternative takes
REUSED = 1.15  # times embedding, head and the bytes of lincomb
LOOP_SHARE = 0.97  # of the formula's loop, in what the loop takes
RIGHT = {
    "check": "every primitive is within its limit",
    "generate": "the bundled model's clips are those of the host",
    "cards": "ranks exchange what they should, and attend to the whole sequence",
}
FUSED = "c4d attention auto"  # uncached, or with what stands behind it cached
MODELS = ("flux", "wan", "wan14b", "hunyuan")


class Verdict(NamedTuple):
    what: str
    state: str
    detail: str = ""


def verdicts(records: Records) -> list[Verdict]:
    found = [*(right(records, part) for part in RIGHT), copies(records), alternatives(records), best_kernel(records)]
    for model in MODELS:
        found.append(reused(records, model))
    for model in MODELS[:2]:
        found.append(loops(records, model))
    return found


def measured(records: Records, part: str, starts: str = "") -> dict[str, Record]:
    """Case -> record of those of a part that were measured and whose name starts so."""
    return {
        case: record
        for (own, case), record in records.items()
        if own == part and case.startswith(starts) and not {"absent", "error"} & record.keys()
    }


def right(records: Records, part: str) -> Verdict:
    """Of a part whose cases count what they checked and name what was wrong."""
    found = measured(records, part)
    broken = [f"{case}: {record['failures'][0]}" for case, record in found.items() if record["failures"]]
    broken += [f"{case}: {r['error']}" for (own, case), r in records.items() if own == part and "error" in r]
    if not found and not broken:
        return Verdict(RIGHT[part], UNKNOWN)
    return Verdict(RIGHT[part], MISSED if broken else KEPT, "; ".join(broken) or f"{len(found)} cases")


def share_of_copy(record: Record, name: str = "c4d") -> float:
    """Bytes moved in a second, as a share of what a copy moves."""
    ms: dict[str, float] = record["ms"]
    return (record["traffic"] / ms[name]) / (2 / ms["copy"])


def of_best(record: Record) -> tuple[float, str]:
    """c4d's time in times of the best alternative, and who that is."""
    ms = record["ms"]
    others = {name: value for name, value in ms.items() if name != "copy" and not name.startswith("c4d")}
    best = min(others, key=lambda name: others[name])
    return ms["c4d"] / others[best], best


def copies(records: Records) -> Verdict:
    def share(record: Record) -> tuple[float, str]:
        return share_of_copy(record), ""

    return _worst(
        f"lincomb moves at least {COPY_SHARE} of a copy's bandwidth",
        measured(records, "bandwidth", "lincomb"), share, lambda value: value >= COPY_SHARE, min,
    )  # fmt: skip


def alternatives(records: Records) -> Verdict:
    return _worst(
        f"lincomb takes at most {BEST} of the best alternative",
        measured(records, "bandwidth", "lincomb"), of_best, lambda value: value <= BEST, max,
    )  # fmt: skip


def best_kernel(records: Records) -> Verdict:
    def ratio(record: Record) -> tuple[float, str]:
        exact = {n: row["ms"] for n, row in record["kernels"].items() if row.get("ms") and not row.get("lossy")}
        if not exact:
            return float("inf"), "no kernel that could"
        best = min(exact, key=lambda name: exact[name])
        return exact.get("auto", float("inf")) / exact[best], best

    what = f'attention "auto" takes at most {BEST} of the best exact kernel'
    return _worst(what, measured(records, "attention"), ratio, lambda value: value <= BEST, max)


def _worst(
    what: str,
    found: dict[str, Record],
    figure: Callable[[Record], tuple[float, str]],
    good: Callable[[float], bool],
    pick: Callable[..., str],
) -> Verdict:
    if not found:
        return Verdict(what, UNKNOWN)
    values = {case: figure(record) for case, record in found.items()}
    bad = [case for case, (value, _) in values.items() if not good(value)]
    worst = pick(values, key=lambda case: values[case][0])
    value, beside = values[worst]
    detail = f"worst {value:.3f}, {worst}" + (f", beside {beside}" if beside else "")
    if bad:
        return Verdict(what, MISSED, f"{len(bad)} of {len(values)} cases; {detail}")
    return Verdict(what, KEPT, f"{len(values)} cases; {detail}")


# -- loops


def contenders(records: Records, model: str) -> dict[str, Record]:
    """Name -> the medians of its rounds."""
    rounds: dict[str, list[Record]] = {}
    for record in measured(records, model).values():
        rounds.setdefault(record["contender"], []).append(record)
    return {name: _middle(own) for name, own in rounds.items()}


def _middle(own: list[Record]) -> Record:
    merged = dict(own[0], rounds=len(own))
    for key in ("seconds_loop", "full_ms", "reused_ms", "gap_ms"):
        values = [record[key] for record in own if record[key] is not None]
        merged[key] = median(values) if values else None
    return merged


def floor_ms(found: dict[str, Record], name: str) -> float | None:
    """Embedding and head, and the bytes that c4d's combination moves, at the copy's bandwidth.

    On the device, or for a method that waits for it in every forward, by the clock of the host that launches them.
    """
    emptied = found.get("stacks emptied")
    if emptied is None or "features" not in found[name]:
        return None
    traffic = (found[name]["features"] + 1) * emptied["hidden"]
    alone = emptied["reused_ms" if found[name].get("waits") else "device_ms"]
    return float(alone + traffic / emptied["bandwidth"] * 1e3)


def reused(records: Records, model: str) -> Verdict:
    what = f"{model}: a forward reused at the stack takes at most {REUSED} of embedding, head and the bytes combined"
    found, parts, worst = contenders(records, model), list[str](), 0.0
    for name, record in found.items():
        floor = floor_ms(found, name)
        # A forward that ran a block (to measure it) is not one that runs embedding and head alone.
        if not name.startswith("c4d") or floor is None or record["reused_ms"] is None or record["blocks_reused"]:
            continue
        share = record["reused_ms"] / floor
        worst = max(worst, share)
        parts.append(f"{name} {share:.3f}")
    if not parts:
        return Verdict(what, UNKNOWN)
    return Verdict(what, KEPT if worst <= REUSED else MISSED, "; ".join(parts))


def formula(found: dict[str, Record], name: str) -> float | None:
    """Seconds of N_full · t_full + N_reused · t_reused, and what lies between the forwards of the uncached loop.

    t_full is that of the uncached loop with the same kernels of attention.
    """
    plain, own = found.get(FUSED if name.startswith(FUSED) else "uncached"), found[name]
    if plain is None or plain["full_ms"] is None:
        return None
    full, reused_ = own["ran"].count("C"), own["ran"].count("r")
    if reused_ and own["reused_ms"] is None:
        return None
    ms = full * plain["full_ms"] + reused_ * (own["reused_ms"] or 0.0) + len(own["ran"]) * plain["gap_ms"]
    return float(ms / 1e3)


def loops(records: Records, model: str) -> Verdict:
    what = f"{model}: the formula's loop is at least {LOOP_SHARE} of c4d's"
    found, parts, worst = contenders(records, model), list[str](), 1e9
    for name, record in found.items():
        whole = "uncached" in found and record["steps"] == found["uncached"]["steps"]
        if whole and name.startswith("c4d") and (seconds := formula(found, name)) is not None:
            share = seconds / record["seconds_loop"]
            worst = min(worst, share)
            parts.append(f"{name} {share:.3f}")
    if not parts:
        return Verdict(what, UNKNOWN)
    return Verdict(what, KEPT if worst >= LOOP_SHARE else MISSED, "; ".join(parts))
