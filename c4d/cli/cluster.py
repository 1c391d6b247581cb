"""A prompt file on the workers of Ray: a pipeline for each device, which takes one prompt after the other.

Ray places the workers, starts those again that die, and calls them once more (docs/clusters.md). A worker writes the
folder of a result itself, and returns what report.json says: no frame passes through Ray.
"""

from __future__ import annotations

import os
import platform
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from c4d.backends import BACKENDS, Backend, select
from c4d.backends import load as backend_of
from c4d.cli.batch import Batch
from c4d.cli.command import Made, Plan, load
from c4d.cli.options import Generating, flag
from c4d.cli.signals import Stops
from c4d.core.importing import importing
from c4d.parallel.watch import LostRankError
from c4d.pipelines import InputError, Request, kept, produce
from c4d.pipelines.output import LOCK
from c4d.pipelines.results import complete

INSTALL = "pip install ray"
LOCAL = "local"  # Ray's word for a cluster of its own on this machine
AGAIN = 2  # times that a prompt is begun once more because its worker died
STORE = 100 * 2**20  # bytes of shared memory of a local cluster: only records pass through it
GLANCE = 1.0  # seconds after which the driver looks whether it was asked to stop
ONE_DEVICE = ("ranks", "ulysses", "ring", "cfg")


def check(options: Generating) -> None:
    """Raises :class:`InputError` for what does not go with ``--ray``, CannotImportError where Ray is missing."""
    given = [flag(name) for name in ONE_DEVICE if getattr(options, name) is not None]
    given += ["--data"] if options.data != 1 else []
    if given or os.environ.get("WORLD_SIZE", "1") != "1":
        what = given[0] if given else f"WORLD_SIZE={os.environ['WORLD_SIZE']}"
        raise InputError(f"--ray does not go with {what}: each worker has one device and makes its prompts alone")
    if options.prompt_file is None:
        raise InputError("--ray divides a prompt file: give --prompt-file, or drop --ray for a single prompt")
    if options.workers is not None and options.workers < 1:
        raise InputError(f"--workers is {options.workers!r}; allowed are whole numbers from 1")
    _ray()


class Share(NamedTuple):
    """How many workers there are, and what each of them takes of its node, in Ray's words."""

    workers: int
    takes: dict[str, Any]


