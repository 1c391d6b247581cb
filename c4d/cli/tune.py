"""``c4d tune``: a profile of a model, how it does on prompts that it did not learn from, and what to take."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.pipeline import besides
from c4d.calibrate.tune import COMPUTED, SAMPLES, tune
from c4d.cli.command import Plan, check_alike, load, prepare
from c4d.cli.options import Options, Shared, TuneOptions
from c4d.cli.signals import Stops
from c4d.core.caching.profile import Profile, ProfileError
from c4d.core.caching.profiles import folder, found
from c4d.pipelines import (
    InputError,
    Request,
    call_arguments,
    effective,
    exclusive_lock,
    memory_explained,
)
from c4d.pipelines.output import write_json
from c4d.pipelines.tuning import (
    PLAIN,
    PROFILE,
    Contender,
    Measured,
    Row,
    beside,
    draw,
    fewest,
    front,
    measure,
    most,
    others,
    table,
    to_json,
)

WORK, ROWS, FRONT = ".work", "measured-0.jsonl", ".front.json"
MOST = 8  # prompts that a profile is fitted to without a search, and that are measured on, unless somebody says it
LEARNED = (24, 20, 17, 14, 12, 10, 8)  # for a target in dB


def run(options: TuneOptions, stops: Stops, told: Callable[[str], None] | None = None) -> None:
    """Makes the profile, measures it, and says what to take. ``told`` is given the lines of its progress in place of
    the terminal, and what it raises ends the search."""
    check(options)
    with as_input_errors():
        begin = None if options.begin is None else found(options.begin)
    out = place_of(options)
    work = out.with_suffix(WORK)
    plan = prepare(options.parts_of(Options, cache=None, out=work), stops)
    stops.check()
    refuse_existing(out, options.overwrite)
    check_alike(plan.requests, "c4d tune")
    learning, held = split(options, plan.requests)
    plan.job.first(partial(work.mkdir, parents=True, exist_ok=True))
    with ExitStack() as until_done, memory_explained(plan.backend, plan.settings):
        plan.job.first(lambda: until_done.enter_context(exclusive_lock(work)))
        pipe, _, ranks = load(options, plan, plan.requests, [], until_done)
        pipe.set_progress_bar_config(disable=True)
        steps = effective(pipe, learning[0])["num_inference_steps"]
        counts = computed(options, steps)
        tell = told or teller(options, plan, "tune")
        call = besides(call_arguments(pipe, learning[0]))
        with as_input_errors():
            profile = tune(
                pipe,
                prompts=[request.prompt for request in learning],
                computed=counts,
                minutes=options.minutes,
                begin=begin,
                seed=learning[0].seed,
                work=work / f"rank-{plan.job.rank}" if plan.job.world > 1 else work,
                about={"model": options.model, "dtype": plan.settings.dtype, "backend": plan.backend.name}
                | plan.settings.of_model(),
                progress=tell,
                **call,
            )
        rows, chosen = compared(pipe, held, profile, counts, steps, options, plan, ranks, work, tell)
        if plan.job.rank == 0:
            finish(options, out, profile, rows, chosen, held, steps)
            shutil.rmtree(work, ignore_errors=True)
    plan.job.end()


def place_of(options: TuneOptions) -> Path:
    """The file of the profile; beside it, with the suffixes ``WORK`` and ``FRONT``, what is kept meanwhile, and the
    figures."""
    return options.out or folder() / f"{Path(options.model).name}.json"


def check(options: TuneOptions) -> None:
    """Raises :class:`InputError` for goals that contradict each other or are out of range."""
    goals = {
        "--computed": options.computed,
        "--target-speedup": options.target_speedup,
        "--target-psnr": options.target_psnr,
    }
    given = [name for name, value in goals.items() if value is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} are two goals; keep one")
    if options.target_speedup is not None and not options.target_speedup > 1.0:
        raise InputError(f"--target-speedup is {options.target_speedup!r}; allowed are numbers above 1")
    if options.minutes < 0:
        raise InputError(f"--minutes is {options.minutes!r}; allowed are numbers from 0")
    for name, value in (("--samples", options.samples), ("--held-out", options.held_out)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value!r}; allowed are whole numbers from 1")


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Raises :class:`InputError` for a file that is there and may not be replaced."""
    if out.exists() and not overwrite:
        raise InputError(f"{str(out)!r} is there already: name another --out, or make it again with --overwrite")


