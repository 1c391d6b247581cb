"""What a client sends, as models of pydantic that follow from the fields of :class:`c4d.pipelines.Request`."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from starlette.datastructures import UploadFile
from starlette.requests import Request as Call

from c4d.core.caching.profiles import QUALITIES
from c4d.pipelines import Request
from c4d.pipelines.arguments import OPTIONS
from c4d.pipelines.request import FILMS, PICTURES
from c4d.serve.errors import RefusedError

JSON, FORM = "application/json", "multipart/form-data"
# Field of Request -> its name in a body, which is that of the option without its dashes.
NAMES = {field: option[2:].replace("-", "_") for field, option in OPTIONS.values()}
PICTURE = "first frame, for image-to-video models: base64 of a PNG, JPEG or WEBP"


def body(title: str, texts: Mapping[str, str], without: Sequence[str] = (), **own: tuple[Any, Any]) -> type[BaseModel]:
    """The model of a body: the fields of a request and its quality, all but ``without``, and ``own`` beside them.

    ``texts`` say what each is. Whatever is not given is the server's choice; an unknown field is an error.
    """
    hints, made = get_type_hints(Request), dict[str, Any]()
    for each in fields(Request):
        if each.name in (*PICTURES, *FILMS, "argument") and each.name != "image":
            continue  # they can name files of this machine, which a client has no business with
        name = NAMES.get(each.name, each.name)
        kind = hints[each.name]
        if each.name == "image":
            made[name] = (str | None, Field(None, description=PICTURE))
        elif each.name == "prompt":
            made[name] = (str, Field(description=texts.get(name)))
        else:
            made[name] = (kind | None, Field(None, description=texts.get(name)))
    qualities = Literal[tuple(QUALITIES)]  # type: ignore[valid-type]
    made["quality"] = (qualities | None, Field(None, description=texts.get("quality")))
    chosen = {name: what for name, what in {**made, **own}.items() if name not in without}
    return create_model(title, __config__=ConfigDict(extra="forbid"), **chosen)


def documented(model: type[BaseModel], form: bool = False) -> dict[str, Any]:
    """What OpenAPI says of a route with such a body."""
    schema = {"schema": model.model_json_schema()}
    return {"requestBody": {"required": True, "content": dict.fromkeys((JSON, *([FORM] if form else ())), schema)}}


async def read(call: Call, model: type[BaseModel], form: bool = False) -> tuple[dict[str, Any], bytes | None]:
    """What the body gives of the fields of ``model``, and the bytes of its picture, if it has one.

    A picture is base64 in JSON, or with ``form`` a file of multipart/form-data. Raises :class:`RefusedError`.
    """
    kind = call.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == FORM and form:
        values, picture = await _form(call)
    elif kind == JSON:
        values, picture = _json(await call.body()), None
    else:
        known = f"{JSON} or {FORM}" if form else JSON
        raise RefusedError(415, f"the content type is {kind[:80]!r}; send {known}")
    try:
        asked = model.model_validate(values, strict=kind == JSON).model_dump(exclude_none=True)
    except ValidationError as error:
        raise RefusedError(400, _said(error, model)) from error
    for name, value in asked.items():
        _check_utf8(name, str(value))
    coded = asked.pop("image", None)
    return asked, _decoded(coded) if coded is not None else picture


def _check_utf8(name: str, text: str) -> None:
    """JSON can say half of a pair of surrogates, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RefusedError(400, f"{name} is not UTF-8: {error}; send whole characters") from error


def _json(data: bytes) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    try:
        values = json.loads(data.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the body is no JSON in UTF-8: {error}") from error
    if not isinstance(values, dict):
        raise RefusedError(400, f"the body is JSON of another kind, {str(values)[:40]!r}; send an object with fields")
    return values


async def _form(call: Call) -> tuple[dict[str, Any], bytes | None]:
    """The texts of a form, and the one file that may be with them, as ``image`` or as OpenAI's clients call it."""
    values: dict[str, Any] = {}
    picture = None
    async with call.form(max_files=1, max_fields=32) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name not in ("image", "input_reference"):
                    raise RefusedError(400, f"there is a file called {name[:80]!r}; send it as input_reference")
                picture = await value.read()
            elif name in values:
                raise RefusedError(400, f"{name[:80]} is given twice; keep one")
            else:
                values[name] = value
    return values, picture


def _decoded(text: str) -> bytes:
    head, comma, rest = text.partition(",")
    data = rest if comma and head.startswith("data:image/") and head.endswith(";base64") else text
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError(
            400, f"image is no base64 ({error}); send a picture's bytes in base64, never a name or an address"
        ) from error


def _said(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing that is wrong: the field, the value, and what is allowed."""
    first = error.errors(include_url=False)[0]
    name = ".".join(map(str, first["loc"]))[:80]
    if first["type"] == "extra_forbidden":
        return f"unknown field {name!r}: known are {', '.join(model.model_fields)}"
    if first["type"] == "missing":
        return f"{name} is missing; it is {model.model_fields[name].description or 'needed'}"
    value = repr(first["input"])
    return f"{name} is {value if len(value) <= 80 else value[:77] + '...'}: {first['msg'][0].lower()}{first['msg'][1:]}"


def said(request: Request) -> dict[str, Any]:
    """A request by the names of its body, a picture only as being there."""
    told = {NAMES.get(each.name, each.name): getattr(request, each.name) for each in fields(request)}
    return {name: isinstance(value, Path) or value for name, value in told.items() if value is not None}
