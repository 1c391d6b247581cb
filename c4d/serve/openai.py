"""``/v1/images/generations`` and ``/v1/videos`` as OpenAI's clients call them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import Field
from starlette.requests import Request as Call
from starlette.responses import Response

from c4d.pipelines import InputError
from c4d.serve.app import Face
from c4d.serve.bodies import body, documented, read
from c4d.serve.errors import RefusedError, in_fields
from c4d.serve.jobs import CANCELLED, DONE, FAILED, QUEUED, Job
from c4d.serve.listing import LISTED, listed
from c4d.serve.worker import INPUT

GLANCE = 1.0  # seconds after which a call that waits looks whether its client is still there
SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
KEY = "idempotency-key"


def add_routes(app: FastAPI, face: Face) -> None:
    named = (str | None, Field(None, description=f"{face.model.name}, or nothing"))
    sized = (str | None, Field(None, description="WIDTHxHEIGHT in pixels, or auto; in place of width and height"))
    add_images(app, face, model=named, size=sized)
    add_videos(app, face, model=named, size=sized)

    @app.get("/v1/models", summary="The model that is served")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": face.model.name, "object": "model", "owned_by": "c4d"}]}


def add_images(app: FastAPI, face: Face, **shared: Any) -> None:
    model, service = face.model, face.service
    asked = body(
        "Images",
        model.texts,
        without=("frames", "image"),
        **shared,
        n=(int | None, Field(None, description="pictures, of the seeds N, N + 1, …; default 1")),
        response_format=(Literal["b64_json", "url"] | None, Field(None, description="default b64_json")),
    )

    @app.post("/v1/images/generations", summary="Make pictures", openapi_extra=documented(asked))
    async def generate(call: Call) -> dict[str, Any]:
        values, _ = await read(call, asked)
        named_and_sized(face, values)
        form, n = values.pop("response_format", "b64_json"), values.pop("n", 1)
        if not 1 <= n <= face.limits.images:
            raise InputError(f"n is {n!r}; this server takes whole numbers from 1 to {face.limits.images}")
        if model.films:
            values["frames"] = 1
        seed, key = values.get("seed", model.seed), keyed(call, "image")
        ids = [None if key is None else f"{key}-{i}" for i in range(n)]
        jobs = service.submit([await face.wanted({**values, "seed": seed + i}, None, id) for i, id in enumerate(ids)])
        await over(face, call, jobs, lasting=key is not None)
        return {"created": int(time.time()), "data": [pictured(call, job, form) for job in jobs]}


def add_videos(app: FastAPI, face: Face, **shared: Any) -> None:
    model, service = face.model, face.service

    def filmed(job: Job) -> bool:
        return model.films and job.request.num_frames != 1

    long = (int | float | str | None, Field(None, description="how long the clip is; in place of frames"))
    asked = body("Video", model.texts, **shared, seconds=long)

    @app.post("/v1/videos", summary="Begin a video", openapi_extra=documented(asked, form=True))
    async def create(call: Call) -> dict[str, Any]:
        values, picture = await read(call, asked, form=True)
        named_and_sized(face, values)
        if not model.films:
            raise InputError(f"{model.name} makes pictures; ask for them at /v1/images/generations")
        if (seconds := values.pop("seconds", None)) is not None:
            if "frames" in values:
                raise InputError("seconds and frames are both given; keep one")
            values["frames"] = frames_of(face, seconds)
        (job,) = service.submit([await face.wanted(values, picture, keyed(call, "video"))])
        return shown(face, job)

    @app.get("/v1/videos", summary="The videos, some at a time", openapi_extra=LISTED)
    async def videos(call: Call) -> dict[str, Any]:
        return await listed(call, service, partial(shown, face), filmed)

    @app.get("/v1/videos/{id}", summary="Where a video stands")
    async def show(id: str) -> dict[str, Any]:
        return shown(face, service.find(id))

    @app.get("/v1/videos/{id}/content", summary="The video")
    async def content(id: str) -> Response:
        return face.file(service.find(id))

    @app.delete("/v1/videos/{id}", summary="Give it up, and remove its files")
    async def delete(id: str) -> dict[str, Any]:
        await service.remove(service.find(id))
        return {"id": id, "object": "video.deleted", "deleted": True}


def named_and_sized(face: Face, values: dict[str, Any]) -> None:
    """Takes ``model`` and ``size`` out of the fields. Raises InputError for another model, and no size."""
    if (name := values.pop("model", face.model.name)) != face.model.name:
        raise RefusedError(404, f"this server has no model {name[:80]!r}: it serves {face.model.name}")
    size = values.pop("size", "auto")
    if size == "auto":
        return
    if (match := SIZE.fullmatch(size)) is None:
        raise InputError(f"size is {size[:80]!r}; write it as WIDTHxHEIGHT, such as 1280x720, or auto")
    if "width" in values or "height" in values:
        raise InputError("size is given beside width or height; keep one")
    values["width"], values["height"] = int(match[1]), int(match[2])


def frames_of(face: Face, seconds: float | str) -> int:
    """How many frames so many seconds are, as near as the model can make it."""
    try:
        count = float(seconds) * face.model.fps
        if not 0 < count <= face.limits.frames:
            raise ValueError
    except ValueError:
        most = face.limits.frames / face.model.fps
        raise InputError(f"seconds is {str(seconds)[:80]!r}; this server takes numbers up to {most:g}") from None
    return max(0, round((count - 1) / face.model.temporal)) * face.model.temporal + 1


def keyed(call: Call, what: str) -> str | None:
    """The id of a job for the Idempotency-Key of a call, whatever that key is made of."""
    key = call.headers.get(KEY)
    return None if key is None else f"{what}-{hashlib.sha256(key.encode()).hexdigest()[:32]}"


async def over(face: Face, call: Call, jobs: Sequence[Job], lasting: bool) -> None:
    """Returns when all jobs are completed. If the client goes away, they are cancelled unless ``lasting``.

    Raises :class:`RefusedError` if one of them is not made.
    """
    ends = asyncio.gather(*(job.end() for job in jobs))
    try:
        while not ends.done():
            await asyncio.wait([ends], timeout=GLANCE)
            if face.service.stopping.is_set() and any(job.status == QUEUED for job in jobs):
                after = {"Retry-After": "30"}
                raise RefusedError(
                    503, "the server is stopping; with the same Idempotency-Key, ask again", headers=after
                )
            if not ends.done() and await call.is_disconnected():
                raise RefusedError(499, "the client went away")
    finally:
        ends.cancel()
        if not lasting:
            for job in jobs:
                face.service.cancel(job)
    for job in jobs:
        if job.status == FAILED:
            raise RefusedError(400 if job.code == INPUT else 500, job.error or FAILED, code=job.code)
        if job.status == CANCELLED:
            raise RefusedError(409, f"the job {job.id!r} was cancelled by another call", code=CANCELLED)


def pictured(call: Call, job: Job, form: str) -> dict[str, str]:
    name = job.files[0]
    if form == "url":
        return {"url": str(call.url_for("file", id=job.id, name=name))}
    return {"b64_json": base64.b64encode((job.folder / name).read_bytes()).decode()}


def shown(face: Face, job: Job) -> dict[str, Any]:
    """A job as a video of OpenAI's: of its states it has no ``cancelled``."""
    request, ended, kept = job.request, job.ended and int(job.ended), face.service.kept
    error = {"code": job.code, "message": in_fields(job.error)} if job.error else None
    if job.status == CANCELLED:
        error = {"code": CANCELLED, "message": "it was given up"}
    return {
        "id": job.id,
        "object": "video",
        "model": face.model.name,
        "status": FAILED if job.status == CANCELLED else job.status,
        "progress": job.progress(),
        "created_at": int(job.created),
        "completed_at": ended if job.status == DONE else None,
        "expires_at": ended + int(kept) if ended and kept is not None else None,
        "prompt": request.prompt,
        "size": f"{request.width}x{request.height}" if request.width and request.height else None,
        "seconds": f"{request.num_frames / face.model.fps:g}" if request.num_frames else None,
        "error": error,
        "remixed_from_video_id": None,
    }
