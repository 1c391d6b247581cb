"""``c4d generate``: from its options to its files, on one rank or several, or on the workers of a cluster."""

from __future__ import annotations

import os
import re
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

import c4d
from c4d.backends import Backend, select
from c4d.backends.kernels import OWN, names
from c4d.bundled.models import BUNDLED, EVERY, ROLLING
from c4d.cli.batch import Batch
from c4d.cli.budget import budgeted
from c4d.cli.options import Calling, Generating, Options, Shared
from c4d.cli.signals import Stops
from c4d.cli.summary import summary, time_spent
from c4d.core.caching.profiles import SHORT
from c4d.core.caching.rules import CacheMethod
from c4d.core.integration.transformers import transformers_of
from c4d.core.runtime.choice import AUTO, choose_method, few
from c4d.core.text.grammar import parse
from c4d.parallel import Degrees, Job, NoLauncherError, SequenceParallel, start
from c4d.parallel.watch import Watch
from c4d.parallel.watch import of_job as watching
from c4d.pipelines import (
    Clip,
    Files,
    InputError,
    Lora,
    Request,
    Settings,
    call_arguments,
    check_attention,
    check_encoding,
    check_loras,
    check_memory,
    check_method,
    check_ranks,
    check_request,
    check_writable,
    compile_blocks,
    effective,
    encode_first,
    exclusive_lock,
    kept,
    load_pipeline,
    memory_explained,
    numbered,
    parse_dtype,
    parse_history_dtype,
    produce,
    results,
    run_interleaved,
    schedule,
    skeleton,
    write_manifest,
)

ROOT = Path("out")  # where folders are made that nobody named
NAME_LENGTH = 40
SIZES = {"num_frames": "frames", "num_inference_steps": "steps"}


@dataclass(frozen=True)
class Plan:
    """The validated plan, before weights are loaded: which ranks make what, how, and where it goes."""

    backend: Backend
    settings: Settings
    requests: list[Request]
    job: Job
    how: SequenceParallel
    degrees: Degrees
    notes: tuple[str, ...] = ()  # about the method, and what a budget chose
    watch: Watch | None = None  # over the ranks of the job, if there are several

    @property
    def replica(self) -> int:
        """Which group of ranks with prompts of its own this one belongs to."""
        return self.job.rank // self.degrees.request

    @property
    def leads(self) -> bool:
        """Whether this rank writes and tells what its group makes."""
        return self.job.rank % self.degrees.request == 0


class Made(NamedTuple):
    """A result: its folder, and the clip where it was made by this process."""

    folder: Path
    request: Request
    record: dict[str, Any]
    clip: Clip | None = None


def generate(options: Generating, stops: Stops, batch: Batch | None = None) -> None:
    """Makes ``batch``, which is otherwise what ``options`` ask for."""
    batch = batch or Batch(options)
    make = maker(options)
    plan = prepare(options, stops, batch)
    job, settings = plan.job, plan.settings
    stops.check()
    out = options.out if options.out is not None else job.first(lambda: new_folder(options, plan, batch))
    home, jobs = batch.home(out), batch.jobs(out, plan.requests)
    with ExitStack() as until_done, memory_explained(plan.backend, settings):
        job.first(lambda: home.mkdir(parents=True, exist_ok=True))
        notes = job.first(lambda: until_done.enter_context(exclusive_lock(home)))
        records = job.first(lambda: results(home))
        keep = set[Path]() if options.overwrite else job.first(lambda: kept(jobs, settings, records))
        job.first(lambda: write_manifest(home, records))
        job.first(lambda: batch.resumed(out, {folder: records[folder] for folder in keep}))
        if job.rank == 0:
            say_before(notes, [(folder, request) for folder, request in jobs if folder in keep])
        waiting = [each for each in jobs if each[0] not in keep][plan.replica :: plan.degrees.data]
        if len(keep) < len(jobs):  # every group loads, also one without a prompt: ranks meet there
            for folder, request, record, clip in make(plan, batch, waiting, records, notes, stops, until_done):
                records[folder] = record
                batch.completed(out, folder, records, alone=plan.degrees.data == 1)
                say_made(options, folder, request, record, clip, plan.notes)
        job.meet()  # barrier: other ranks may still write into the folder
        if job.rank == 0:
            batch.finish(out)
    if job.rank == 0:
        print(f"files in {out}: {batch.said(out, [folder for folder, _ in jobs])}")
        if isinstance(options, Options) and options.open_ and (page := batch.page(out)) is not None:
            show(page)
    job.end()


