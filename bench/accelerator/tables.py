"""Tables of the page, a part each: of the records that were measured, there is at least one."""

from __future__ import annotations

from bench.accelerator import verdicts
from bench.accelerator.records import Records
from bench.accelerator.verdicts import UNKNOWN, contenders, floor_ms, formula, measured, of_best, share_of_copy

GB = 1e9


def cell(text: str) -> str:
    return text.replace("|", "/")


def _check(records: Records, part: str) -> list[str]:
    lines = ["| case | checked | largest error, as a share of its limit | beyond it |", "|---|---|---|---|"]
    for case, record in measured(records, part).items():
        worst = f"{record['worst']:.3g}" if "worst" in record else ""
        lines.append(f"| {case} | {record['checked']} | {worst} | {cell('; '.join(record['failures'][:3]))} |")
    suites, moved = measured(records, part, "tests/"), measured(records, part, "offload")
    lines += [f"\n`{path}`: {record['said']}" for path, record in suites.items()]
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
                lines.append(f"| {case} {record['shape']} | {name} | {UNKNOWN} | | {cell(row['absent'])} |")
                continue
            note = f" ({record['auto']})" if name == "auto" else " (lossy)" if row.get("lossy") else ""
            rate = record["flop"] / row["ms"] / 1e9
            lines.append(
                f"| {case} {record['shape']} | {name}{note} | {row['ms']:.3f} | {rate:.1f} | {row['error']:.2e} |"
            )
    return lines


def _generate(records: Records, part: str) -> list[str]:
    lines = [
        "`launch/infer.py --compare`, beside the same command with `--backend cpu --dtype float32`: dB between the "
        "saved films (99: the very same pixels). Bytes are the device's allocator's, of the whole process.",
        "",
        "| case | passes computed + reused | cached, dB to the host's | uncached, dB | most held MB "
        "| of that the cache MB | beyond a limit |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, record in measured(records, part).items():
        near, held = record["psnr"], record["peak_bytes"] / 1e6
        lines.append(
            f"| {case} | {record['computed']} + {record['reused']} | {near['cached']:.1f} | {near['uncached']:.1f} "
            f"| {record['peak'] / 1e6:.1f} | {held:.3f} | {cell('; '.join(record['failures']))} |"
        )
    for case, record in measured(records, part).items():
        lines += ["", f"{case}: {'; '.join(record['attention'])}."]
    return lines


def _cards(records: Records, part: str) -> list[str]:
    lines = [
        "Ranks of torchrun, a device each. Times are those of the slowest rank, medians of single exchanges that all "
        "ranks begin together; GB/s is what a rank sends.",
        "",
        "| case | checked | largest error, as a share of its limit | beyond it |",
        "|---|---|---|---|",
    ]
    found = measured(records, part)
    for case, record in found.items():
        if record["checked"]:
            beyond = cell("; ".join(record["failures"][:3]))
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
        "N_reused · t_reused + what lies between the forwards of the uncached loop, whose own share is the control. "
        "`floor`: emptied stacks (on the device; for a method that waits for it in every forward, by the host's clock) "
        "and the bytes of the combination at the copy's bandwidth. Cache: what lives between "
        "steps and does not in the uncached loop; activations: the rest of the peak beyond weights and inputs.",
        "",
        "| | passes full + reused | blocks in a reused forward | full ms | reused ms | reused / floor "
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