def share(options: Generating, backend: Backend, nodes: Sequence[Mapping[str, float]]) -> Share:
    """The workers on ``nodes``, each what Ray says it has: one a device, or on CPUs one a node with all its cores.

    Raises :class:`InputError` for a cluster without such a device, or with too few.
    """
    kind = backend.resource
    has = [int(node.get(kind, 0)) for node in nodes if node.get(kind, 0) >= 1]
    others = {backend_of(name).resource for name in BACKENDS} - {kind}
    better = sorted(other for other in others if any(node.get(other, 0) >= 1 for node in nodes))
    if not has or (kind == "CPU" and better and options.backend == "auto"):
        there = f"has {', '.join(better) or 'none'} that --backend could use"
        raise InputError(
            f"this machine's backend is {backend.name!r} ({kind}), and the cluster {there}: start the command on a "
            f"machine like its workers, or name another --backend"
        )
    host = backend.device_type == "cpu"
    workers = options.workers or (len(has) if host else sum(has))
    each = (options.threads or max(1, min(has) // ceil(workers / len(has)))) if host else 1
    if workers > (room := sum(number // each for number in has)):
        raise InputError(
            f"--workers is {workers}, and the cluster has room for {room} of {each} {kind} each; ask for fewer"
        )
    device = {"num_gpus": 1} if kind == "GPU" else {"resources": {kind: 1}}
    return Share(workers, {"num_cpus": each} if host else {"num_cpus": 1, **device})


class Worker:
    """A pipeline on the device that Ray gave to this process."""

    def __init__(self, options: Generating, plan: Plan, home: Path, pages: bool, notes: Sequence[str], cwd: Path):
        if cwd.is_dir():
            os.chdir(cwd)  # names of files are meant from there
        self.options, self.plan, self.home, self.pages = replace(options, quiet=True), plan, home, pages
        self.notes, self._until_done = list(notes), ExitStack()

    @cached_property
    def _loaded(self) -> tuple[Backend, Any, Any]:
        """Backend, pipeline and attention; what this raises reaches the driver as it is, as an actor's own start would
        not."""
        backend = select(self.plan.backend.name)
        plan = replace(self.plan, backend=backend)
        return backend, *load(self.options, plan, plan.requests, self.notes, self._until_done)[:2]

    def ready(self) -> str:
        """Loads the pipeline; returns the name of this machine. Raises :class:`InputError` if it has another --out."""
        node = platform.node()
        if not (self.home / LOCK).exists():
            raise InputError(
                f"--out {str(self.home)!r} of the driver is not there on {node}: name a folder that all nodes share"
            )
        _ = self._loaded
        return node

    def make(self, folder: Path, request: Request, before: Mapping[str, Any] | None) -> dict[str, Any]:
        """Makes the result of ``request`` and returns its record.

        Where ``folder`` holds it already, and not since ``before`` this job, an earlier call has made it and its
        process has died before it could say so: it is not made again.
        """
        settings, record = self.plan.settings, complete(folder)
        if record is not None and record != before and kept([(folder, request)], settings, {folder: record}):
            return record
        backend, pipe, attention = self._loaded
        notes = [*self.notes, *self.plan.notes]
        how: dict[str, Any] = {"attention": attention, "notes": notes, "pages": self.pages}
        return produce(pipe, request, settings, folder, backend=backend, progress=False, **how)[0]


def make_there(
    plan: Plan,
    batch: Batch,
    waiting: Sequence[tuple[Path, Request]],
    records: Mapping[Path, Mapping[str, Any]],
    notes: list[str],
    stops: Stops,
    until_done: ExitStack,
) -> Iterator[Made]:
    """Has workers make what is ``waiting``; gives each result when it is there.

    Only a worker that has loaded is given prompts, and one that gets no more is let go: its device is then free for
    another that Ray has to start again.
    """
    options, cwd = batch.options, Path.cwd()
    ray = until_done.enter_context(_joined(options.ray or os.environ.get("RAY_ADDRESS") or LOCAL))
    stops.check()
    workers, takes = share(options, plan.backend, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    workers = min(workers, len(waiting))
    if not options.quiet:
        print(f"{workers} of Ray's workers, each with {_said(takes)}")
        for note in plan.notes:
            print(f"note: {note}")
    actor = ray.remote(max_restarts=-1, max_task_retries=AGAIN, scheduling_strategy="SPREAD", **takes)(Worker)
    home = cwd / waiting[0][0].parent
    started = [actor.remote(options, plan, home, batch.pages, notes, cwd) for _ in range(workers)]
    loading, making = {worker.ready.remote(): worker for worker in started}, dict[Any, tuple[Any, Path, Request]]()
    del started
    left = deque(waiting)
    while left or making:
        for ref in ray.wait([*loading, *making], timeout=GLANCE)[0]:
            made = None
            if (worker := loading.pop(ref, None)) is not None:
                node = _result(ray, ref, "while it loaded the pipeline")
                if not options.quiet:
                    print(f"a worker is ready on {node}")
            else:
                worker, folder, request = making.pop(ref)
                made = Made(folder, request, _result(ray, ref, f"over the prompt {request.prompt!r}"))
            if left:
                folder, request = left.popleft()
                making[worker.make.remote(cwd / folder, request, records.get(folder))] = (worker, folder, request)
            del worker
            if made is not None:
                yield made
        stops.check()
        if not left:
            loading.clear()


def _said(takes: Mapping[str, Any]) -> str:
    flat = {**takes, **takes.get("resources", {})}
    return ", ".join(f"{number} {name.removeprefix('num_')}" for name, number in flat.items() if name != "resources")


def _result(ray: Any, ref: Any, when: str) -> Any:
    """What a worker returned, or raises what it raised; :class:`LostRankError` if it died too often."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise LostRankError(
            f"a worker of Ray was lost {AGAIN + 1} times {when}: {reason} (--debug shows what else Ray says)"
        ) from error


@contextmanager
def _joined(address: str) -> Iterator[Any]:
    """Ray, connected to the cluster of ``address``; one that it starts here ends with the block."""
    ray = _ray()
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        how |= {"num_cpus": os.cpu_count(), "include_dashboard": False, "object_store_memory": STORE}
    mine = threading.current_thread() is threading.main_thread()
    asked = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if mine else {}
    try:
        try:
            ray.init(address, **how)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"--ray cannot join {address!r}: {error}; start one with ray start --head, or give no address"
            ) from error
        for number, handler in asked.items():  # Ray has put its own there
            signal.signal(number, handler)
        yield ray
    finally:
        ray.shutdown()


def _ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read by what Ray starts
    with importing("ray", INSTALL):
        import ray
    return ray