def make_here(
    plan: Plan,
    batch: Batch,
    waiting: Sequence[tuple[Path, Request]],
    records: Mapping[Path, Mapping[str, Any]],
    notes: list[str],
    stops: Stops,
    until_done: ExitStack,
) -> Iterator[Made]:
    """Makes what is ``waiting`` in this process, with the ranks that share it; gives what this rank wrote."""
    options = batch.options
    pipe, attention, ranks = load(options, plan, [request for _, request in waiting], notes, until_done)
    stops.check()
    if waiting and plan.job.rank == 0 and not options.quiet:
        print(f"generating {sizes(pipe, waiting[0][1])}")
        for note in plan.notes:
            print(f"note: {note}")
    for folder, request in waiting:
        how: dict[str, Any] = {"backend": plan.backend, "ranks": ranks}
        if not plan.leads:
            run_interleaved(pipe, request, plan.settings, progress=False, **how)
            continue
        shown = not options.quiet and plan.replica == 0
        how |= {"attention": attention, "notes": [*notes, *plan.notes], "pages": batch.pages}
        yield Made(folder, request, *produce(pipe, request, plan.settings, folder, progress=shown, **how))


def maker(options: Generating) -> Callable[..., Iterator[Made]]:
    """:func:`make_here`, or with ``--ray`` what has workers do it.

    Raises :class:`InputError` for what does not go with it, and CannotImportError where Ray is missing.
    """
    if options.ray is None:
        if options.workers is not None:
            raise InputError("--workers is of Ray: add --ray, or drop it")
        return make_here
    from c4d.cli.cluster import check, make_there  # which need what stands here

    check(options)
    return make_there


def new_folder(options: Generating, plan: Plan, batch: Batch) -> Path:
    """The next of ``ROOT``'s numbered folders; the last one if it holds this very job, done or begun."""

    def fits(folder: Path) -> bool:
        if options.overwrite:
            return False
        try:
            kept(batch.jobs(folder, plan.requests), plan.settings, results(batch.home(folder)))
        except InputError:
            return False
        return True

    return numbered(ROOT, name_of(batch.name()), fits)


def name_of(text: str) -> str:
    """Of a folder, made of what is in it."""
    return "-".join(re.findall(r"\w+", text.lower()))[:NAME_LENGTH].strip("-") or "clip"


def show(page: Path) -> None:
    """Opens a page in the browser; where that cannot be, a note says so."""
    try:
        shown, why = webbrowser.open(page.resolve().as_uri()), "there is none"
    except (webbrowser.Error, OSError) as error:
        shown, why = False, str(error)
    if not shown:
        print(f"note: --open found no browser here ({why}): open {page} in one")


def sizes(pipe: Any, request: Request) -> str:
    """What is made, with what the pipeline chooses where the request does not."""
    chosen = effective(pipe, request)
    parts = [f"{chosen['width']}x{chosen['height']} pixels" if chosen.get("width") and chosen.get("height") else ""]
    parts += [f"{chosen[name]} {what}" for name, what in SIZES.items() if chosen.get(name)]
    return ", ".join(filter(None, parts))


def say_before(notes: Sequence[str], kept: Sequence[tuple[Path, Request]]) -> None:
    for note in notes:
        print(f"note: {note}")
    for folder, request in kept:
        print(f"{folder}: kept, already complete: {request.prompt}")


def say_made(
    options: Generating,
    folder: Path,
    request: Request,
    record: dict[str, Any],
    clip: Clip | None,
    said: Sequence[str],
) -> None:
    """``said``: the notes that were printed before it was made."""
    if options.prompt_file is not None:
        print(f"{folder}: {summary(record)}: {request.prompt}")
    elif not options.quiet:
        for note in (note for note in record["notes"] if note not in said):
            print(f"note: {note}")
        for line in record["attention"]:
            print(f"attention: {line}")
        print(f"{(clip and clip.report) or 'uncached'}\n{summary(record)}\ntimed: {record['timing']['how']}")
    for line in () if options.quiet else time_spent(record, folder):
        print(line)


