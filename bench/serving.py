"""An hour of a server's requests in some minutes, with a worker killed on the way, and 200 malformed requests.

    python -m bench.serving [--requests 360] [--workers 2] [--pause 0.9]    # writes docs/measurements/serving.md

Requests arrive at random (a Poisson process), more than the queue holds at times, and mix pictures and clips of several
prompts, seeds, sizes and qualities; some are given up, some sent twice. Afterwards every job that was accepted has to
be there, and every picture has to be the one that a pipeline makes of the request alone.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from bench.stamp import ROOT, stamp

KEY = "a-key-of-the-bench"
PROMPTS = [
    f"a {colour} {shape} moving {way} on a black background"
    for colour, shape, way in (("red", "circle", "left"), ("blue", "square", "up"), ("green", "triangle", "right"))
]
KINDS = 9  # of requests under load
MALFORMED = 200
PAGE = ROOT / "docs/measurements/serving.md"
MIB = 2**20

# -- requests that nobody can serve

PATHS = ("/jobs", "/v1/images/generations", "/v1/videos")
BODIES: tuple[bytes, ...] = (
    b"", b"{", b"[]", b"null", b"3", b'"text"', b"{}", b'{"prompt":}', b'{"prompt": "a"', b"\xff\xfe{}", b"prompt=a",
    b"[" * 5000, b'{"a":' * 5000, b'{"prompt": "a", "steps": NaN}', b'{"prompt": "a", "steps": 1e400}',
    b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", b'{"prompt": "\\ud800"}', b'{"prompt": "a\\u0000"}',
)  # fmt: skip
FIELDS: tuple[dict[str, Any], ...] = (
    {"prompt": None}, {"prompt": 3}, {"prompt": ["a"]}, {"prompt": {"a": 1}}, {"prompt": ""}, {"prompt": " \n"},
    {"prompt": "a" * 10_000}, {"negative_prompt": 3}, {"negative_prompt": "a" * 10_000}, {"height": -16}, {"height": 0},
    {"height": 17}, {"height": 1 << 70}, {"width": 2.5}, {"width": "wide"}, {"width": 1_000_000}, {"steps": 0},
    {"steps": -3}, {"steps": 10**9}, {"steps": True}, {"steps": [4]}, {"guidance_scale": -1}, {"guidance_scale": "x"},
    {"max_sequence_length": 10**9}, {"seed": -1}, {"seed": 1 << 63}, {"seed": 1.5}, {"quality": "hd"}, {"quality": 3},
    {"unknown": 1}, {"__class__": "x"}, {"cache": "fora:interval=2"}, {"image": "../../etc/passwd"},
    {"image": "http://localhost/x.png"}, {"image": "AAAA"}, {"image": 3},
)  # fmt: skip
OWN: dict[str, tuple[dict[str, Any], ...]] = {
    "/jobs": ({"id": "../x"}, {"id": ""}, {"id": "a/b"}, {"id": 3}, {"id": "é"}, {"frames": 2}, {"frames": 10**6}),
    "/v1/images/generations": (
        {"n": 0}, {"n": -1}, {"n": 10**6}, {"n": "2"}, {"size": "x"}, {"size": "1x1x1"}, {"size": "99999x99999"},
        {"size": 32}, {"model": "other"}, {"model": 3}, {"response_format": "gif"}, {"frames": 5},
        {"size": "32x32", "height": 32},
    ),
    "/v1/videos": (
        {"seconds": "soon"}, {"seconds": -1}, {"seconds": 1e308}, {"seconds": []}, {"seconds": "nan"},
        {"seconds": "inf"}, {"seconds": 1, "frames": 5}, {"size": "32"}, {"model": "sora-2"},
    ),
}  # fmt: skip
LOST = (
    ("GET", "/"), ("GET", "/jobs?limit=0"),
    ("GET", "/jobs/none"), ("GET", "/jobs/%2e%2e"), ("GET", "/jobs/..%2f..%2fetc"),
    ("GET", "/jobs/none/files/%2e%2e%2fjob.json"), ("GET", "/jobs/none/events"), ("POST", "/jobs/none/cancel"),
    ("DELETE", "/jobs/none"), ("PUT", "/jobs"), ("PATCH", "/v1/videos"), ("GET", "/v1/videos/none"),
    ("GET", "/v1/videos/none/content"), ("DELETE", "/v1/videos/%00"), ("GET", "/v1/images/generations"),
    ("POST", "/healthz"), ("GET", "/v1/videos/" + "a" * 3000), ("OPTIONS", "/jobs"),
)  # fmt: skip


def malformed(key: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """``MALFORMED`` requests: method, path, and what httpx sends with them."""
    made = list(_malformed(key))
    yield from made[:MALFORMED]


def _malformed(key: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    kind = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    yield from (("POST", path, {"content": body, "headers": kind}) for path in PATHS for body in BODIES)
    for method, path in LOST:
        yield method, path, {}
    for path in PATHS:
        yield from (("POST", path, {"json": {"prompt": "a", **wrong}}) for wrong in OWN[path])
        for wrong in ("text/plain", "multipart/form-data", "multipart/form-data; boundary=x", "", "application/xml"):
            yield "POST", path, {"content": b"--x\r\nno form", "headers": {**kind, "content-type": wrong}}
        for header in ("", "Bearer", "Bearer wrong", "Basic eDp5"):
            yield "POST", path, {"json": {"prompt": "a"}, "headers": {"authorization": header}}
        yield "POST", path, {"content": b'{"prompt": "' + b"a" * (21 * MIB), "headers": kind}
    for path in PATHS:
        yield from (("POST", path, {"json": {"prompt": "a", **wrong}}) for wrong in FIELDS)


# -- a server in a process of its own


class Memory(threading.Thread):
    """Bytes that the server and its workers hold, by process, from now to ``done``."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root, self._over, self.seen = psutil.Process(pid), threading.Event(), dict[int, list[int]]()

    def run(self) -> None:
        while not self._over.wait(0.5):
            for each in [self._root, *workers_of(self._root.pid)]:
                try:
                    self.seen.setdefault(each.pid, []).append(each.memory_full_info().uss)
                except psutil.Error:
                    continue

    def done(self) -> None:
        self._over.set()
        self.join()


