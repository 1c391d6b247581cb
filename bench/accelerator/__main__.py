"""The parts, one after another, and the page.

    bench/gpu.sh [PART ...]            # check bandwidth attention flux wan wan14b hunyuan; none: all
    bench/gpu.sh report                # the page, of what is there; needs no accelerator
    bench/gpu.sh --rehearse            # every part on the host with tiny sizes

Every finished case is kept under --out (and under $OUT, if that is set); a part that is stopped goes on with the cases
it lacks. Exit status: 0 done or out of time, 1 a case failed or (report) a limit is missed, 2 no accelerator or usage.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from bench.accelerator import attention, bandwidth, check, loops, page, verdicts
from bench.accelerator.machine import Machine, NoAccelerator
from bench.accelerator.records import Case, Lost, Store, run
from bench.stamp import ROOT

PARTS: dict[str, Callable[[Machine], list[Case]]] = {
    "check": check.cases,
    "bandwidth": bandwidth.cases,
    "attention": attention.cases,
    **{name: partial(loops.cases, part=name) for name in verdicts.MODELS},
}
REPORT = "report"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    default = ROOT / "out" / ("gpu-rehearsal" if options.rehearse else "gpu-bench")
    folder = default if options.out is None else options.out
    elsewhere = Path(os.environ["OUT"]) / folder.name if os.environ.get("OUT") else None
    if elsewhere is not None and elsewhere.resolve() == folder.resolve():
        elsewhere = None
    store = Store(folder, elsewhere)
    parts = [part for part in options.parts if part != REPORT] if options.parts else list(PARTS)
    failed: list[str] = []
    if parts:
        if any(stamp["rehearsal"] != options.rehearse for stamp in store.stamps):
            return refused(
                f"{folder} holds {'real figures' if options.rehearse else 'a rehearsal'}: name another --out"
            )
        try:
            machine = Machine.find(options.rehearse)
        except NoAccelerator as error:
            return refused(str(error))
        stamp = machine.stamp(shlex.join(["bench/gpu.sh", *(sys.argv[1:] if arguments is None else arguments)]))
        if any(old["device"] != stamp["device"] for old in store.stamps):
            return refused(f"{folder} holds figures of {store.stamps[-1]['device']}: name another --out")
        store.add({"stamp": stamp})
        torch.set_grad_enabled(False)
        try:
            for part in parts:
                cases = PARTS[part](machine)
                failed += run(part, cases, store, options.minutes * 60, machine.answers, options.again)[1]
                machine.release()
        except Lost as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            torch.set_grad_enabled(True)
    if options.rehearse or REPORT in options.parts:
        missed = report(store, folder, elsewhere)
        return 1 if failed or (missed and not options.rehearse) else 0
    print(f"kept in {folder}; bench/gpu.sh report --out {folder} makes the page")
    return 1 if failed else 0


def report(store: Store, folder: Path, elsewhere: Path | None) -> bool:
    """Writes the page; True if a limit is missed."""
    if not store.stamps:
        raise SystemExit(f"{folder} holds nothing: bench/gpu.sh measures first")
    rehearsal = store.stamps[-1]["rehearsal"]
    target = folder / "report.md" if rehearsal else ROOT / "docs/measurements" / page.filename(store.stamps)
    text = page.page(store.stamps, store.cases)
    page.write(text, [target, *([elsewhere / target.name] if elsewhere is not None else [])])
    print(f"wrote {target}")
    return any(verdict.state == verdicts.MISSED for verdict in verdicts.verdicts(store.cases))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{' '.join(PARTS)}, or {REPORT}")
    parser.add_argument("--out", type=Path, help="where finished cases are kept (default out/gpu-bench)")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="of a part: it starts no case that would last longer"
    )
    parser.add_argument("--again", action="store_true", help="measure what is done already, too")
    parser.add_argument("--rehearse", action="store_true", help="on the host, tiny: no figure of it means anything")
    options = parser.parse_args(arguments)
    if unknown := [part for part in options.parts if part not in PARTS and part != REPORT]:
        parser.error(f"unknown part {', '.join(unknown)}: known are {', '.join(PARTS)}, {REPORT}")
    return options


def refused(why: str) -> int:
    print(f"bench/gpu.sh: {why}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