def prepare(options: Generating, stops: Stops, batch: Batch | None = None) -> Plan:
    """Everything that can be known without weights; the ranks of a job find each other here."""
    batch = batch or Batch(options)
    try:
        backend = select(options.backend)
        how = options.parts_of(SequenceParallel, watch=False)  # the whole job is watched, from here to its end
    except ValueError as error:
        raise InputError(str(error)) from error
    job = joined(backend, how, stops)
    settings, requests, degrees, notes = job.all(lambda: _checked(options, batch, backend, how, job))
    plan = Plan(backend, settings, requests, job, how, degrees, notes, stops.watch)
    if plan.watch is not None:
        plan.watch.group = range(plan.replica * degrees.request, (plan.replica + 1) * degrees.request)
    return plan


def joined(backend: Backend, how: SequenceParallel, stops: Stops) -> Job:
    """The job that this process is of, under watch if it has other ranks."""
    try:
        job = start(backend, how.timeout) if os.environ.get("WORLD_SIZE", "1") != "1" else Job()
    except NoLauncherError as error:
        raise InputError(f"WORLD_SIZE={os.environ['WORLD_SIZE']}: {error}") from error
    if job.world > 1:
        stops.watch = watching(how.timeout, stops.tell)
        stops.watch.start()
    return job


def _checked(
    options: Generating, batch: Batch, backend: Backend, how: SequenceParallel, job: Job
) -> tuple[Settings, list[Request], Degrees, tuple[str, ...]]:
    check_threads(options)
    if options.model in ROLLING:
        raise InputError(f"{options.model} makes a clip block by block: c4d rollout --model {options.model} …")
    model = BUNDLED.get(options.model)
    dtype = parse_dtype(options.dtype, backend=backend) if options.dtype else backend.default_dtype
    requests = [options.parts_of(Request, **{"num_frames": options.frames, **own}) for own in batch.prompts()]
    if model:
        requests = [request.with_defaults(model.defaults) for request in requests]
    pipe = skeleton_of(options)
    method, note = chosen(options, pipe, requests[0])
    history = options.history_dtype and parse_history_dtype(options.history_dtype, backend)
    settings = options.parts_of(
        Settings,
        cache=method,
        backend=backend.name,
        dtype=names([dtype]),
        history_dtype=names([history]) if history else None,
        history_on=options.history_on or "device",
        memory=options.memory or "full",
        lora=loras_of(options) or None,
        fps=options.fps if options.fps is not None else float(model.defaults.fps if model else 16),
    )
    if method is not None:
        check_method(pipe, method, backend=backend, steps=requests[0].steps)
    check_loras(pipe, settings.lora or ())
    check_memory(pipe, settings.memory, backend=backend)
    if options.encode_first:
        check_encoding(pipe)
    if settings.attention != OWN:
        check_attention(pipe, settings.attention, dtype, backend=backend)
    degrees = check_ranks(
        pipe,
        how,
        job,
        requests[0],
        settings.attention,
        dtype,
        backend=backend,
        method=settings.cache,
        memory=settings.memory,
    )
    if callable(pipe):  # else only the whole pipeline can tell, in load
        check_requests(pipe, requests)
        batch.check(pipe, requests[0])
    settings, why = budgeted(options, settings, requests, degrees, backend=backend)
    check_writable(options.out if options.out is not None else ROOT)
    return settings, requests, degrees, tuple(filter(None, [note, *why]))


def check_threads(options: Shared) -> None:
    """Raises :class:`InputError` for a number that this machine cannot run."""
    cores = os.cpu_count() or 1  # with far more threads than that torch falls over
    if options.threads is not None and not 1 <= options.threads <= cores:
        raise InputError(
            f"threads is {options.threads!r}; allowed are whole numbers from 1 to {cores}, this machine's cores"
        )


