"""The queue, and who makes what is in it. All of it belongs to one event loop; threads only wait for workers."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from c4d.pipelines import OutputError, Request, Step
from c4d.pipelines.output import writing
from c4d.serve.errors import RefusedError
from c4d.serve.jobs import CANCELLED, DONE, FAILED, ID, QUEUED, REFERENCE, RUNNING, Job
from c4d.serve.metrics import Metrics
from c4d.serve.store import Store
from c4d.serve.worker import Cancel, Failed, Lost, Made, Start, Task, Worker

ATTEMPTS = 3  # times that a job is begun before the death of its worker is its own fault
GLANCE = 1.0  # seconds after which an idle worker is looked at
GRACE = 10.0  # seconds that a cancelled job has to come to the end of its step, before its worker is killed
SLOWEST = 60.0  # seconds between attempts to load that fail
GUESS = 10.0  # seconds that a job takes, until one was made
LONGEST_WAIT = 3600
CLEANING = 60.0  # seconds between looks for jobs that are to be removed
LOST = "worker_lost"  # why a job failed, in a word

logger = logging.getLogger("c4d.serve")


class Wanted(NamedTuple):
    """A job that somebody asks for. ``id``: theirs, None to be given one. ``request`` makes the request of the picture
    that came with it, if one did (then it lies in a file), and raises InputError for what cannot be made."""

    id: str | None
    quality: str | None
    request: Callable[[Any], Request]
    picture: bytes | None = None


class Service:
    """Takes jobs, has workers make them, and keeps all of it on disk.

    Args:
        start: loads a pipeline in a worker.
        devices: the index of each worker's device.
        queue: how many jobs may wait.
        patience: seconds that a worker may be silent over a job before it counts as dead.
        kept: seconds after its end for which a job stays on disk; None: until somebody removes it.
    """

    def __init__(
        self,
        store: Store,
        start: Start,
        *,
        devices: Sequence[int] = (0,),
        queue: int = 100,
        patience: float = 600.0,
        kept: float | None = None,
    ) -> None:
        self.store, self.room, self.patience, self.kept = store, queue, patience, kept
        self.workers = [Worker(start, device) for device in devices]
        self.metrics = Metrics()
        self.stopping = asyncio.Event()
        self.broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()  # why it cannot go on
        self._jobs: dict[str, Job] = {}  # those that are not over
        self._waiting: deque[Job] = deque()
        self._running: dict[Job, tuple[Worker, int]] = {}
        self._arrived, self._number, self._pace = asyncio.Event(), 0, GUESS
        self._threads = ThreadPoolExecutor(len(self.workers), "worker")
        self._keepers: list[asyncio.Task[None]] = []
        self._began = False  # whether a worker has ever loaded
        self.metrics.gauge("c4d_jobs_waiting", "Jobs in the queue", lambda: len(self._waiting))
        self.metrics.gauge("c4d_jobs_running", "Jobs that are being made", lambda: len(self._running))
        self.metrics.gauge("c4d_workers_ready", "Workers with a pipeline", lambda: len(self.ready))

    # -- its life

    def begin(self) -> None:
        """Takes up what an earlier server left, and starts the workers."""
        for job in self.store.unfinished():
            if job.attempts >= ATTEMPTS:
                self._over(job, FAILED, f"the server ended {job.attempts} times while it was made", LOST)
                continue
            job.status = QUEUED
            self._jobs[job.id] = job
            self._waiting.append(job)
        self._arrived.set()
        self._keepers = [asyncio.create_task(self._keep(worker)) for worker in self.workers]
        if self.kept is not None:
            self._keepers.append(asyncio.create_task(self._clean(self.kept)))
        for keeper in self._keepers:
            keeper.add_done_callback(self._left)

    def _left(self, keeper: asyncio.Task[None]) -> None:
        """A server without those who look after its workers would only wait."""
        if not keeper.cancelled() and (error := keeper.exception()) is not None and not self.broken.done():
            self.broken.set_result(f"{type(error).__name__}: {error}")

    async def drain(self) -> None:
        """Begins nothing more and returns when all that was begun is over. What waits stays on disk."""
        self.stopping.set()
        for job in list(self._waiting):
            job.tell()
        while running := list(self._running):
            await asyncio.gather(*(job.end() for job in running))

    async def close(self) -> None:
        """Ends the workers at once; what they were making is made again by the next server."""
        self.stopping.set()
        for keeper in self._keepers:
            keeper.cancel()
        for worker in self.workers:
            worker.kill()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)
        for worker in self.workers:
            worker.stop()

    @property
    def ready(self) -> list[Worker]:
        """The workers that have loaded."""
        return [worker for worker in self.workers if worker.ready and worker.alive]

    # -- jobs

    def find(self, id: str) -> Job:
        """Raises :class:`RefusedError` where there is no such job."""
        job = self._jobs.get(id) or self.store.find(id)
        if job is None:
            raise RefusedError(404, f"there is no job {id[:80]!r}; its id is in the answer to the call that made it")
        return job

    def live(self, job: Job) -> Job:
        """The job as it stands now, of one as its file has it."""
        return self._jobs.get(job.id, job)

    def submit(self, wanted: Sequence[Wanted]) -> list[Job]:
        """Puts all of them into the queue, or none; those that are there already are given back as they are.

        Raises :class:`RefusedError`: no room (429), stopping (503), an id that stands for another request (409), a
        request that cannot be made (400).
        """
        if self.stopping.is_set():
            raise RefusedError(503, "the server is stopping; ask again later", headers={"Retry-After": "30"})
        there = [self._known(each) for each in wanted]
        new = there.count(None)
        if new > self.room:
            raise RefusedError(400, f"{new} pictures are more than the {self.room} that the queue of this server holds")
        if len(self._waiting) + new > self.room:
            self.metrics.refused.inc()
            after = self.retry_after(new)
            raise RefusedError(
                429,
                f"the queue is full: {len(self._waiting)} of {self.room} jobs wait; ask again in {after} s",
                code="queue_full",
                headers={"Retry-After": str(after)},
            )
        made: list[Job] = []
        try:
            for each, known in zip(wanted, there, strict=True):
                made += [] if known else [self._created(each)]
        except BaseException:
            for job in made:
                self.store.remove(job.folder)
            raise
        self._jobs.update({job.id: job for job in made})
        self._waiting.extend(made)
        self._arrived.set()
        fresh = iter(made)
        return [known or next(fresh) for known in there]

    def retry_after(self, new: int = 1) -> int:
        """Seconds until so many more may find room, by how long the last jobs took."""
        return max(1, min(LONGEST_WAIT, math.ceil(self._pace * new / len(self.workers))))

    def cancel(self, job: Job) -> None:
        """A job that waits is over at once, one that is made at the end of its step; one that is over stays so."""
        if job in self._running:
            worker, number = self._running[job]
            if not job.cancelling:
                job.cancelling = True
                worker.send(Cancel(number))
                asyncio.get_running_loop().call_later(GRACE, self._insist, job, worker, number)
                job.tell()
        elif not job.over:
            self._waiting.remove(job)
            self._over(job, CANCELLED)

    async def remove(self, job: Job) -> None:
        """Ends it and removes its folder."""
        self.cancel(job)
        await job.end()
        self.store.remove(job.folder)

    def _known(self, wanted: Wanted) -> Job | None:
        """The job of that id. Raises :class:`RefusedError` for one of another request."""
        if wanted.id is None:
            return None
        if not ID.fullmatch(wanted.id):
            raise RefusedError(
                400, f"the id is {wanted.id[:80]!r}; allowed are letters, digits, - and _, at most 64 of them"
            )
        job = self._jobs.get(wanted.id) or self.store.find(wanted.id)
        if job is None:
            return None
        kept = job.request.image
        pictured = (kept.read_bytes() if isinstance(kept, Path) else None) == wanted.picture
        if not (pictured and job.same(self._checked(wanted, kept), wanted.quality)):
            raise RefusedError(409, f"the id {wanted.id!r} is of a job with another request; give this one its own")
        return job

    def _checked(self, wanted: Wanted, image: Any) -> Request:
        try:
            return wanted.request(image)
        except ValueError as error:  # also of a method or a quality
            raise RefusedError(400, str(error)) from error

    def _created(self, wanted: Wanted) -> Job:
        id = wanted.id or f"job-{secrets.token_hex(12)}"
        try:
            folder = self.store.begin(id)
        except ValueError as error:
            raise RefusedError(409, str(error)) from error
        try:
            image = None
            if wanted.picture is not None:
                image = folder / REFERENCE
                with writing(image):
                    image.write_bytes(wanted.picture)
            job = Job(id, self._checked(wanted, image), folder, time.time(), wanted.quality)
            self.store.write(job)
            return job
        except BaseException:
            self.store.remove(folder)
            raise

    async def _clean(self, kept: float) -> None:
        """Removes jobs whose time is over, now and then."""

        def expired(job: Job) -> bool:
            return job.over and (job.ended or job.created) + kept < time.time()

        while not self.stopping.is_set():
            for id in [job.id for job in await asyncio.to_thread(self.store.all) if expired(job)]:
                # Somebody may have removed it since, and asked for another one of that id.
                if id not in self._jobs and (job := self.store.find(id)) is not None and expired(job):
                    try:
                        self.store.remove(job.folder)
                    except OutputError as error:
                        logger.error("%s: %s", id, error)
                await asyncio.sleep(0)
            await self._sleep(min(kept, CLEANING))

    # -- workers

    async def _keep(self, worker: Worker) -> None:
        """One worker, from its start to the server's end."""
        pause, before = 1.0, False
        while not self.stopping.is_set():
            if not worker.alive:
                if before:
                    self.metrics.restarts.inc()
                before = True
                reason = await self._in_thread(worker.load)
                if reason is not None:
                    logger.error("a worker cannot load: %s", reason)
                    if not self._began and not self.broken.done():
                        self.broken.set_result(f"no worker can load: {reason}")
                    await self._sleep(pause)
                    pause = min(SLOWEST, 2 * pause)
                    continue
                pause, self._began = 1.0, True
            if (job := await self._next()) is not None:
                await self._make(worker, job)

    async def _next(self) -> Job | None:
        """The oldest job that waits; None if there was none for a while."""
        if not self._waiting or self.stopping.is_set():
            self._arrived.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), GLANCE)
        return self._waiting.popleft() if self._waiting and not self.stopping.is_set() else None

    async def _make(self, worker: Worker, job: Job) -> None:
        self._number += 1
        number = self._number
        now = time.time()
        job.status, job.begun, job.attempts, job.forwards, job.of = RUNNING, now, job.attempts + 1, [], None
        self._running[job] = (worker, number)
        try:
            self.store.write(job)
            if job.attempts == 1:
                self.metrics.waited.observe(now - job.created)
            job.tell()
            said = await self._told(worker, job, number)
        except OutputError as error:
            said = Failed(str(error), "unwritten", fatal=False)
        finally:
            del self._running[job]
        self._settle(worker, job, said)

    async def _told(self, worker: Worker, job: Job, number: int) -> Any:
        """What a worker ends the job with."""
        if not worker.send(Task(number, job.folder, job.request, job.quality)):
            return await self._in_thread(worker.lost)
        while isinstance(said := await self._in_thread(worker.receive, self.patience), Step):
            job.forwards.append(said.computed)
            job.of = said.of
            self.metrics.step(said)
            job.tell()
        return said

    def _settle(self, worker: Worker, job: Job, said: Any) -> None:
        if isinstance(said, Made):
            job.files = said.files
            self._pace += 0.2 * (time.time() - (job.begun or 0.0) - self._pace)
            self._over(job, DONE)
        elif isinstance(said, Failed):
            self._over(job, FAILED, said.reason, said.code)
        elif job.cancelling:
            self._over(job, CANCELLED)
        elif job.attempts < ATTEMPTS:
            logger.warning("the worker of %s died (%s); it is made again", job.id, said.how)
            job.status = QUEUED
            self._waiting.appendleft(job)
            self._arrived.set()
            self._write(job)
            job.tell()
        else:
            self._over(job, FAILED, f"its worker died {job.attempts} times ({said.how})", LOST)
        if isinstance(said, Lost) or (isinstance(said, Failed) and said.fatal):
            worker.kill()

    def _over(self, job: Job, status: str, error: str | None = None, code: str | None = None) -> None:
        job.status, job.ended, job.error, job.code = status, time.time(), error, code
        self._jobs.pop(job.id, None)
        self._write(job)
        self.metrics.over(job)
        job.tell()

    def _write(self, job: Job) -> None:
        """Where the disk is full, a job goes on all the same: nobody may wait for it forever."""
        try:
            self.store.write(job)
        except OutputError as error:
            logger.error("%s: %s", job.id, error)

    def _insist(self, job: Job, worker: Worker, number: int) -> None:
        if self._running.get(job) == (worker, number):
            logger.warning("the worker of %s does not come to the end of a step; it is started again", job.id)
            worker.kill()

    async def _sleep(self, seconds: float) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    async def _in_thread(self, act: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, act, *given)
