"""A real worker over the bundled model: what it makes, what a request that is given up leaves, how a server leaves."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from contextlib import suppress

import pytest
import torch

from c4d.cli.options import ServeOptions
from c4d.cli.signals import Stops
from c4d.pipelines import InputError, Request
from tests.serve.conftest import PROMPT
from tests.serve.test_jobs import events, run

pytest.importorskip("fastapi", reason="c4d serve needs the extra `serve`")
pytestmark = pytest.mark.slow
METHOD = "taylorseer-lite:interval=2,last=1@blocks"


def quiet(step):
    pass


class Gone(Exception):
    pass


def held():
    """Bytes of all tensors there are."""
    gc.collect()
    found = [each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)]
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in found}.values())


def test_a_request_that_is_given_up_holds_nothing_and_changes_no_other(tmp_path):
    from c4d.cli.serve import Maker

    maker = Maker(ServeOptions(out=tmp_path, cache=METHOD, quiet=True), 0)
    request = Request(PROMPT, height=32, width=32, num_frames=5, steps=6, guidance_scale=4.0, seed=1)
    steps = []
    first = maker(tmp_path / "first", request, None, steps.append)
    assert first == ["video.mp4", "sheet.png", "report.html", "report.json", "manifest.jsonl"]
    assert [(step.number, step.of) for step in steps] == [(k, 6) for k in range(1, 7)]
    report = json.loads((tmp_path / "first/report.json").read_text())
    assert [step.computed for step in steps] == [True, False, True, False, True, True]
    assert sum(step.computed for step in steps) * 2 == report["session"]["computed"]  # of both branches
    other = Request(PROMPT, height=48, width=48, num_frames=5, steps=4, guidance_scale=4.0)
    maker(tmp_path / "other", other, None, quiet)  # its scheduler keeps the last outputs, until the next run
    before, at_work = held(), []

    def give_up(step):
        if step.number == 3:
            at_work.append(held())
            raise Gone

    for _ in range(2):
        with suppress(Gone):
            maker(tmp_path / "gone", other, None, give_up)
    assert held() <= before < min(at_work) and not (tmp_path / "gone").exists()
    maker(tmp_path / "again", request, None, quiet)
    assert (tmp_path / "again/video.mp4").read_bytes() == (tmp_path / "first/video.mp4").read_bytes()
    made = (tmp_path / "first/video.mp4").stat().st_mtime_ns
    assert maker(tmp_path / "first", request, None, quiet) == first  # its worker had died before it could say so
    assert (tmp_path / "first/video.mp4").stat().st_mtime_ns == made


def test_quality_is_of_the_request_unless_the_method_is_fixed(tmp_path, served):
    from c4d.cli.serve import Maker, Served

    served.check_quality("fast")
    fixed = Served(ServeOptions(out=tmp_path, cache=METHOD), Stops())
    assert fixed.quality is None
    with pytest.raises(InputError, match=f"quality is 'fast', and this server caches by {METHOD}"):
        fixed.check_quality("fast")
    maker = Maker(ServeOptions(out=tmp_path, quiet=True), 0)
    request = Request(PROMPT, height=32, width=32, num_frames=1, steps=20, guidance_scale=4.0)
    computed = {}
    for quality in ("high", "fast"):
        computed[quality] = []
        maker(tmp_path / quality, request, quality, lambda step, to=computed[quality]: to.append(step.computed))
    assert sum(computed["fast"]) < sum(computed["high"]) < 20


async def steps(client, id, then):
    """Calls ``then`` after the first step of a job."""
    async with client.stream("GET", f"/jobs/{id}/events") as stream:
        async for line in stream.aiter_lines():
            if line == "event: step":
                return then()
    raise AssertionError("no step")


async def ready(client, *statuses):
    """Returns when the server says that it is in one of these."""
    while (await client.get("/readyz")).json()["status"] not in statuses:
        await asyncio.sleep(0.05)


def test_a_server_from_its_start_to_its_end(tmp_path, served):
    """Its worker is killed in the middle of a job, a job is given up, and SIGTERM comes while one is made."""
    import httpx

    from c4d.cli.serve import Maker, start_of
    from c4d.serve.app import make_app
    from c4d.serve.limits import Limits
    from c4d.serve.server import listening, serve
    from c4d.serve.service import Service
    from c4d.serve.store import Store

    options = ServeOptions(out=tmp_path / "out", frames=1)
    services = []

    def begun():
        services.append(Service(Store(options.out), start_of(options, 1)))
        return services[0]

    async def act():
        where = listening("127.0.0.1", 0)
        serving = asyncio.create_task(serve(begun, lambda service: make_app(service, served, Limits()), where))
        address = f"http://127.0.0.1:{where.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:

            async def asked(id, steps):
                body = {"prompt": PROMPT, "id": id, "steps": steps, "frames": 1}
                assert (await client.post("/jobs", json=body)).status_code == 202

            while not services or services[0].workers[0].pid is None:
                await asyncio.sleep(0.01)
            (worker,) = services[0].workers
            os.kill(worker.pid, signal.SIGINT)  # Ctrl-C, which is the server's to hear, while it loads
            await ready(client, "ready")
            first = worker.pid
            await asked("given-up", 90)
            await steps(client, "given-up", lambda: services[0].cancel(services[0].find("given-up")))
            await asked("killed", 30)
            await steps(client, "killed", lambda: os.kill(first, signal.SIGKILL))
            told = events((await client.get("/jobs/killed/events")).text)[-1][1]
            assert told["status"] == "completed" and told["attempts"] == 2 and worker.pid != first
            assert services[0].find("given-up").status == "cancelled"
            await asked("last", 60)
            await asked("waits", 4)
            await steps(client, "last", lambda: os.kill(os.getpid(), signal.SIGTERM))
            await ready(client, "stopping")
            assert (await client.post("/jobs", json={"prompt": PROMPT})).status_code == 503
            await serving
        assert not worker.alive

    run(act, limit=300)
    store = Store(options.out)
    assert [store.find(id).status for id in ("last", "waits")] == ["completed", "queued"]
    maker = Maker(ServeOptions(out=tmp_path, quiet=True), 0)
    maker(tmp_path / "alone", store.find("killed").request, "balanced", quiet)
    assert (tmp_path / "alone/image.png").read_bytes() == (options.out / "killed/image.png").read_bytes()
