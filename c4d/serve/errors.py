"""What a client is told when it does not get what it asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


class RefusedError(Exception):
    """A request that is answered with an error: an HTTP status, one message, and headers besides."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})


def body(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    """The error as OpenAI's clients read it; text that is not UTF-8 is escaped."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    said = " ".join(message.split()).encode(errors="backslashreplace").decode()
    return {"error": {"message": said, "type": kind, "param": None, "code": code}}


def in_fields(message: str) -> str:
    """A message of the command line in the words of a body: ``--guidance-scale`` is the field ``guidance_scale``."""
    return re.sub(r"(?<![\w-])--([a-z]+(?:-[a-z]+)*)", lambda found: found[1].replace("-", "_"), message)
