"""What stands before every route: the key, the size of a body, and the count of answers."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from c4d.serve.errors import RefusedError, body
from c4d.serve.metrics import Metrics

OPEN = ("/healthz", "/readyz")  # for who watches the process; they say nothing of jobs


class Gate:
    """Lets through who has one of ``keys`` (none: everybody), and at most ``upload`` bytes of a body."""

    def __init__(self, app: ASGIApp, *, keys: Sequence[str], upload: int, metrics: Metrics) -> None:
        self.app, self.upload, self.metrics = app, upload, metrics
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status = 500

        async def sent(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            if (refused := self._refused(scope)) is not None:
                said = JSONResponse(body(refused.status, str(refused)), refused.status, refused.headers)
                return await said(scope, receive, sent)
            await self.app(scope, self._bounded(receive), sent)
        finally:
            route = getattr(scope.get("route"), "path", "none")  # never the path itself: those have no end
            self.metrics.calls.labels(route, str(status)).inc()

    def _refused(self, scope: Scope) -> RefusedError | None:
        headers = dict(scope["headers"])
        if self.keys and scope["path"] not in OPEN and not self._known(headers.get(b"authorization", b"")):
            needed = {"WWW-Authenticate": "Bearer"}
            return RefusedError(
                401, "the API key is missing or unknown; send Authorization: Bearer KEY", headers=needed
            )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return RefusedError(400, "the Content-Length is no number")
        return self._too_long() if len(length) > 18 or int(length) > self.upload else None

    def _known(self, given: bytes) -> bool:
        """In a time that does not tell how much of a key was right, nor which."""
        kind, _, key = given.partition(b" ")
        same = [hmac.compare_digest(key.strip(), known) for known in self.keys]
        return kind.lower() == b"bearer" and any(same)

    def _bounded(self, receive: Receive) -> Receive:
        """A body may have no length, or another one than it says."""
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message: dict[str, Any] = dict(await receive())
            taken += len(message.get("body", b""))
            if taken > self.upload:
                raise self._too_long()
            return message

        return bounded

    def _too_long(self) -> RefusedError:
        return RefusedError(413, f"the body has more than {self.upload} bytes, which is what this server reads")
