"""The routes: jobs as c4d has them, and what watches the server. :mod:`c4d.serve.openai` has the others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as Call
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

import c4d
from c4d.pipelines import InputError, OutputError
from c4d.serve.bodies import body, documented, read, said
from c4d.serve.errors import RefusedError, in_fields
from c4d.serve.errors import body as error_body
from c4d.serve.gate import Gate
from c4d.serve.jobs import DONE, QUEUED, Job
from c4d.serve.limits import Limits
from c4d.serve.listing import LISTED, listed
from c4d.serve.model import Model
from c4d.serve.service import Service, Wanted

KEEPALIVE = 15.0  # seconds without an event after which a comment keeps proxies from closing the stream


class Face:
    """What the routes of a server have in common."""

    def __init__(self, service: Service, model: Model, limits: Limits) -> None:
        self.service, self.model, self.limits = service, model, limits

    async def wanted(self, values: dict[str, Any], picture: bytes | None, id: str | None) -> Wanted:
        """The job that the fields of a body ask for. Raises InputError for what is beyond the limits."""
        self.limits.check(values)
        quality = values.pop("quality", None)
        self.model.check_quality(quality)
        if picture is not None:
            picture = await asyncio.to_thread(self.limits.picture, picture)
        return Wanted(id, quality or self.model.quality, partial(self.model.request, values), picture)

    def file(self, job: Job, name: str | None = None) -> FileResponse:
        """A file of a job that is completed, its clip if no name is given. Names are looked up, never joined."""
        if job.status != DONE:
            raise RefusedError(409, f"the job {job.id!r} is {job.status}; it has files when it is {DONE}")
        if name is not None and name not in job.files:
            raise RefusedError(404, f"the job has no file {name[:80]!r}; it has {', '.join(job.files)}")
        path = job.folder / (name or job.files[0])
        if not path.is_file():
            raise RefusedError(410, f"{path.name} is not there any more; ask for the same under another id")
        return FileResponse(path)

    def told(self, job: Job) -> dict[str, Any]:
        """The job as its routes give it."""
        computed = sum(job.forwards)
        return {
            "id": job.id,
            "object": "job",
            "status": job.status,
            "model": self.model.name,
            "created_at": job.created,
            "begun_at": job.begun,
            "ended_at": job.ended,
            "attempts": job.attempts,
            "progress": job.progress(),
            "steps": {"done": len(job.forwards), "of": job.of, "computed": computed} if job.forwards else None,
            "quality": job.quality,
            "request": said(job.request),
            "error": {"code": job.code, "message": in_fields(job.error)} if job.error else None,
            "files": {name: f"/jobs/{job.id}/files/{name}" for name in job.files},
        }

    async def events(self, job: Job) -> AsyncIterator[str]:
        """Server-sent events: ``status`` for each that the job gets, ``step`` for each step that is done."""
        seen, attempt, status = 0, 0, None
        while True:
            changed = job.changed
            if job.attempts != attempt:
                seen, attempt, status = 0, job.attempts, None
            if not job.over and job.status != status:
                status = job.status
                yield event("status", self.told(job))
            while seen < len(job.forwards):
                seen += 1
                yield event("step", {"step": seen, "of": job.of, "computed": job.forwards[seen - 1]})
            if job.over:
                yield event("status", self.told(job))
                return
            if self.service.stopping.is_set() and job.status == QUEUED:
                return
            if not changed.is_set():
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(changed.wait(), KEEPALIVE)
                if not changed.is_set():
                    yield ": \n\n"


def event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def make_app(service: Service, model: Model, limits: Limits, keys: Sequence[str] = ()) -> FastAPI:
    """The application over a service; ``keys``: of those who may use it, none for everybody."""
    from c4d.serve.openai import add_routes  # which needs what stands here

    app = FastAPI(title="c4d serve", version=c4d.__version__, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, keys=list(keys), upload=limits.upload, metrics=service.metrics)
    face = Face(service, model, limits)
    add_errors(app)
    add_watching(app, face)
    add_jobs(app, face)
    add_routes(app, face)
    return app


def add_watching(app: FastAPI, face: Face) -> None:
    service = face.service

    @app.get("/healthz", summary="The process answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="A worker has loaded, and jobs are taken")
    async def readyz() -> Response:
        ready, of = len(service.ready), len(service.workers)
        why = "stopping" if service.stopping.is_set() else "ready" if ready else "loading"
        return JSONResponse({"status": why, "workers": {"ready": ready, "of": of}}, 200 if why == "ready" else 503)

    @app.get("/metrics", summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def add_jobs(app: FastAPI, face: Face) -> None:
    service = face.service
    known = "yours, by which the same call finds the same job: letters, digits, - and _, at most 64"
    asked = body("Job", face.model.texts, id=(str | None, None))
    asked.model_fields["id"].description = known

    @app.post("/jobs", summary="Make a clip", status_code=202, openapi_extra=documented(asked, form=True))
    async def create(call: Call) -> dict[str, Any]:
        values, picture = await read(call, asked, form=True)
        id = values.pop("id", None)
        (job,) = service.submit([await face.wanted(values, picture, id)])
        return face.told(job)

    @app.get("/jobs", summary="The jobs, some at a time", openapi_extra=LISTED)
    async def jobs(call: Call) -> dict[str, Any]:
        return await listed(call, service, face.told)

    @app.get("/jobs/{id}", summary="Where a job stands")
    async def show(id: str) -> dict[str, Any]:
        return face.told(service.find(id))

    @app.get("/jobs/{id}/events", summary="Its progress, as server-sent events")
    async def events(id: str) -> Response:
        return StreamingResponse(face.events(service.find(id)), media_type="text/event-stream")

    @app.post("/jobs/{id}/cancel", summary="Give it up: at the end of its step, if it is being made")
    async def cancel(id: str) -> dict[str, Any]:
        job = service.find(id)
        service.cancel(job)
        return face.told(job)

    @app.delete("/jobs/{id}", summary="Give it up, and remove its files")
    async def delete(id: str) -> dict[str, Any]:
        await service.remove(service.find(id))
        return {"id": id, "object": "job.deleted", "deleted": True}

    @app.get("/jobs/{id}/files/{name}", summary="A file that it left")
    async def file(id: str, name: str) -> Response:
        return face.file(service.find(id), name)


def add_errors(app: FastAPI) -> None:
    """Every error is one message in JSON; of one that nobody expected, the log has the rest."""

    @app.exception_handler(RefusedError)
    async def refused(_: Call, error: Any) -> Response:
        return answer(error.status, str(error), error.code, error.headers)

    @app.exception_handler(InputError)
    async def wrong(_: Call, error: Any) -> Response:
        return answer(400, str(error))

    @app.exception_handler(HTTPException)
    async def http(_: Call, error: Any) -> Response:
        ways = {404: "there is no such path; /openapi.json lists them", 405: "this path does not take that method"}
        return answer(error.status_code, ways.get(error.status_code, str(error.detail)), None, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Call, error: Any) -> Response:
        return answer(400, "the client went away before its body was there")

    @app.exception_handler(OutputError)
    async def unwritten(_: Call, error: Any) -> Response:
        return answer(507, f"{error}; tell who runs this server")

    @app.exception_handler(Exception)
    async def unexpected(_: Call, error: Exception) -> Response:
        return answer(500, f"unexpected {type(error).__name__}; the server's log says more")


def answer(status: int, message: str, code: str | None = None, headers: Any = None) -> Response:
    return JSONResponse(error_body(status, in_fields(message), code), status, headers)
