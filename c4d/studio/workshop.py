"""Who makes what the pages ask for: one thread with the pipeline that was loaded last, and what waits for it."""

from __future__ import annotations

import queue
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from c4d.backends import Backend
from c4d.cli import rollout, tune
from c4d.cli.command import Plan, load, name_of, prepare
from c4d.cli.options import Options, RolloutOptions, Shared, TuneOptions
from c4d.cli.signals import Stops
from c4d.pipelines import (
    Request,
    Step,
    exclusive_lock,
    memory_explained,
    numbered,
    produce,
    write_manifest,
)
from c4d.pipelines.output import atomic
from c4d.pipelines.request import FILMS, PICTURES, digest

EVERY = 0.5  # seconds after which a job that has nothing new says so
# Options that a pipeline which is loaded does not depend on; whatever else differs has it loaded anew.
OF_A_REQUEST = {each.name for each in fields(Request)} | {
    "prompt_file", "frames", "fps", "cache", "quality", "history_dtype", "history_on", "compare", "repeats", "out",
    "cache_memory", "device_memory",  # what became of these are a memory mode and a place
    "overwrite", "quiet", "seconds", "block", "window", "sink", "kv_on", "kv_dtype",
}  # fmt: skip


class Stopped(Exception):
    """Somebody asked for the end of a job."""


class Job:
    """Something that waits for its turn, is made, or was; who follows it is told what it tells."""

    def __init__(self, act: Callable[[Job], Any]) -> None:
        self._act, self._told = act, queue.SimpleQueue[Any]()
        self._stop = False
        self.began = False
        self.done: Future[Any] = Future()

    def run(self) -> None:
        """Does it; what it gives or raises is its ``done``."""
        self.began = True
        try:
            self.check()
            self.done.set_result(self._act(self))
        except BaseException as error:
            _let_go(error)
            self.done.set_exception(error)

    def check(self) -> None:
        """Raises :class:`Stopped` if it was asked to end."""
        if self._stop:
            raise Stopped("stopped: what was finished is kept")

    def tell(self, what: Any) -> None:
        """Of the job itself, to who follows it. Raises :class:`Stopped`."""
        self.check()
        self._told.put(what)

    def stop(self) -> None:
        """Asks it to end, at the next step."""
        self._stop = True

    def news(self) -> Iterator[list[Any]]:
        """What it has told since the last time, from time to time also nothing, until it is done."""
        while not self.done.done():
            if found := self._found(EVERY):
                yield found
            elif not self.done.done():
                yield []
        if found := self._found(0):
            yield found

    def _found(self, wait: float) -> list[Any]:
        found = list[Any]()
        with suppress(queue.Empty):
            found.append(self._told.get(timeout=wait) if wait else self._told.get_nowait())
            while True:
                found.append(self._told.get_nowait())
        return found


def _let_go(error: BaseException | None) -> None:
    """Frees what the frames of a traceback hold, such as latents and features: who follows keeps the error for long."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


class Workshop:
    """One job after the other, in the order in which they come; ``root`` has a folder for each clip."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="studio")
        self._jobs = list[Job]()
        self._held = ExitStack()  # what is at work in the loaded pipeline
        self._key: Mapping[str, Any] | None = None
        self._loaded: Any = None

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *exc: object) -> None:
        for job in self._jobs:
            job.stop()
        self._thread.submit(self.free)
        self._thread.shutdown()

    def begin(self, act: Callable[[Job], Any]) -> Job:
        """Puts ``act`` into the queue."""
        job = Job(act)
        self._jobs = [each for each in self._jobs if not each.done.done()] + [job]
        self._thread.submit(job.run)
        return job

    def ahead(self, job: Job) -> int:
        """How many jobs come before it."""
        waiting = [each for each in self._jobs if not each.done.done()]
        return waiting.index(job) if job in waiting else 0

    # -- what a job does

    def clip(self, options: Options, job: Job) -> Path:
        """Makes what ``options`` ask for as ``c4d generate`` does; tells :class:`Step`. Returns its folder."""
        options = self.kept(options)
        plan = prepare(options, Stops())
        (request,) = plan.requests
        with memory_explained(plan.backend, plan.settings):
            pipe, attention = self._pipeline(
                options, plan.settings, lambda until: load(options, plan, [], [], until)[:2]
            )
            return self._clip(pipe, attention, plan, request, job.tell)

    def _clip(self, pipe: Any, attention: Any, plan: Plan, request: Request, tell: Callable[[Step], None]) -> Path:
        out = numbered(self.root, name_of(request.prompt), lambda folder: False)
        with _empty_left_out(out), exclusive_lock(out) as notes:
            how: dict[str, Any] = {"backend": plan.backend, "attention": attention, "stepped": tell}
            notes = [*notes, *plan.notes]
            record, _ = produce(pipe, request, plan.settings, out, progress=False, notes=notes, strips=True, **how)
            write_manifest(out, {out: record})
        return out

    def roll(self, options: RolloutOptions, job: Job, on_block: rollout.OnBlock) -> Path:
        """Makes a clip block by block as ``c4d rollout`` does. Returns its folder, also of one that was stopped."""
        options = self.kept(options)
        out = numbered(self.root, name_of(options.prompt or ""), lambda folder: False)
        with _empty_left_out(out), suppress(Stopped):
            rollout.run(replace(options, out=out, quiet=True), Stops(), on_block, partial(self._rolling, options))
        return out

    def _rolling(
        self, _: RolloutOptions, options: RolloutOptions, backend: Backend, dtype: Any, shown: bool
    ) -> tuple[Any, list[str]]:
        return self._pipeline(options, options, lambda until: rollout.loaded(options, backend, dtype, shown))

    def tuned(self, options: TuneOptions, job: Job) -> Path:
        """Makes a profile as ``c4d tune`` does; tells lines. Returns its file."""
        self.free()  # it loads for itself
        out = tune.place_of(options)
        tune.run(options, Stops(), job.tell)
        return out

    def free(self) -> None:
        """Gives the loaded pipeline back."""
        self._held.close()
        self._held, self._key, self._loaded = ExitStack(), None, None

    def _pipeline(self, options: Shared, settled: Any, make: Callable[[ExitStack], Any]) -> Any:
        """What ``make`` gives, once for all options that need the same; ``settled`` has what became of some of them."""
        names = (each.name for each in fields(options) if each.name not in OF_A_REQUEST)
        key = {name: getattr(settled, name, getattr(options, name)) for name in names}
        if key != self._key:
            self.free()
            self._loaded = make(self._held)
            self._key = key
        return self._loaded

    def kept(self, options: Any) -> Any:
        """The same options, with what was uploaded in a place where it stays, so that a clip can be made again."""
        moved: dict[str, Any] = {}
        for name in (*PICTURES, *FILMS):
            given = getattr(options, name, None)
            if isinstance(given, tuple):
                moved[name] = tuple(self.kept_file(source) for source in given)
            elif given is not None:
                moved[name] = self.kept_file(given)
        return replace(options, **moved)

    def kept_file(self, source: Path) -> Path:
        """A file that was uploaded, in ``uploads``, called by its bytes; one that is in the folder stays there."""
        if self.root in source.parents:
            return source
        kept = self.root / "uploads" / f"{digest(source)[:16]}{source.suffix}"
        if not kept.is_file():  # else a job may be reading it
            kept.parent.mkdir(parents=True, exist_ok=True)
            with atomic(kept) as whole:
                shutil.copyfile(source, whole)
        return kept


@contextmanager
def _empty_left_out(folder: Path) -> Iterator[None]:
    """Where nothing came into ``folder``, it goes."""
    try:
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()
