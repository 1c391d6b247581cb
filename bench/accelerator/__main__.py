"""The parts, one after another, and the page.

    bench/gpu.sh [PART ...]            # check bandwidth attention generate cards flux wan wan14b hunyuan; none: all
    bench/gpu.sh report                # the page, of what is there; needs no accelerator
    bench/gpu.sh --rehearse            # every part on the host with tiny sizes

bench/npu.sh is the same on Ascend NPUs. Every finished case is kept under --out (and under $OUT, if that is set); a
part that is stopped goes on with the cases it lacks. Exit status: 0 done or out of time, 1 a case failed or (report) a
limit is missed, 2 no accelerator or usage.
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

from bench.accelerator import attention, bandwidth, cards, check, generate, loops, page, verdicts
from bench.accelerator.machine import Machine, NoAccelerator
from bench.accelerator.records import Case, Lost, Store, run
from bench.stamp import ROOT
from c4d.backends import AUTO

PARTS: dict[str, Callable[[Machine], list[Case]]] = {
    "check": check.cases,
    "bandwidth": bandwidth.cases,
    "attention": attention.cases,
    "generate": generate.cases,
    "cards": cards.cases,
    **{name: partial(loops.cases, part=name) for name in verdicts.MODELS},
}
REPORT = "report"
SCRIPTS = {"gpu": "cuda", "npu": "ascend"}  # bench/NAME.sh -> the backend that it measures


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    folder = options.out
    elsewhere = Path(os.environ["OUT"]) / folder.name if os.environ.get("OUT") else None
    if elsewhere is not None and elsewhere.resolve() == folder.resolve():
        elsewhere = None
    store = Store(folder, elsewhere)
    parts = [part for part in options.parts if part != REPORT] if options.parts else list(PARTS)
    failed: list[str] = []
    if parts:
        if any(stamp["rehearsal"] != options.rehearse for stamp in store.stamps):
            return refused(
                options, f"{folder} holds {'real figures' if options.rehearse else 'a rehearsal'}: name another --out"
            )
        try:
            machine = Machine.find(options.backend, options.rehearse, folder)
        except NoAccelerator as error:
            return refused(options, str(error))
        stamp = machine.stamp(options.command)
        if any(old["device"] != stamp["device"] for old in store.stamps):
            return refused(options, f"{folder} holds figures of {store.stamps[-1]['device']}: name another --out")
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
        missed = report(options, store, elsewhere)
        return 1 if failed or (missed and not options.rehearse) else 0
    print(f"kept in {folder}; {options.program} report --out {folder} makes the page")
    return 1 if failed else 0


def report(options: argparse.Namespace, store: Store, elsewhere: Path | None) -> bool:
    """Writes the page; True if a limit is missed."""
    folder = options.out
    if not store.stamps:
        raise SystemExit(f"{folder} holds nothing: {options.program} measures first")
    rehearsal = store.stamps[-1]["rehearsal"]
    target = folder / "report.md" if rehearsal else ROOT / "docs/measurements" / page.filename(store.stamps)
    text = page.page(store.stamps, store.cases)
    page.write(text, [target, *([elsewhere / target.name] if elsewhere is not None else [])])
    print(f"wrote {target}")
    return any(verdict.state == verdicts.MISSED for verdict in verdicts.verdicts(store.cases))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; beside them ``program``, what the user called, and ``command``, that with its arguments."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--script", choices=SCRIPTS)
    script, given = first.parse_known_args(given)
    program = f"bench/{script.script}.sh" if script.script else "python -m bench.accelerator"
    measured = SCRIPTS.get(script.script, AUTO)
    parser = argparse.ArgumentParser(
        prog=program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{' '.join(PARTS)}, or {REPORT}")
    kind = script.script or "accelerator"
    parser.add_argument("--out", type=Path, help=f"where finished cases are kept (default out/{kind}-bench)")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="of a part: it starts no case that would last longer"
    )
    parser.add_argument("--again", action="store_true", help="measure what is done already, too")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the host: no figure of it means anything")
    parser.add_argument("--backend", help=f"default {measured}; for a rehearsal cpu, the host")
    options = parser.parse_args(given)
    if unknown := [part for part in options.parts if part not in PARTS and part != REPORT]:
        parser.error(f"unknown part {', '.join(unknown)}: known are {', '.join(PARTS)}, {REPORT}")
    options.backend = options.backend or ("cpu" if options.rehearse else measured)
    if script.script and options.backend != measured and not options.rehearse:
        others = ", ".join(f"bench/{name}.sh on {backend}" for name, backend in SCRIPTS.items())
        parser.error(f"--backend {options.backend}: {others}; for another: python -m bench.accelerator")
    options.out = options.out or ROOT / "out" / f"{kind}-{'rehearsal' if options.rehearse else 'bench'}"
    options.program, options.command = program, shlex.join([*program.split(), *given])
    return options


def refused(options: argparse.Namespace, why: str) -> int:
    print(f"{options.program}: {why}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