def use_threads(options: Shared) -> None:
    """As many as were asked for, or as the bundled model runs best on; else torch's choice."""
    model = EVERY.get(options.model)
    if threads := options.threads or (model.defaults.threads if model else None):
        torch.set_num_threads(threads)


def loras_of(options: Shared) -> tuple[Lora, ...]:
    """Raises :class:`InputError` for text that is none."""
    return tuple(Lora.read(text, local_files_only=options.local_files_only) for text in options.lora)


def skeleton_of(options: Calling) -> Any:
    """The pipeline without its weights, of the files and with the scheduler that were asked for."""
    pipe = skeleton(options.model, allow_pickle=options.allow_pickle, files=options.parts_of(Files))
    schedule(pipe, options.scheduler, options.shift)
    return pipe


def check_requests(pipe: Any, requests: Sequence[Request]) -> None:
    """Raises :class:`InputError` for the first that ``pipe``, a skeleton or not, cannot make; reads each file once."""
    read = set[tuple[Any, ...]]()
    for request in requests:
        check_request(pipe, request)
        if (files := tuple(request.files().items())) not in read:
            read.add(files)
            call_arguments(pipe, request)


def check_alike(requests: Sequence[Request], command: str) -> None:
    """Raises :class:`InputError` for requests that differ in more than prompts and seeds that follow each other."""
    for i, request in enumerate(requests):
        if request != replace(requests[0], prompt=request.prompt, seed=requests[0].seed + i):
            raise InputError(
                f"{command} runs prompts that differ in their text alone, and {request.prompt!r} has a seed, negative "
                "prompt or a file of its own: give these for all, by options"
            )


def chosen(options: Generating, pipe: Any, request: Request) -> tuple[CacheMethod | None, str | None]:
    """The method, and what is to be said of it: why ``auto`` takes it, and that of few steps none can be spared."""
    steps = effective(pipe, request).get("num_inference_steps") if callable(pipe) else request.steps
    if options.cache == AUTO:
        transformers = list(transformers_of(pipe).values())
        try:
            choice = choose_method(transformers, getattr(pipe, "scheduler", None), options.quality, steps)
        except ValueError as error:
            raise InputError(f"--quality: {error}") from error
        return choice.method, f"--cache auto: {choice.why}"
    method = None if options.cache is None else parse(options.cache)
    if method is not None and steps is not None and steps < SHORT:
        return method, f"{steps} steps are few to cache: {few(steps)}"
    return method, None


def load(
    options: Shared, plan: Plan, requests: Sequence[Request], notes: list[str], until_done: ExitStack
) -> tuple[Any, Any, Any]:
    """The pipeline, what computes its attention, and the ranks that share it (None: not shared)."""
    settings, quiet = plan.settings, options.quiet or plan.job.rank > 0
    use_threads(options)
    pipe = load_pipeline(
        options.model,
        backend=plan.backend,
        dtype=settings.dtype,
        progress=not quiet,
        allow_pickle=options.allow_pickle,
        memory=None if options.encode_first else settings.memory,
        files=options.parts_of(Files),
        loras=settings.lora or (),
    )
    schedule(pipe, settings.scheduler, settings.shift)
    check_requests(pipe, requests)  # all of them before the first is made, and before anything is compiled
    done = []
    if options.encode_first:
        calls = [call_arguments(pipe, request) for request in requests]
        done.append(encode_first(pipe, calls, settings.memory, backend=plan.backend))
    done += compile_blocks(pipe) if settings.compile else []
    for note in done if not quiet else ():
        print(note)
    notes += done
    kernel = settings.attention
    if plan.job.world > 1:
        ranks = c4d.sharded(pipe, plan.how, branches=plan.degrees.cfg, kernel=kernel, backend=plan.backend)
        until_done.enter_context(ranks)
        if plan.watch is not None:
            plan.watch.step = lambda: ranks.step
        if not quiet:
            print(f"ranks: {ranks.said()}")
        return pipe, ranks.attention, ranks
    if kernel == OWN:
        return pipe, None, None
    return pipe, until_done.enter_context(c4d.attention(pipe, kernel, backend=plan.backend)), None
