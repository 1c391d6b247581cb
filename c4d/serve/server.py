"""uvicorn around the application: it leaves when what was begun is over."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI

from c4d.pipelines import InputError
from c4d.serve.service import Service

CLOSING = 5  # seconds that open connections have when all jobs are over


def listening(host: str, port: int) -> socket.socket:
    """Raises :class:`InputError` for an address that cannot be had."""
    try:
        kind = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=kind, backlog=2048)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port} cannot be had: {error}; name another") from error


class Server(uvicorn.Server):
    """The first SIGTERM or SIGINT drains the service, with the routes still there; a second one ends it at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service, self._loop = service, asyncio.get_running_loop()
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self._draining is not None:
            super().handle_exit(sig, frame)
            return
        self._draining = self._loop.create_task(self._drained())
        self._loop.call_soon_threadsafe(lambda: None)  # a loop that waits for the network wakes up

    async def _drained(self) -> None:
        await self._service.drain()
        self.should_exit = True


async def serve(
    begun: Callable[[], Service], app: Callable[[Service], FastAPI], where: socket.socket, log: str = "warning"
) -> None:
    """Serves until it is told to stop. Raises :class:`InputError` if no worker can load to begin with."""
    service = begun()
    config = uvicorn.Config(app(service), log_level=log, lifespan="off", timeout_graceful_shutdown=CLOSING)
    server = Server(config, service)
    try:
        service.begin()
        serving = asyncio.ensure_future(server.serve([where]))
        both: list[asyncio.Future[Any]] = [serving, service.broken]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if service.broken.done():
            server.should_exit = True
        await serving
        if service.broken.done():
            raise InputError(service.broken.result())
    finally:
        await service.close()
