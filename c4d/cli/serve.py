"""``c4d serve``: the model that its options describe, behind :mod:`c4d.serve`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from c4d.backends import Backend, select
from c4d.bundled.models import BUNDLED
from c4d.cli.batch import Batch
from c4d.cli.command import Plan, chosen, load, prepare, skeleton_of
from c4d.cli.config import read_text
from c4d.cli.options import WHAT, Generating, ServeOptions
from c4d.cli.signals import Stops
from c4d.core.caching.profiles import QUALITIES
from c4d.core.importing import importing
from c4d.core.runtime.choice import AUTO
from c4d.memory_modes.mode import on_host
from c4d.pipelines import (
    InputError,
    Request,
    Step,
    call_arguments,
    exclusive_lock,
    kept,
    memory_explained,
    produce,
    write_manifest,
)
from c4d.pipelines.arguments import parameters_of
from c4d.pipelines.results import MANIFEST, MARK, complete

INSTALL = "pip install fastapi uvicorn prometheus-client python-multipart"
HERE = ("127.0.0.1", "::1", "localhost")


def run(options: ServeOptions, stops: Stops) -> None:
    """Serves until SIGTERM or SIGINT. Raises :class:`InputError` for what cannot be served."""
    for package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
        with importing(package, INSTALL):
            __import__(package)
    from c4d.serve.app import make_app
    from c4d.serve.server import listening, serve
    from c4d.serve.service import Service
    from c4d.serve.store import Store

    keys, limits, places = keys_of(options), options_limits(options), devices(options)
    if options.queue < 1:
        raise InputError(f"--queue is {options.queue!r}; allowed are whole numbers from 1")
    if not options.timeout > 0:
        raise InputError(f"--timeout is {options.timeout!r}; allowed are numbers above 0")
    if options.keep_hours is not None and not options.keep_hours > 0:
        raise InputError(f"--keep-hours is {options.keep_hours!r}; allowed are numbers above 0")
    served = Served(options, stops)
    stops.check()
    with exclusive_lock(options.out) as notes, listening(options.host, options.port) as where:
        for note in notes:
            print(f"note: {note}")
        host = f"[{options.host}]" if ":" in options.host else options.host
        print(f"serving {served.name} at http://{host}:{where.getsockname()[1]}, jobs in {options.out}", flush=True)
        kept = None if options.keep_hours is None else 3600 * options.keep_hours
        how: dict[str, Any] = {"devices": places, "queue": options.queue, "patience": options.timeout, "kept": kept}
        begun = partial(Service, Store(options.out), start_of(options, len(places)), **how)
        make = partial(make_app, model=served, limits=limits, keys=keys)
        asyncio.run(serve(begun, make, where, log="warning" if options.quiet else "info"))


def options_limits(options: ServeOptions) -> Any:
    """The limits of the options ``max_*``."""
    from c4d.serve.limits import Limits

    return Limits(**{each.name: getattr(options, f"max_{each.name}") for each in fields(Limits)})


def keys_of(options: ServeOptions) -> list[str]:
    """Raises :class:`InputError` for a file without keys, and where everybody in a network would be served."""
    if options.api_key_file is None:
        if options.host not in HERE:
            raise InputError(
                f"--host {options.host} is not this machine alone, and without keys everybody there could use it: give "
                "--api-key-file"
            )
        return []
    lines = [line.strip() for line in read_text(options.api_key_file, "API key file").split("\n")]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise InputError(f"API key file {str(options.api_key_file)!r} has no key; write one a line")
    return keys


def devices(options: ServeOptions) -> list[int]:
    """The device of each worker. Raises :class:`InputError` for those that are not there."""
    backend, workers = backend_of(options), options.workers
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers!r}; allowed are whole numbers from 1")
    if on_host(backend):
        if options.device is not None:
            raise InputError(
                f"--device counts devices, and backend {backend.name!r} has one: drop it, and give --workers"
            )
        return [0] * (workers or 1)
    there = torch.get_device_module(backend.device_type).device_count()
    places = list(options.device if options.device is not None else range(workers or 1))
    if workers is not None and workers != len(places):
        raise InputError(f"--workers is {workers} and --device has {len(places)}; a worker has a device of its own")
    if beyond := [place for place in places if not 0 <= place < there]:
        raise InputError(f"there is no device {beyond[0]}: backend {backend.name!r} has {there} here, counted from 0")
    return places


def backend_of(options: Generating) -> Backend:
    try:
        return select(options.backend)
    except ValueError as error:
        raise InputError(str(error)) from error


def start_of(options: ServeOptions, workers: int) -> Callable[[int], Maker]:
    """What a worker begins with; on CPUs the cores are divided, unless the options or the model say how many."""
    if on_host(backend_of(options)) and options.threads is None and options.model not in BUNDLED:
        options = replace(options, threads=max(1, (os.cpu_count() or 1) // workers))
    return partial(Maker, replace(options, quiet=True))


class Nothing(Batch):
    """What a server has to make when it begins: a prompt stands for those that will come."""

    def prompts(self) -> list[dict[str, Any]]:
        model = BUNDLED.get(self.options.model)
        return [{"prompt": model.example if model else "a photograph", "seed": self.options.seed}]


class Served:
    """A model without its weights: enough to tell which requests it can make (:class:`c4d.serve.model.Model`)."""

    def __init__(self, options: ServeOptions, stops: Stops) -> None:
        plan = prepare(options, stops, Nothing(options))
        self._options, self._pipe = options, skeleton_of(options)
        parameters = parameters_of(self._pipe) if callable(self._pipe) else {}
        self.name, self.fps, self.seed = options.model, plan.settings.fps, options.seed
        self.films = "num_frames" in parameters
        self.temporal = getattr(self._pipe, "vae_scale_factor_temporal", None) or 1
        self.quality = options.quality if options.cache == AUTO else None
        named = {each.name: each.metadata for each in fields(options)}
        self.texts: Mapping[str, str] = {
            name: how["help"] for name, how in named.items() if how["group"] == WHAT or name == "quality"
        }

    def request(self, values: Mapping[str, Any], image: Path | None) -> Request:
        """With the server's own where ``values`` say nothing. Raises :class:`InputError`."""
        given = replace(self._options, image=() if image is None else (image,), **values)
        request = given.parts_of(Request, num_frames=given.frames)
        if (model := BUNDLED.get(given.model)) is not None:
            request = request.with_defaults(model.defaults)
        if callable(self._pipe):  # else only the whole pipeline can tell, in the worker
            call_arguments(self._pipe, request)
        return request

    def check_quality(self, quality: str | None) -> None:
        """Raises :class:`InputError` where the method is fixed."""
        if quality is not None and self.quality is None:
            raise InputError(
                f"quality is {quality!r}, and this server caches by {self._options.cache or 'nothing'}, which has none "
                f"of {', '.join(QUALITIES)}; leave it out"
            )


