"""``c4d calibrate``: the calibration data of a published method, made for any model."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import c4d
from c4d.calibrate.calibration import Calibration, Record
from c4d.calibrate.collect import collected, file_of
from c4d.calibrate.pipeline import besides
from c4d.calibrate.published import CALIBRATIONS
from c4d.cli.command import ROOT, Plan, check_alike, load, prepare, skeleton_of
from c4d.cli.options import CalibrateOptions, Options
from c4d.cli.signals import Stops
from c4d.cli.tune import as_input_errors, refuse_existing, teller
from c4d.core.integration.transformers import signature, transformers_of
from c4d.core.text.grammar import describe, make_part
from c4d.pipelines import InputError, call_arguments, check_writable, exclusive_lock, memory_explained
from c4d.pipelines.differences import read_differences
from c4d.pipelines.output import write_json


def listing(width: int = 100) -> str:
    """The methods that can be calibrated, with the options of each."""
    lines = ["METHODS  (written METHOD or METHOD:key=value,…)"]
    for name, make in CALIBRATIONS.items():
        options = describe(make)
        lines.append(f"  {name}{f':{options}' if options else ''}")
        about = " ".join((inspect.getdoc(make) or "").replace("``", "").split())
        lines += textwrap.wrap(about, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def run(method: str | None, options: CalibrateOptions, stops: Stops) -> None:
    """Records what the calibration of ``method`` needs, or reads it from a folder; fits, writes and tells."""
    name, made = calibration_of(method)
    if options.samples is not None and options.samples < 1:
        raise InputError(f"--samples is {options.samples!r}; allowed are whole numbers from 1")
    out = options.out or ROOT / f"{Path(options.model).name}-{name}.json"
    refuse_existing(out, options.overwrite)
    if options.from_ is None:
        sampled(name, made, options, out, stops)
        return
    if options.prompt or options.prompt_file or options.samples or options.ranks:
        raise InputError("--from reads what was recorded: leave out --prompt, --prompt-file, --samples and --ranks")
    check_writable(out.parent)
    with as_input_errors():
        records = made.of_differences(read_differences(options.from_))
    transformer = next(iter(transformers_of(skeleton_of(options)).values()))
    finish(name, made, records, options, out, signature(transformer), {"from": [each["prompt"] for each in records]})


def calibration_of(text: str | None) -> tuple[str, Calibration]:
    """What a text such as ``teacache:signal=input`` names. Raises :class:`InputError` for what is unknown."""
    if text is None:
        raise InputError(f"which METHOD? known are {', '.join(CALIBRATIONS)} (c4d calibrate --help explains them)")
    try:
        return text.partition(":")[0].strip(), make_part(text, CALIBRATIONS, "calibration")
    except ValueError as error:
        raise InputError(f"calibration {text!r}: {error} (c4d calibrate --help explains them)") from error


def sampled(name: str, made: Calibration, options: CalibrateOptions, out: Path, stops: Stops) -> None:
    """By running the model. Each sampling is kept in ``OUT.work`` until the file is written."""
    work = out.with_suffix(".work")
    plan: Plan = prepare(options.parts_of(Options, cache=None, out=work), stops)
    stops.check()
    check_alike(plan.requests, "c4d calibrate")
    plan.job.first(partial(work.mkdir, parents=True, exist_ok=True))
    with ExitStack() as until_done, memory_explained(plan.backend, plan.settings):
        plan.job.first(lambda: until_done.enter_context(exclusive_lock(work)))
        pipe, _, _ = load(options, plan, plan.requests, [], until_done)
        pipe.set_progress_bar_config(disable=True)
        call = besides(call_arguments(pipe, plan.requests[0]))
        with as_input_errors():
            records, about = collected(
                pipe,
                made,
                partial(c4d.cached, pipe, backend=plan.backend),
                prompts=[request.prompt for request in plan.requests],
                samples=options.samples,
                seed=plan.requests[0].seed,
                work=work if plan.job.rank == 0 else None,
                about={"model": options.model, "dtype": plan.settings.dtype, "backend": plan.backend.name}
                | plan.settings.of_model(),
                told=teller(options, plan, "calibrate"),
                **call,
            )
        made_for = signature(next(iter(transformers_of(pipe).values())))
        plan.job.first(lambda: finish(name, made, records, options, out, made_for, about))
        plan.job.first(partial(shutil.rmtree, work, ignore_errors=True))
    plan.job.end()


def finish(
    name: str,
    made: Calibration,
    records: list[Record],
    options: CalibrateOptions,
    out: Path,
    made_for: dict[str, Any],
    about: dict[str, Any],
) -> None:
    """Fits, writes the file, and says what it is made of, how good it is and how it is used."""
    with as_input_errors():
        fitted = made.fit(records)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, file_of(name, fitted, made_for, about).to_dict())
    if options.quiet:
        return
    for line in fitted.lines:
        print(line)
    use = ",".join(filter(None, [f"path={out}", made.use(fitted)]))
    print(f"{out}: {name} for {made_for['transformer']} ({options.model})")
    print(f"such as: c4d generate --model {options.model} --cache {name}:{use} --prompt …")
