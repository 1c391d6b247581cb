"""The page made of the records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench.accelerator import verdicts
from bench.accelerator.records import Record, Records
from bench.accelerator.verdicts import UNKNOWN, contenders, floor_ms, formula, measured, of_best, share_of_copy

REHEARSAL = "rehearsal with tiny sizes: no figure here means anything"
SAID = {
    "check": "Primitives against double precision",
    "bandwidth": "What caching moves, against a copy",
    "attention": "Attention kernels at the models' shapes",
    "generate": "Clips of the embedded model, from the command line",
    "cards": "Several devices: collectives, sharded attention, the time of its exchanges",
    "flux": "FLUX.1-dev, 1024 x 1024, 50 steps",
    "wan": "Wan 2.1 1.3B, 480 x 832 x 81, 50 guided steps",
    "wan14b": "Wan 2.1 14B, 720 x 1280 x 81, passes with the prompt",
    "hunyuan": "HunyuanVideo, 720 x 1280 x 129, single passes",
}
GB = 1e9


def title(stamps: Sequence[Record]) -> str:
    device = stamps[-1]["device"].split(",")[0] if stamps else "an accelerator"
    if stamps and stamps[-1]["rehearsal"]:
        return f"Measurements on an accelerator ({REHEARSAL})"
    return f"Measurements on {device}"


def filename(stamps: Sequence[Record]) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", stamps[-1]["device"].split(",")[0].lower()).strip("-")
    return f"{slug or 'device'}-{stamps[-1]['date']}.md"


def page(stamps: Sequence[Record], records: Records, source: str = "") -> str:
    lines = [f"# {title(stamps)}", ""]
    lines += ["## Limits", "", "| limit | | |", "|---|---|---|"]
    lines += [f"| {v.what} | {_bold(v.state)} | {_cell(v.detail)} |" for v in verdicts.verdicts(records)]
    for part, said in SAID.items():
        lines += ["", f"## {said}", ""]
        lines += SECTIONS[part](records, part) if measured(records, part) else [f"{UNKNOWN[0].upper()}{UNKNOWN[1:]}."]
        lines += _gaps(records, part)
    return "\n".join([*lines, "", *made_with(stamps, records), *([f"- Records: `{source}`"] if source else [])]) + "\n"


def _bold(state: str) -> str:
    return f"**{state}**" if state == verdicts.MISSED else state


def _cell(text: str) -> str:
    return text.replace("|", "/")


def _gaps(records: Records, part: str) -> list[str]:
    """What of a part is absent or failed, and why."""
    reasons: dict[str, list[str]] = {}
    for (own, case), record in records.items():
        if own == part and (reason := record.get("absent") or record.get("error")):
            reasons.setdefault(("failed: " if "error" in record else f"{UNKNOWN}: ") + reason, []).append(case)
    return [line for reason, names in reasons.items() for line in ("", f"- {', '.join(names)}: {reason}")]


def _check(records: Records, part: str) -> list[str]:
    lines = ["| case | checked | largest error, as a share of its limit | beyond it |", "|---|---|---|---|"]
    for case, record in measured(records, part).items():
        worst = f"{record['worst']:.3g}" if "worst" in record else ""
        lines.append(f"| {case} | {record['checked']} | {worst} | {_cell('; '.join(record['failures'][:3]))} |")
    suite, moved = measured(records, part, "tests/backends"), measured(records, part, "offload")
    lines += [f"\n`tests/backends`: {record['said']}" for record in suite.values()]
    for record in moved.values():
        if "hidden" in record:
            lines.append(
                f"\nA copy of {record['bytes'] / GB:.2f} GB to the host takes {record['copy_ms']:.2f} ms, arithmetic "
                f"{record['arithmetic_ms']:.2f} ms, both together {record['both_ms']:.2f} ms: "
                f"{record['hidden']:.0%} of the shorter is hidden."
            )
    return lines


def _bandwidth(records: Records, part: str) -> list[str]:
    lines = [
        "TB/s of bytes that must move: K features give (K + 1) times a feature's bytes in `lincomb`, two in a copy, "
        "in `change` and in `norm_rotary`. Medians of rounds in which all take turns; calls are queued behind other "
        "work, so that the host's time to launch them (beside it, in µs) is not in them; tensors rotate past the "
        "device's last cache.",
    ]
    for kind in ("lincomb", "change", "norm_rotary"):
        found = measured(records, part, kind)
        if not found:
            continue
        names = list(dict.fromkeys(name for record in found.values() for name in record["ms"]))
        lines += [
            "",
            f"| {kind} | MB | {' | '.join(names)} | share of copy | of the best other | host µs: c4d, eager |",
        ]
        lines += ["|---" * (len(names) + 5) + "|"]
        for case, record in found.items():
            speed = []
            for name in names:
                traffic = 2 if name == "copy" else record["traffic"]
                ms = record["ms"].get(name)
                speed.append("" if ms is None else f"{traffic * record['bytes'] / ms / 1e9:.3f}")
            times, best = of_best(record)
            host = record["host_us"]
            lines.append(
                f"| {case.partition(' ')[2] if kind == 'lincomb' else case} | {record['bytes'] / 1e6:.1f} | "
                f"{' | '.join(speed)} | {share_of_copy(record):.3f} | {times:.3f} ({best}) | "
                f"{host['c4d']:.1f}, {host['eager']:.1f} |"
            )
        lacking: dict[tuple[str, str], list[str]] = {}
        for case, record in found.items():
            for reason in record.get("without", {}).items():
                lacking.setdefault(reason, []).append(case)
        for (name, reason), without in lacking.items():
            lines += ["", f"- {name}: {UNKNOWN} in {', '.join(without)}: {reason}"]
    for case, record in measured(records, part, "sweep").items():
        best = min(record["ms"], key=lambda name: record["ms"][name])
        chosen = record["chosen"]
        ordered = sorted(record["ms"].items(), key=lambda point: point[1])[:5]
        points = ", ".join(f"{name} {ms * 1e3:.1f}" for name, ms in ordered)
        lines += [
            "",
            f"{case}, µs, the best of {len(record['ms'])}: {points}. Chosen: {chosen}, "
            f"{record['ms'][chosen] / record['ms'][best]:.3f} of the best, {best}.",
        ]
    return lines


def _attention(records: Records, part: str) -> list[str]:
    lines = [
        "bf16, all kernels in turns. Errors are relative, in the Euclidean norm, against double precision, for "
        "queries spread over the sequence.",
        "",
        "| shape [B, S, H, D] | kernel | ms | TFLOP/s | error |",
        "|---|---|---|---|---|",
    ]
    for case, record in measured(records, part).items():
        for name, row in record["kernels"].items():
            if "ms" not in row:
                lines.append(f"| {case} {record['shape']} | {name} | {UNKNOWN} | | {_cell(row['absent'])} |")
                continue
            note = f" ({record['auto']})" if name == "auto" else " (lossy)" if row.get("lossy") else ""
            rate = record["flop"] / row["ms"] / 1e9
            lines.append(
                f"| {case} {record['shape']} | {name}{note} | {row['ms']:.3f} | {rate:.1f} | {row['error']:.2e} |"
            )
    return lines


def _generate(records: Records, part: str) -> list[str]:
    lines = [
        "`launch/infer.py --compare`, beside the same command with `--backend cpu --dtype float32`: dB between the saved "
        "films (99: the very same pixels). Bytes are the device's allocator's, of the whole process.",
        "",
        "| case | passes computed + reused | cached, dB to the host's | uncached, dB | most held MB | of that the cache MB "
        "| beyond a limit |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, record in measured(records, part).items():
        near, held = record["psnr"], record["peak_bytes"] / 1e6
        lines.append(
            f"| {case} | {record['computed']} + {record['reused']} | {near['cached']:.1f} | {near['uncached']:.1f} "
            f"| {record['peak'] / 1e6:.1f} | {held:.3f} | {_cell('; '.join(record['failures']))} |"
        )
    for case, record in measured(records, part).items():
        lines += ["", f"{case}: {'; '.join(record['attention'])}."]
    return lines


def _cards(records: Records, part: str) -> list[str]:
    lines = [
        "Ranks of torchrun, a device each; nothing is generated on several yet. Times are those of the slowest rank, "
        "medians of single exchanges that all ranks begin together; GB/s is what a rank sends.",
        "",
        "| case | checked | largest error, as a share of its limit | beyond it |",
        "|---|---|---|---|",
    ]
    found = measured(records, part)
    for case, record in found.items():
        if record["checked"]:
            beyond = _cell("; ".join(record["failures"][:3]))
            lines.append(f"| {case} | {record['checked']} | {record['worst']:.3g} | {beyond} |")
    lines += ["", "| exchange, bf16 | ranks | MB a rank sends | ms | GB/s |", "|---|---|---|---|---|"]
    for record in found.values():
        for name, time in record["times"].items():
            cells = f"{time['sent'] / 1e6:.1f} | {time['ms']:.3f} | {time['gb_s']:.1f}"
            lines.append(f"| {name} | {record['ranks']} | {cells} |")
    return lines


def _model(records: Records, part: str) -> list[str]:
    found = contenders(records, part)
    plain, few = found.get("uncached"), next(iter(found.values()))["few"]
    lines = [
        "Random weights in the published configuration, no text encoder, no decoder; flow-matching Euler; one model, "
        "contenders in turns. Passes are timed on the device. Thresholds see a random model: how many steps they "
        "reuse says nothing about a trained one; 1e9 reuses whatever it can. `formula`: N_full · t_full (uncached) + "
        "N_reused · t_reused + what lies between the passes of the uncached loop, whose own share is the control. "
        "`floor`: emptied stacks (on the device; for a method that waits for it in every pass, by the host's clock) "
        "and the bytes of the combination at the copy's bandwidth. Cache: what lives between "
        "steps and does not in the uncached loop; activations: the rest of the peak beyond weights and inputs.",
        "",
        "| | passes full + reused | blocks in a reused pass | full ms | reused ms | reused / floor "
        + ("" if few else "| loop s | speed-up | formula / loop ")
        + "| cache GB | activations GB |",
        "|---" * (8 if few else 11) + "|",
    ]
    for name, record in found.items():
        floor = None if record["blocks_reused"] else floor_ms(found, name)  # a block that was run is not in it
        seconds = formula(found, name)
        cache = None if plain is None else max(0, record["between"] - plain["between"])
        cells = [
            name,
            f"{record['ran'].count('C')} + {record['ran'].count('r')}",
            f"{record['blocks_reused']} of {record['blocks']}",
            _number(record["full_ms"]),
            _number(record["reused_ms"]),
            _number(record["reused_ms"] and floor and record["reused_ms"] / floor),
        ]
        if not few and plain is not None and record["steps"] != plain["steps"]:
            cells += ["", "", ""]
        elif not few:
            cells += [
                _number(record["seconds_loop"]),
                _number(plain and plain["seconds_loop"] / record["seconds_loop"]),
                _number(seconds and seconds / record["seconds_loop"]) if name != "stacks emptied" else "",
            ]
        cells += [_number(cache and cache / GB), _number((record["peak"] - (cache or 0)) / GB)]
        lines.append("| " + " | ".join(cells) + " |")
    one, rounds = next(iter(found.values())), sorted({record["rounds"] for record in found.values()})
    lines += ["", f"Medians of {' or '.join(map(str, rounds))} round(s)."]
    lines += ["", f"Weights {one['weights'] / GB:.2f} GB; weights, buffers and inputs {one['held'] / GB:.2f} GB."]
    if odd := [name for name, record in found.items() if not record["finite"]]:
        lines.append(f"Results that are not finite: {', '.join(odd)}.")
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


SECTIONS = {
    "check": _check,
    "bandwidth": _bandwidth,
    "attention": _attention,
    "generate": _generate,
    "cards": _cards,
    **dict.fromkeys(verdicts.MODELS, _model),
}


def made_with(stamps: Sequence[Record], records: Records) -> list[str]:
    """Every set of versions that records of this page were made with, those of one set once."""
    used = sorted({record["stamp"] for record in records.values() if record.get("stamp", -1) >= 0})
    kept = [stamps[i] for i in used] or list(stamps[-1:])
    lines = []
    for label, key in (("Command", "command"), ("Device", "device"), ("Driver", "driver"), ("Host", "host")):
        lines.append(f"- {label}: {'; '.join(dict.fromkeys(str(stamp[key]) for stamp in kept))}")
    if settings := dict.fromkeys(stamp["settings"] for stamp in kept if stamp.get("settings")):
        lines.append(f"- Settings: {'; '.join(settings)}")
    said = dict.fromkeys(", ".join(f"{name} {v}" for name, v in stamp["versions"].items()) for stamp in kept)
    commits = dict.fromkeys(f"{stamp['commit']} (sources {stamp['source']})" for stamp in kept)
    lines += [f"- Versions: {'; '.join(said)}", f"- Commit: {'; '.join(commits)}"]
    return [*lines, f"- Date: {'; '.join(dict.fromkeys(stamp['date'] for stamp in kept))}"]


def write(text: str, places: Sequence[Path]) -> None:
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