class Maker:
    """A pipeline on a device, in the process of a worker (:class:`c4d.serve.worker.Make`)."""

    def __init__(self, options: ServeOptions, device: int) -> None:
        if not on_host(backend_of(options)):
            torch.accelerator.set_device_index(device)
        self._options, self._until_done, self._notes = options, ExitStack(), list[str]()
        self._plan: Plan = prepare(options, Stops(), Nothing(options))
        self._pipe, self._attention, _ = load(options, self._plan, [], self._notes, self._until_done)

    def __call__(
        self, folder: Path, request: Request, quality: str | None, stepped: Callable[[Step], None]
    ) -> list[str]:
        """What ``c4d generate`` would leave; what is complete already, of this very request, stays as it is."""
        plan, options = self._plan, self._options
        method, note = chosen(replace(options, quality=quality or options.quality), self._pipe, request)
        settings = replace(plan.settings, cache=method)
        record = complete(folder)
        if record is None or not kept([(folder, request)], settings, {folder: record}):
            notes = [*self._notes, *([note] if note else [])]
            how: dict[str, Any] = {"attention": self._attention, "notes": notes, "stepped": stepped}
            with memory_explained(plan.backend, settings):
                record, _ = produce(self._pipe, request, settings, folder, backend=plan.backend, progress=False, **how)
        write_manifest(folder, {folder: record})
        return [*record["files"], MARK, MANIFEST]