def workers_of(pid: int) -> list[psutil.Process]:
    """The workers of a server; spawned processes have another one beside them that counts what they share."""
    try:
        children = psutil.Process(pid).children()
        return [each for each in children if "spawn_main" in " ".join(each.cmdline())]
    except psutil.Error:
        return []


@contextmanager
def server(*words: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``c4d serve`` with these words, ready; its process and its address. It is killed if it does not leave."""
    command = [sys.executable, "-m", "c4d", "serve", "--port", "0", "--quiet", *map(str, words)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+:\d+", line)
        if found is None:
            raise RuntimeError(f"c4d serve did not start: {line!r}")
        yield process, found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()


# -- its load


@dataclass(frozen=True)
class Wish:
    """A request; ``given_up``: cancelled soon after it was accepted."""

    body: tuple[tuple[str, Any], ...]
    given_up: bool = False
    twice: bool = False


@dataclass
class Outcome:
    """What became of the requests, by id."""

    accepted: dict[str, Wish] = field(default_factory=dict)
    ended: dict[str, dict[str, Any]] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)  # digests
    retried: int = 0
    killed: int = 0
    seconds: float = 0.0


def wishes(count: int, seed: int = 0) -> list[Wish]:
    """As many requests of ``KINDS`` kinds, so that each kind can be made once more, alone."""
    draw, kinds = random.Random(seed), list[tuple[tuple[str, Any], ...]]()
    for number in range(KINDS):
        steps, frames = ((4, 1), (12, 1), (12, 5))[number % 3]
        size = draw.choice(({}, {"height": 32, "width": 48}))
        body = {"prompt": draw.choice(PROMPTS), "seed": number, "steps": steps, "frames": frames, **size}
        kinds.append(tuple(sorted({**body, "quality": draw.choice(("balanced", "fast"))}.items())))
    return [Wish(draw.choice(kinds), draw.random() < 0.08, draw.random() < 0.08) for _ in range(count)]


async def one(client: Any, id: str, wish: Wish, found: Outcome, most: float) -> None:
    """Asks until there is room, after ``most`` seconds at most, gives up if it is to, and reads what was made."""
    body = {"id": id, **dict(wish.body)}
    while True:
        answer = await client.post("/jobs", json=body)
        if answer.status_code != 429:
            break
        found.retried += 1
        await asyncio.sleep(min(float(answer.headers["retry-after"]), most))
    assert answer.status_code == 202, answer.text
    found.accepted[id] = wish
    if wish.twice:
        again = await client.post("/jobs", json=body)
        assert again.status_code == 202 and again.json()["id"] == id, again.text
    if wish.given_up:
        await asyncio.sleep(0.3)
        await client.post(f"/jobs/{id}/cancel")
    async with client.stream("GET", f"/jobs/{id}/events") as stream:
        async for _ in stream.aiter_lines():
            pass
    told = (await client.get(f"/jobs/{id}")).json()
    found.ended[id] = told
    if told["status"] == "completed":
        content = (await client.get(next(iter(told["files"].values())))).content
        found.pictures[id] = hashlib.sha256(content).hexdigest()


async def load(
    client: Any, asked: list[Wish], pause: float, kill: Callable[[], int] | None = None, most: float = 2.0
) -> Outcome:
    """Sends ``asked``, on average ``pause`` seconds apart; in the middle ``kill`` ends workers, and says how many."""
    draw, found, started, going = random.Random(1), Outcome(), time.monotonic(), list[asyncio.Task[None]]()
    for number, wish in enumerate(asked):
        going.append(asyncio.create_task(one(client, f"job-{number}", wish, found, most)))
        if kill is not None and number == len(asked) // 2:
            found.killed = kill()
        await asyncio.sleep(draw.expovariate(1 / pause))
    await asyncio.gather(*going)
    found.seconds = time.monotonic() - started
    return found


def alone(kinds: set[tuple[tuple[str, Any], ...]], out: Path) -> dict[tuple[tuple[str, Any], ...], str]:
    """The digest of the picture of each kind of request, made here, one after the other."""
    from c4d.cli.options import ServeOptions
    from c4d.cli.serve import Maker, Served
    from c4d.cli.signals import Stops

    options = ServeOptions(out=out, quiet=True)
    served, maker, digests = Served(options, Stops()), Maker(options, 0), {}
    for number, kind in enumerate(sorted(kinds)):
        values = dict(kind)
        quality, folder = values.pop("quality"), out / f"{number:03d}"
        name = maker(folder, served.request(values, None), quality, lambda step: None)[0]
        digests[kind] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return digests


def wrong(found: Outcome, expected: dict[tuple[tuple[str, Any], ...], str]) -> list[str]:
    """What is not as it has to be: jobs that were lost or failed, and pictures that are others."""
    lines = [f"{id} was lost" for id in found.accepted if id not in found.ended]
    for id, told in found.ended.items():
        wish = found.accepted[id]
        if told["status"] not in ("completed", *(["cancelled"] if wish.given_up else [])):
            lines.append(f"{id} is {told['status']}: {told['error']}")
        elif told["status"] == "completed" and found.pictures[id] != expected[wish.body]:
            lines.append(f"{id} has another picture than {wish.body} alone")
    return lines


def growth(seen: list[int]) -> float:
    """MiB that a process holds more in its last quarter than in its second."""
    quarter = len(seen) // 4
    return (median(seen[3 * quarter :]) - median(seen[quarter : 2 * quarter])) / MIB if quarter else 0.0


def main() -> None:
    import httpx

    asking = argparse.ArgumentParser(description=__doc__)
    asking.add_argument("--requests", type=int, default=360)
    asking.add_argument("--workers", type=int, default=2)
    asking.add_argument("--pause", type=float, default=0.9, help="seconds between requests, on average")
    given = asking.parse_args()
    asked = wishes(given.requests)
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "keys").write_text(KEY)
        words = ["--out", Path(place) / "jobs", "--workers", given.workers, "--queue", 12]
        with server(*words, "--api-key-file", Path(place) / "keys") as (process, address):

            def kill() -> int:
                victim = workers_of(process.pid)[0]
                victim.kill()
                return 1

            async def act() -> tuple[Outcome, Counter[int], str, Memory]:
                headers = {"Authorization": f"Bearer {KEY}"}
                limits = httpx.Limits(max_connections=None)
                async with httpx.AsyncClient(base_url=address, headers=headers, timeout=600, limits=limits) as client:
                    while (await client.get("/readyz")).json()["workers"]["ready"] < given.workers:
                        await asyncio.sleep(0.5)
                    memory = Memory(process.pid)
                    memory.start()
                    found = await load(client, asked, given.pause, kill)
                    answers = Counter[int]()
                    for method, path, how in malformed(KEY):
                        answers[(await client.request(method, path, **how)).status_code] += 1
                    memory.done()
                    return found, answers, (await client.get("/metrics")).text, memory

            found, answers, metrics, memory = asyncio.run(act())
        left = process.returncode
        expected = alone({wish.body for wish in asked}, Path(place) / "alone")
    lines = wrong(found, expected)
    write(given, found, answers, metrics, memory, lines, left)
    for line in lines:
        print(line, file=sys.stderr)
    bad = [status for status in answers if not 400 <= status < 500]
    sys.exit(bool(lines or bad or left))


def write(
    given: argparse.Namespace,
    found: Outcome,
    answers: Counter[int],
    metrics: str,
    memory: Memory,
    lines: list[str],
    left: int,
) -> None:
    ends = Counter(told["status"] for told in found.ended.values())
    again = sum(told["attempts"] > 1 for told in found.ended.values())
    forecast = re.search(r'c4d_steps_total{kind="forecast"} (\S+)', metrics)
    computed = re.search(r'c4d_steps_total{kind="computed"} (\S+)', metrics)
    steps = [f"{float(each[1]):.0f}" if each else "0" for each in (computed, forecast)]
    grown = [
        f"| {'server' if number == 0 else f'worker {number}'} | {len(seen) / 2:.0f} | {median(seen) / MIB:.0f} | "
        f"{max(seen) / MIB:.0f} | {growth(seen):+.1f} |"
        for number, seen in enumerate(memory.seen.values())
    ]
    kinds = len({wish.body for wish in found.accepted.values()})
    ended = ", ".join(f"{count} {name}" for name, count in sorted(ends.items()))
    told = json.dumps({str(status): count for status, count in sorted(answers.items())})
    PAGE.write_text(
        "\n".join(
            [
                "# A server under load",
                "",
                *stamp(f"python -m bench.serving {' '.join(sys.argv[1:])}".strip(), 1),
                "",
                f"{given.requests} requests for `wan-tiny` of {kinds} kinds came in {found.seconds:.0f} s: an hour of "
                f"one every {3600 / given.requests:.0f} s, {3600 / found.seconds:.0f} times as fast. "
                f"`c4d serve --workers {given.workers} --queue 12`; a worker was killed in the middle.",
                "",
                f"- Accepted {len(found.accepted)}; {ended}; lost {len(found.accepted) - len(found.ended)}. "
                f"{again} begun more than once.",
                f"- {found.retried} answers were 429; all came again after Retry-After, or 2 s.",
                f"- Pictures and clips that differ from the same request made alone: "
                f"{sum('another picture' in line for line in lines)} of {len(found.pictures)}.",
                f"- Steps computed {steps[0]}, forecast {steps[1]}.",
                f"- {sum(answers.values())} malformed requests were answered: {told}.",
                f"- At SIGTERM the server drained and ended with status {left}.",
                "",
                "Memory that each process holds by itself (USS), MiB; growth is the median of its last quarter above "
                "that of its second:",
                "",
                "| process | seconds | median | most | growth |",
                "|---|---|---|---|---|",
                *grown,
                "",
            ]
        )
    )
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
