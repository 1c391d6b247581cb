"""The page made of the records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench.accelerator import verdicts
from bench.accelerator.records import Record, Records
from bench.accelerator.tables import SECTIONS, cell
from bench.accelerator.verdicts import UNKNOWN, measured

REHEARSAL = "rehearsal with tiny sizes: no figure here means anything"
SAID = {
    "check": "Primitives against double precision",
    "bandwidth": "What caching moves, against a copy",
    "attention": "Attention kernels at the models' shapes",
    "generate": "Clips of the bundled model, from the command line",
    "cards": "Several devices: collectives, sharded attention, the time of its exchanges",
    "flux": "FLUX.1-dev, 1024 x 1024, 50 steps",
    "wan": "Wan 2.1 1.3B, 480 x 832 x 81, 50 guided steps",
    "wan14b": "Wan 2.1 14B, 720 x 1280 x 81, passes with the prompt",
    "hunyuan": "HunyuanVideo, 720 x 1280 x 129, single forwards",
}


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
    lines += [f"| {v.what} | {_bold(v.state)} | {cell(v.detail)} |" for v in verdicts.verdicts(records)]
    for part, said in SAID.items():
        lines += ["", f"## {said}", ""]
        lines += SECTIONS[part](records, part) if measured(records, part) else [f"{UNKNOWN[0].upper()}{UNKNOWN[1:]}."]
        lines += _gaps(records, part)
    return "\n".join([*lines, "", *made_with(stamps, records), *([f"- Records: `{source}`"] if source else [])]) + "\n"


def _bold(state: str) -> str:
    return f"**{state}**" if state == verdicts.MISSED else state


def _gaps(records: Records, part: str) -> list[str]:
    """What of a part is absent or failed, and why."""
    reasons: dict[str, list[str]] = {}
    for (own, case), record in records.items():
        if own == part and (reason := record.get("absent") or record.get("error")):
            reasons.setdefault(("failed: " if "error" in record else f"{UNKNOWN}: ") + reason, []).append(case)
    return [line for reason, names in reasons.items() for line in ("", f"- {', '.join(names)}: {reason}")]


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
