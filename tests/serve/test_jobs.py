"""Jobs over HTTP: the queue, its workers, and what stays on disk."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math

import pytest

from bench.serving import Outcome, Wish, load, wishes, wrong
from tests.serve.conftest import PROMPT

pytest.importorskip("fastapi", reason="c4d serve needs the extra `serve`")


def events(text):
    """(name, data) of server-sent events; comments are none."""
    parts = [dict(line.split(": ", 1) for line in part.splitlines()) for part in text.split("\n\n") if "event:" in part]
    return [(part["event"], json.loads(part["data"])) for part in parts]


def run(act, limit=60):
    asyncio.run(asyncio.wait_for(act(), limit))


def test_a_job_is_made_told_and_found_again(site, tmp_path):
    async def act():
        async with site() as s:
            answer = await s.job(id="mine", seed=3, quality="fast")
            assert answer.status_code == 202 and answer.json()["status"] == "queued"
            told = events((await s.client.get("/jobs/mine/events")).text)
            assert [data["status"] for name, data in told if name == "status"][-1] == "completed"
            steps = [data for name, data in told if name == "step"]
            assert steps == [{"step": k, "of": 4, "computed": k != 3} for k in (1, 2, 3, 4)]
            found = await s.over("mine")
            assert found["request"]["seed"] == 3 and found["quality"] == "fast" and found["progress"] == 100
            file = await s.client.get(found["files"]["image.png"])
            assert file.content == f"{PROMPT} 3".encode() and file.headers["content-type"] == "image/png"
            again = await s.job(id="mine", seed=3, quality="fast")
            assert again.status_code == 202 and again.json()["status"] == "completed" and s.maker.made == [PROMPT]
            other = await s.job(id="mine", seed=4, quality="fast")
            assert other.status_code == 409 and "'mine'" in other.json()["error"]["message"]
            assert (await s.client.delete("/jobs/mine")).json()["deleted"] is True
            assert (await s.client.get("/jobs/mine")).status_code == 404 and not (tmp_path / "out/mine").exists()
            assert 'c4d_steps_total{kind="forecast"} 1.0' in (await s.client.get("/metrics")).text

    run(act)


def test_the_queue_has_an_end(site, tmp_path):
    async def act():
        async with site(queue=2) as s:
            await s.holding()
            assert [(await s.job(id=id)).status_code for id in ("a", "b", "c")] == [202, 202, 429]
            full = await s.job(id="c")
            assert int(full.headers["retry-after"]) >= 1 and "2 of 2 jobs wait" in full.json()["error"]["message"]
            assert (await s.job(id="a")).status_code == 202  # which is there already
            s.service.cancel(s.service.find("a"))
            several = await s.client.post("/v1/images/generations", json={"prompt": PROMPT, "n": 2})
            assert several.status_code == 429 and len(s.service._waiting) == 1  # both, or none
            assert {path.name for path in (tmp_path / "out").iterdir() if path.name in "abc"} == {"a", "b"}
            s.maker.go.set()
            assert (await s.over("b"))["status"] == "completed"
            assert (await s.over("a"))["status"] == "cancelled" and s.maker.made == ["wait a moment", PROMPT]

    run(act)


def test_jobs_are_listed_page_by_page_from_the_disk_and_as_they_stand(site):
    async def act():
        async with site() as s:
            for k in range(3):
                await s.over((await s.job(id=f"job-{k}")).json()["id"])
        async with site() as s:
            held = await s.holding()
            await s.job(id="last")
            first = (await s.client.get("/jobs", params={"limit": 2})).json()
            assert [(job["id"], job["status"]) for job in first["data"]] == [("last", "queued"), (held, "in_progress")]
            assert first["data"][1]["steps"] and first["has_more"] is True
            rest = (await s.client.get("/jobs", params={"after": first["last_id"]})).json()
            assert [job["id"] for job in rest["data"]] == ["job-2", "job-1", "job-0"] and rest["has_more"] is False
            old = (await s.client.get("/jobs", params={"order": "asc", "limit": 1})).json()
            assert (old["first_id"], old["last_id"]) == ("job-0", "job-0")
            for wrong, said in (
                ({"limit": "0"}, "from 1 to 100"),
                ({"limit": "101"}, "from 1 to 100"),
                ({"limit": "x"}, "'x'"),
                ({"limit": "0000000011"}, "from 1 to 100"),
                ({"limit": "000000001" + 5000 * "0"}, "from 1 to 100"),
                ({"order": "up"}, "desc"),
                ({"status": "queued"}, "'status'"),
            ):
                answer = await s.client.get("/jobs", params=wrong)
                assert answer.status_code == 400 and said in answer.json()["error"]["message"]
            assert (await s.client.get("/jobs", params={"after": "job-9"})).status_code == 404

    run(act)


def test_a_job_is_removed_when_its_time_is_over(site, tmp_path):
    async def act():
        async with site() as s:
            assert (await s.over((await s.job(id="old")).json()["id"]))["status"] == "completed"
        async with site(kept=3600) as s:
            assert (await s.client.get("/jobs/old")).status_code == 200
            video = (await s.client.get("/v1/videos/old")).json()
            assert video["expires_at"] == video["completed_at"] + 3600
        async with site(kept=0.01) as s:
            held = await s.holding()
            while (tmp_path / "out/old").exists():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert (await s.client.get(f"/jobs/{held}")).json()["status"] == "in_progress"  # its time begins at its end

    run(act)


def test_an_id_that_was_given_to_another_job_meanwhile_is_left_alone(site, monkeypatch):
    async def act():
        async with site() as s:
            await s.over((await s.job(id="same")).json()["id"])
            (stale,) = s.service.store.all()
            await s.client.delete("/jobs/same")
            held = await s.holding()
            await s.job(id="same", seed=7)
            looks = []
            monkeypatch.setattr(s.service.store, "all", lambda: looks.append(1) or [stale])
            cleaning = asyncio.create_task(s.service._clean(1e-9))
            while len(looks) < 3:
                await asyncio.sleep(0.01)
            cleaning.cancel()
            s.maker.go.set()
            assert (await s.over(held))["status"] == "completed"
            assert (await s.over("same"))["status"] == "completed" and stale.folder.is_dir()

    run(act)


def test_retry_after_follows_the_pace(site):
    async def act():
        async with site(devices=[0, 0]) as s:
            before = s.service.retry_after()
            for _ in range(12):
                await s.over((await s.job()).json()["id"])
            assert s.service.retry_after() < before == math.ceil(10 / 2)

    run(act)


def test_a_cancelled_job_ends_between_steps_and_its_worker_goes_on(site):
    async def act():
        async with site() as s:
            id = await s.holding()
            assert (await s.client.post(f"/jobs/{id}/cancel")).json()["status"] == "in_progress"
            s.maker.go.set()
            found = await s.over(id)
            assert found["status"] == "cancelled" and found["files"] == {} and found["steps"]["done"] <= 3
            assert (await s.over((await s.job()).json()["id"]))["status"] == "completed"
            assert s.maker.made == [PROMPT] and "c4d_worker_restarts_total 0.0" in s.service.metrics.text().decode()
            kept = await s.client.get(f"/jobs/{id}/files/image.png")
            assert kept.status_code == 409 and "is cancelled" in kept.json()["error"]["message"]

    run(act)


def test_a_worker_that_does_not_come_to_an_end_is_killed(site, monkeypatch):
    from c4d.serve import service

    monkeypatch.setattr(service, "GRACE", 0.05)

    async def act():
        async with site() as s:
            id, killed = await s.holding(), []
            (worker,) = s.service.workers
            monkeypatch.setattr(worker, "kill", lambda: (killed.append(1), s.maker.go.set()))
            await s.client.post(f"/jobs/{id}/cancel")
            assert (await s.over(id))["status"] == "cancelled" and killed

    run(act)


def test_a_job_whose_worker_dies_is_made_again_and_then_fails_with_a_reason(site):
    async def act():
        async with site() as s:
            id = (await s.job("die young")).json()["id"]
            other = (await s.job()).json()["id"]
            found = await s.over(id)
            assert found["status"] == "failed" and found["attempts"] == 3 == s.maker.deaths
            assert found["error"]["code"] == "worker_lost" and "died 3 times (Killed)" in found["error"]["message"]
            assert (await s.over(other))["status"] == "completed"
            assert "c4d_worker_restarts_total 3.0" in s.service.metrics.text().decode()

    run(act)


@pytest.mark.parametrize(
    ("word", "code", "said"),
    [("fail", "generation_failed", "try dtype float32"), ("refuse", "invalid_request", "prompt has 90 tokens")],
)
def test_what_goes_wrong_in_a_worker_is_said_in_the_words_of_a_body(site, word, code, said):
    async def act():
        async with site() as s:
            found = await s.over((await s.job(word)).json()["id"])
            assert found["attempts"] == 1 and found["error"]["code"] == code and said in found["error"]["message"]
            answer = await s.client.post("/v1/images/generations", json={"prompt": word})
            assert answer.status_code == (400 if word == "refuse" else 500) and "Traceback" not in answer.text

    run(act)


def test_a_server_that_is_killed_loses_nothing(site):
    """What was done stays, what was begun and what waited is made by the next one, in its order."""

    async def act():
        async with site() as s:
            await s.over((await s.job(id="done")).json()["id"])
            begun = await s.holding()
            for k in (1, 2):
                await s.job(f"job {k}", id=f"waits-{k}")
        async with site() as s:
            assert (await s.client.get("/jobs/done")).json()["status"] == "completed"
            assert (await s.client.get("/jobs/done/files/image.png")).content == f"{PROMPT} 0".encode()
            s.maker.go.set()
            assert (await s.over("waits-2"))["status"] == "completed"
            assert s.maker.made == ["wait a moment", "job 1", "job 2"]
            assert (await s.over(begun))["attempts"] == 2

    run(act)


def test_a_job_that_ends_the_server_is_given_up(site, tmp_path):
    async def act():
        async with site() as s:
            begun = await s.holding()
        for path in (tmp_path / "out").glob("*/job.json"):
            path.write_text(path.read_text().replace('"attempts": 1', '"attempts": 3'))
        (tmp_path / "out/broken").mkdir()
        (tmp_path / "out/broken/job.json").write_text('{"id": "broken"')
        async with site() as s:
            found = (await s.client.get(f"/jobs/{begun}")).json()
            assert found["status"] == "failed" and "ended 3 times" in found["error"]["message"]
            assert (await s.client.get("/jobs/broken")).status_code == 404

    run(act)


def test_a_drain_ends_what_was_begun_and_keeps_what_waits(site):
    async def act():
        async with site() as s:
            running = await s.holding()
            await s.job(id="waits")
            stream = asyncio.create_task(s.client.get("/jobs/waits/events"))
            waiting = asyncio.create_task(s.client.post("/v1/images/generations", json={"prompt": "later"}))
            await asyncio.sleep(0.05)
            drained = asyncio.create_task(s.service.drain())
            await asyncio.sleep(0.05)
            assert not drained.done() and (await s.client.get("/readyz")).json()["status"] == "stopping"
            refused = await s.job()
            assert refused.status_code == 503 and refused.headers["retry-after"]
            s.maker.go.set()
            await drained
            assert (await s.over(running))["status"] == "completed"
            assert events((await stream).text)[-1][1]["status"] == "queued"
            assert (await waiting).status_code == 503
        async with site() as s:
            assert (await s.over("waits"))["status"] == "completed" and s.maker.made == [PROMPT]

    run(act)


def test_a_folder_that_is_no_job_s_stays_as_it_is(site, tmp_path):
    async def act():
        (tmp_path / "out/theirs").mkdir(parents=True)
        (tmp_path / "out/theirs/thesis.txt").write_text("years")
        (tmp_path / "out/half").mkdir()
        (tmp_path / "out/half/reference.png").write_bytes(b"of a server that was killed")
        async with site() as s:
            answer = await s.job(id="theirs")
            assert answer.status_code == 409 and "choose another id" in answer.json()["error"]["message"]
            assert (await s.client.delete("/jobs/theirs")).status_code == 404
            assert (await s.job(id="half")).status_code == 202
        assert (tmp_path / "out/theirs/thesis.txt").read_text() == "years"

    run(act)


def test_a_server_whose_keeper_is_lost_says_so(site, monkeypatch):
    async def act():
        async with site() as s:
            monkeypatch.setattr(s.service, "_settle", lambda *_: 1 / 0)
            await s.job()
            assert "ZeroDivisionError" in await asyncio.wait_for(s.service.broken, 5)

    run(act)


def test_a_model_that_cannot_load_is_said(site):
    def start(device):
        raise ValueError("no weights")

    async def act():
        async with site(start=start) as s:
            assert await asyncio.wait_for(s.service.broken, 5) == "no worker can load: ValueError: no weights"
            answer = await s.client.get("/readyz")
            assert answer.status_code == 503 and answer.json()["workers"] == {"ready": 0, "of": 1}
            assert (await s.client.get("/healthz")).status_code == 200

    run(act)


def test_a_full_disk_is_no_reason_to_wait_forever(site, monkeypatch):
    from c4d.pipelines import OutputError

    async def act():
        async with site() as s:
            write, seen = s.service.store.write, []

            def full(job):
                seen.append(job.status)
                if job.status != "queued":
                    raise OutputError("'job.json' cannot be written: No space left on device")
                write(job)

            monkeypatch.setattr(s.service.store, "write", full)
            answer = await s.client.post("/v1/images/generations", json={"prompt": PROMPT})
            assert answer.status_code == 500 and "No space left" in answer.json()["error"]["message"]
            monkeypatch.setattr(s.service.store, "write", lambda job: (_ for _ in ()).throw(OutputError("full")))
            assert (await s.job()).status_code == 507 and s.maker.made == []

    run(act)


def test_a_load_with_a_worker_killed_loses_nothing_and_mixes_nothing(site):
    """The load test of bench/serving.py, over workers that are threads; there with a pipeline in each."""
    asked = wishes(24)
    expected = {wish.body: hashlib.sha256("{prompt} {seed}".format(**dict(wish.body)).encode()) for wish in asked}

    async def act():
        async with site(devices=[0, 0], queue=4) as s:

            def kill():
                s.service.workers[0].kill()
                return 1

            found = await load(s.client, asked, 0.002, kill, most=0.02)
            assert len(found.accepted) == len(asked) and found.killed == 1
            assert wrong(found, {body: digest.hexdigest() for body, digest in expected.items()}) == []
            assert s.service._jobs == {} and not s.service._waiting and not s.service._running

    run(act)


def test_the_load_test_sees_what_is_wrong():
    wish = Wish((("prompt", "a"), ("seed", 1)))
    done, failed = {"status": "completed"}, {"status": "failed", "error": "why"}
    found = Outcome(dict.fromkeys(("good", "lost", "bad", "mixed"), wish), {"good": done, "bad": failed, "mixed": done})
    found.pictures.update(good="1", mixed="2")
    lines = wrong(found, {wish.body: "1"})
    assert [line.split()[0] for line in lines] == ["lost", "bad", "mixed"]