def split(options: TuneOptions, requests: Sequence[Request]) -> tuple[list[Request], list[Request]]:
    """Those to learn from, and those to measure on. Raises :class:`InputError` if there are not enough."""
    if len(requests) < 2:
        raise InputError(
            "a profile is learned from some prompts and measured on others: give --prompt-file with two or more"
        )
    samples = options.samples or min(SAMPLES if options.minutes else MOST, len(requests) // 2)
    held = requests[samples:][: options.held_out or MOST]
    if not held:
        raise InputError(f"--samples {samples} of {len(requests)} prompts leave none to measure on: take fewer")
    return list(requests[:samples]), list(held)


def computed(options: TuneOptions, steps: int) -> tuple[int, ...]:
    """How many steps the profile's plans compute. Raises :class:`InputError` for what a run of ``steps`` cannot do."""
    if options.target_speedup is not None:
        counts: tuple[int, ...] = (most(steps, options.target_speedup),)
    elif options.target_psnr is not None:
        counts = tuple(count for count in LEARNED if count < steps)
    else:
        counts = options.computed or tuple(count for count in COMPUTED if count < steps)
    if not counts or min(counts) < 2 or max(counts) >= steps:
        said = "/".join(map(str, counts)) or "nothing"
        raise InputError(f"of {steps} steps {said} would be computed; allowed are numbers from 2 to {steps - 1}")
    return counts


def compared(
    pipe: Any,
    held: Sequence[Request],
    profile: Profile,
    learned: Sequence[int],
    steps: int,
    options: TuneOptions,
    plan: Plan,
    ranks: Any,
    work: Path,
    tell: Any,
) -> tuple[list[Row], Row | None]:
    """The profile, plain steps and the package's other methods on the held-out prompts, and which of them to take."""
    path = work / "profile.json"  # of one name on all ranks: they compare what they do by it
    profile.save(path)
    measured = Measured(work / ROWS if plan.job.world == 1 else None)
    how: dict[str, Any] = {"backend": plan.backend, "ranks": ranks, "references": {}, "told": tell}

    def one(count: int) -> Row:
        text = f"profile:{path},computed={count}"
        return measure(pipe, held, [Contender(PROFILE, text, steps)], measured, **how)[0]

    if options.target_psnr is not None:
        enough, rows = fewest(one, learned, options.target_psnr)
        counts = [enough] if enough is not None else [max(learned)]
        chosen = next((row for row in rows if count_of(row) == enough), None)
        if chosen is None:
            best = max(rows, key=lambda row: row.mean)
            tell(f"the front ends below --target-psnr {options.target_psnr:g}: {best.mean:.1f} dB at {best.share:.0%}")
    else:
        counts, rows = sorted(learned), [one(count) for count in sorted(learned)]
        chosen = None
    plain = [Contender(PLAIN, None, count) for count in counts]
    rows += measure(pipe, held, [*plain, *others(pipe, counts, steps)], measured, **how)
    allowed = [row for row in rows if options.cache_memory is None or (row.bytes or 0) <= options.cache_memory]
    if chosen is None or chosen not in allowed:
        chosen = recommended(allowed, profile)
    return rows, chosen


def recommended(rows: Sequence[Row], profile: Profile) -> Row | None:
    """Of those on the front the profile's middle plan, or the closest that does not cost more."""
    planned = (row.share for row in rows if row.kind == PROFILE and count_of(row) == profile.computed)
    cost = next(planned, None)
    fitting = [row for row in front(rows) if cost is None or row.share <= cost + 1e-6]
    return max(fitting, key=lambda row: row.mean, default=None)


def finish(
    options: TuneOptions,
    out: Path,
    profile: Profile,
    rows: Sequence[Row],
    chosen: Row | None,
    held: Sequence[Request],
    steps: int,
) -> None:
    """Writes the profile and the figures beside it, and says them."""
    figures = {}
    for row in rows:
        if row.kind == PROFILE:
            plain = beside(row, rows)
            figures[count_of(row)] = {
                "held_out": {"samples": len(held), "psnr_mean": round(row.mean, 2), "psnr_worst": round(row.worst, 2)},
                "plain": {"steps": plain.steps, "psnr_mean": round(plain.mean, 2)} if plain else None,
            }
    told = {count: {**profile.measured.get(count, {}), **figures.get(count, {})} for count in profile.plans}
    out.parent.mkdir(parents=True, exist_ok=True)
    named = [written_to(row, out) for row in rows]
    taken = written_to(chosen, out) if chosen else None
    about = {"model": options.model, "steps": steps, "held_out": len(held)}
    replace(profile, measured=told).save(out)
    write_json(out.with_suffix(FRONT), to_json(named, taken, about))
    drawn = draw(named, out.with_suffix(".front.png"))
    for line in table(named, taken):
        print(line)
    print(
        f"* nothing measured is both cheaper and closer ({len(held)} held-out prompts; computed: of the forwards' work)"
    )
    if taken is not None:
        plain = beside(taken, named)
        if plain is not None and taken.kind != PLAIN:
            print(f"of the same cost, {plain.steps} plain steps come to {plain.mean:.1f} dB, worst {plain.worst:.1f}")
        said = f"--steps {taken.steps} --cache none" if taken.kind == PLAIN else f"--cache {taken.name}"
        print(f"recommended: c4d generate --model {options.model} {said} --prompt …")
    files = [out.name, out.with_suffix(FRONT).name, *([out.with_suffix(".front.png").name] if drawn else [])]
    print(f"files in {out.parent}: {', '.join(files)}{'' if drawn else ' (a plot needs matplotlib)'}")


def count_of(row: Row) -> int:
    """How many steps a row of the profile computes, by its name."""
    return int(row.name.rpartition("=")[2])


def written_to(row: Row, out: Path) -> Row:
    """The same row; a profile's names the file that the profile is written to."""
    return replace(row, name=f"profile:{out},computed={count_of(row)}") if row.kind == PROFILE else row


def teller(options: Shared, plan: Plan, command: str) -> Any:
    """Prints a line above what progress bar there may be; nothing on other ranks, and with --quiet."""
    shown = plan.job.rank == 0 and not options.quiet
    return (lambda line: tqdm.write(f"{command}: {line}", file=sys.stderr)) if shown else (lambda line: None)


@contextmanager
def as_input_errors() -> Iterator[None]:
    """What a calibration refuses, and a file that is no profile, is bad input to the command."""
    try:
        yield
    except (CalibrationError, ProfileError) as error:
        raise InputError(str(error)) from error
