"""Jobs in a row, some at a time, as OpenAI's clients page through them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from starlette.requests import Request as Call

from c4d.pipelines import InputError
from c4d.serve.errors import RefusedError
from c4d.serve.jobs import Job
from c4d.serve.service import Service

MOST, USUAL = 100, 20
ORDERS = ("desc", "asc")
FIELDS = {
    "after": {"type": "string", "description": "the id after which the list goes on; default: its beginning"},
    "limit": {"type": "integer", "minimum": 1, "maximum": MOST, "default": USUAL},
    "order": {"type": "string", "enum": ORDERS, "default": ORDERS[0], "description": "by when they were asked for"},
}
LISTED = {"parameters": [{"name": name, "in": "query", "schema": schema} for name, schema in FIELDS.items()]}


async def listed(
    call: Call, service: Service, told: Callable[[Job], dict[str, Any]], these: Callable[[Job], bool] = lambda job: True
) -> dict[str, Any]:
    """A page of the jobs that are ``these``, each as ``told``. Raises InputError for a query that is none."""
    after, limit, newest_first = asked(call)
    jobs = [job for job in await asyncio.to_thread(service.store.all) if these(job)]
    if newest_first:
        jobs.reverse()
    if after is not None:
        places = [place for place, job in enumerate(jobs) if job.id == after]
        if not places:
            raise RefusedError(404, f"after is {after[:80]!r}, and this list has no such id; begin it without")
        jobs = jobs[places[0] + 1 :]
    page = [told(service.live(job)) for job in jobs[:limit]]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    return {"object": "list", "data": page, **ends, "has_more": len(jobs) > limit}


def asked(call: Call) -> tuple[str | None, int, bool]:
    """(after, limit, newest first) of a query."""
    given = dict(call.query_params)
    if unknown := [name for name in given if name not in FIELDS]:
        raise InputError(f"there is no query {unknown[0][:80]!r}; a list takes {', '.join(FIELDS)}")
    limit, order = given.get("limit", str(USUAL)), given.get("order", ORDERS[0])
    if not (re.fullmatch("[0-9]{1,9}", limit) and 1 <= int(limit) <= MOST):
        raise InputError(f"limit is {limit[:80]!r}; allowed are whole numbers from 1 to {MOST}")
    if order not in ORDERS:
        raise InputError(f"order is {order[:80]!r}; it is desc, the newest first, or asc")
    return given.get("after"), int(limit), order == ORDERS[0]
