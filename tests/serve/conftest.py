"""A server in this process: real routes, queue and folders; its workers are threads, and what they make is told."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import pytest

from c4d.cli.options import ServeOptions
from c4d.cli.signals import Stops
from c4d.pipelines import GenerationError, InputError, Step

PROMPT = "a red circle moving left on a black background"
STEPS = 4


class Died(BaseException):
    """What kills a process."""


class Maker:
    """Makes what its prompt says: ``wait`` stays in a step until told, ``die``, ``fail`` and ``refuse`` do it."""

    def __init__(self):
        self.made, self.deaths, self.go, self.waiting = [], 0, threading.Event(), threading.Event()

    def __call__(self, folder, request, quality, stepped):
        word = request.prompt.split()[0]
        for number in range(1, STEPS + 1):
            if number == 2 and word == "die":
                self.deaths += 1
                raise Died
            if number == 2 and word == "wait":
                self.waiting.set()
                self.go.wait(20)
            stepped(Step(number, STEPS, number != 3))
        if word == "fail":
            raise GenerationError("3 of 9 pixel values are not finite; try --dtype float32")
        if word == "refuse":
            raise InputError("--prompt has 90 tokens, WanPipeline reads 16; shorten it")
        self.made.append(request.prompt)
        (folder / "image.png").write_bytes(f"{request.prompt} {request.seed}".encode())
        return ["image.png"]


class Thread(threading.Thread):
    """A process, as far as a worker's other end can tell."""

    exitcode, pid = -9, 0

    def __init__(self, pipe, work, *given):
        super().__init__(daemon=True)
        self.pipe, self.work, self.given = pipe, work, given

    def run(self):
        with self.pipe, suppress(Died, OSError):
            self.work(self.pipe, *self.given)

    killed = False

    def is_alive(self):
        return super().is_alive() and not self.killed

    def kill(self):
        """Nobody hears it any more, and it ends at its next message."""
        self.killed = True
        with suppress(OSError), socket.socket(fileno=os.dup(self.pipe.fileno())) as both:
            both.shutdown(socket.SHUT_RDWR)

    def close(self):
        pass

    def join(self, timeout=5):
        super().join(timeout)


class Site(SimpleNamespace):
    """``client``, ``service``, ``maker``."""

    async def until(self, id, *statuses):
        for _ in range(500):
            found = (await self.client.get(f"/jobs/{id}")).json()
            if found["status"] in statuses:
                return found
            await asyncio.sleep(0.01)
        raise AssertionError(found)

    async def over(self, id):
        return await self.until(id, "completed", "failed", "cancelled")

    async def job(self, prompt=PROMPT, **more):
        return await self.client.post("/jobs", json={"prompt": prompt, **more})

    async def holding(self):
        """Has a worker stay in the middle of a job, whose id is returned."""
        id = (await self.job("wait a moment")).json()["id"]
        assert await asyncio.to_thread(self.maker.waiting.wait, 5)
        return id


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    pytest.importorskip("fastapi", reason="c4d serve needs the extra `serve`")
    from c4d.cli.serve import Served

    return Served(ServeOptions(out=tmp_path_factory.mktemp("served")), Stops())


@pytest.fixture
def site(served, tmp_path, monkeypatch):
    """``async with site(…) as s``: a server over a folder, which may be of one before."""
    import httpx

    from c4d.serve import service
    from c4d.serve.app import make_app
    from c4d.serve.limits import Limits
    from c4d.serve.store import Store
    from c4d.serve.worker import Worker, work

    class InThread(Worker):
        def _started(self, pipe):
            thread = Thread(pipe, work, self._start, self.device)
            thread.start()
            return thread

    monkeypatch.setattr(service, "Worker", InThread)
    monkeypatch.setattr(service, "GLANCE", 0.02)

    @asynccontextmanager
    async def run(limits=None, keys=(), model=served, start=None, **how):
        maker = Maker()
        made = service.Service(Store(tmp_path / "out"), start or (lambda device: maker), **how)
        transport = httpx.ASGITransport(make_app(made, model, limits or Limits(), keys), raise_app_exceptions=False)
        made.begin()
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://site") as client:
                for _ in range(500):
                    if made.ready or start:
                        break
                    await asyncio.sleep(0.01)
                yield Site(client=client, service=made, maker=maker)
        finally:
            maker.go.set()
            await made.close()

    return run
