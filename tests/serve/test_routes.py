"""What a client may send, and what it is told: keys, limits, uploads, and the shapes of OpenAI's clients."""

from __future__ import annotations

import asyncio
import base64
import io
from dataclasses import fields

import pytest
from PIL import Image
from pydantic import ValidationError

from bench.serving import MALFORMED, malformed
from c4d.pipelines import InputError, Request
from tests.serve.conftest import PROMPT
from tests.serve.test_jobs import run

pytest.importorskip("fastapi", reason="c4d serve needs the extra `serve`")


def picture(width=8, height=8, kind="PNG"):
    out = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(out, kind)
    return out.getvalue()


def message(answer):
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and "Traceback" not in error["message"]
    return error["message"]


def test_a_body_has_the_fields_of_a_request(served):
    from c4d.serve.bodies import NAMES, body

    asked = body("Job", served.texts)
    others = {"last_image", "video", "mask", "control", "argument"}  # files of this machine are not a client's to name
    names = {NAMES.get(each.name, each.name) for each in fields(Request)} - others
    assert set(asked.model_fields) == names | {"quality"}
    for name in others:
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            asked.model_validate({"prompt": "a", name: "/etc/passwd"})
    assert all(each.description for each in asked.model_fields.values())
    assert asked.model_fields["steps"].description == "denoising steps; default: the model's own"


def test_only_who_has_a_key_is_served(site):
    async def act():
        async with site(keys=["first-key", "second-key"]) as s:
            for header in (None, "Bearer", "Bearer wrong", "Basic first-key", b"Bearer first-k\xc3\xa9y", "first-key"):
                headers = {} if header is None else {"Authorization": header}
                for path in ("/jobs/x", "/metrics", "/openapi.json", "/v1/models", "/nothing"):
                    answer = await s.client.get(path, headers=headers)
                    assert answer.status_code == 401 and "first-key" not in message(answer)
            assert answer.headers["www-authenticate"] == "Bearer"
            for key in ("first-key", "second-key"):
                answer = await s.client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
                assert answer.json()["data"][0]["id"] == "wan-tiny"
            assert (await s.client.get("/healthz")).status_code == (await s.client.get("/readyz")).status_code == 200

    run(act)


def test_without_keys_only_this_machine_is_served(tmp_path):
    from c4d.cli.options import ServeOptions
    from c4d.cli.serve import keys_of

    assert keys_of(ServeOptions()) == []
    with pytest.raises(InputError, match=r"--host 0\.0\.0\.0 .* give --api-key-file"):
        keys_of(ServeOptions(host="0.0.0.0"))
    (tmp_path / "keys").write_text("# ours\n\nabc\n def \n")
    assert keys_of(ServeOptions(host="0.0.0.0", api_key_file=tmp_path / "keys")) == ["abc", "def"]
    (tmp_path / "keys").write_text("# none\n")
    with pytest.raises(InputError, match="has no key"):
        keys_of(ServeOptions(api_key_file=tmp_path / "keys"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"steps": 101}, "steps is 101; this server takes whole numbers from 1 to 100"),
        ({"width": 4096}, "width is 4096"),
        ({"frames": 0}, "frames is 0"),
        ({"max_sequence_length": 10**9}, "max_sequence_length is 1000000000"),
        ({"prompt": "a " * 3000}, "prompt has 6000 characters, this server reads 4000"),
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "a\0b"}, "zero byte"),
        ({"width": 33}, "width 33 does not fit WanPipeline: allowed are multiples of 16"),
        ({"frames": 6}, "6 frames do not fit WanPipeline"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": True}, "seed is True"),
        ({"steps": "4"}, "steps is '4'"),
        ({"quality": "best"}, "'high', 'balanced' or 'fast'"),
        ({"cache": "fora:interval=2"}, "unknown field 'cache': known are prompt"),
        ({"id": "../../etc"}, "letters, digits"),
        ({"id": "a" * 65}, "at most 64"),
        ({"image": "/etc/passwd"}, "no base64"),
        ({"image": base64.b64encode(b"no picture").decode()}, "the image cannot be read"),
        ({"image": base64.b64encode(picture()).decode()}, "WanPipeline takes no image"),
        ({"guidance_scale": -1}, "guidance scale is -1"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)
def test_what_is_beyond_a_limit_is_refused_before_anything_is_made(site, tmp_path, more, said):
    async def act():
        async with site() as s:
            answer = await s.client.post("/jobs", json={"prompt": PROMPT, **more})
            assert answer.status_code == 400 and said in message(answer), answer.text
            assert s.service._jobs == {} and not list((tmp_path / "out").glob("*"))

    run(act)


def test_a_body_is_not_read_beyond_its_limit(site):
    from c4d.serve.limits import Limits

    async def act():
        async with site(Limits(upload=1000)) as s:
            taken = []

            async def endless():
                for _ in range(100):
                    taken.append(1)
                    yield b'{"prompt": "' + b"a" * 500

            headers = {"content-type": "application/json"}
            answer = await s.client.post("/jobs", content=endless(), headers=headers)
            assert answer.status_code == 413 and len(taken) < 10 and "1000 bytes" in message(answer)
            answer = await s.client.post("/jobs", content=b"x" * 1001, headers=headers)
            assert answer.status_code == 413

    run(act)


def test_a_picture_is_checked_and_made_anew():
    from c4d.serve.limits import Limits

    limits = Limits(side=64)
    marked = Image.new("RGB", (8, 8), "red")
    out = io.BytesIO()
    marked.save(out, "JPEG", comment=b"<script>")
    again = limits.picture(out.getvalue())
    assert again.startswith(b"\x89PNG") and b"script" not in again
    for data, said in (
        (picture(65, 8), "65x8 pixels; give a picture, one of PNG, JPEG, WEBP, of at most 64 pixels a side"),
        (picture(kind="BMP"), "cannot be read"),
        (picture()[:40], "cannot be read"),
        (b"", "cannot be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be read"),
    ):
        with pytest.raises(InputError, match=said):
            limits.picture(data)


class WithPictures:
    """The served model, if it took pictures."""

    def __init__(self, served):
        self._served = served

    def __getattr__(self, name):
        return getattr(self._served, name)

    def request(self, values, image):
        return Request(prompt=values["prompt"], image=image)


def test_an_uploaded_picture_belongs_to_its_job(site, served, tmp_path):
    async def act():
        async with site(model=WithPictures(served)) as s:
            files = {"input_reference": ("../../evil.png", picture(), "text/html")}
            answer = await s.client.post("/v1/videos", data={"prompt": "a", "seed": "3"}, files=files)
            id = answer.json()["id"]
            assert (await s.over(id))["request"]["image"] is True
            assert (tmp_path / "out" / id / "reference.png").is_file() and not list(tmp_path.rglob("evil*"))
            coded = base64.b64encode(picture()).decode()
            for image, status in ((coded, 202), (f"data:image/png;base64,{coded}", 202), (None, 409)):
                given = {"prompt": "a", "id": "mine", **({"image": image} if image else {})}
                assert (await s.client.post("/jobs", json=given)).status_code == status
            other = base64.b64encode(picture(9)).decode()
            assert (await s.client.post("/jobs", json={"prompt": "a", "id": "mine", "image": other})).status_code == 409
            two = [("image", ("a.png", picture())), ("image", ("b.png", picture()))]
            assert (await s.client.post("/jobs", data={"prompt": "a"}, files=two)).status_code == 400

    run(act)


@pytest.mark.parametrize("name", ["..%2Fjob.json", "job.json", "%2Fetc%2Fpasswd", "....//job.json", "image.png%00"])
def test_no_name_leads_out_of_what_a_job_left(site, name):
    async def act():
        async with site() as s:
            await s.over((await s.job(id="mine")).json()["id"])
            answer = await s.client.get(f"/jobs/mine/files/{name}")
            assert answer.status_code == 404 and message(answer)
            for id in ("..", "%2e%2e", "..%2F..%2Fetc", ".lock", "mine%2F..", "a" * 300, "%00"):
                assert (await s.client.get(f"/jobs/{id}")).status_code == 404
                assert (await s.client.delete(f"/jobs/{id}")).status_code in (404, 405)

    run(act)


def test_malformed_requests_are_the_client_s_fault(site):
    async def act():
        async with site(keys=["key"]) as s:
            headers, seen = {"Authorization": "Bearer key"}, []
            for method, path, how in malformed("key"):
                answer = await s.client.request(method, path, **{"headers": headers, **how})
                assert 400 <= answer.status_code < 500, (method, path, how, answer.status_code, answer.text)
                seen.append(answer.status_code)
                assert message(answer)
            assert len(seen) == MALFORMED >= 200 and {400, 401, 404, 405, 413, 415} <= set(seen)
            s.client.headers.update(headers)
            assert (await s.over((await s.job()).json()["id"]))["status"] == "completed"

    run(act)


def test_pictures_as_openai_s_clients_ask_for_them(site):
    async def act():
        async with site() as s:
            body = {"prompt": PROMPT, "n": 3, "size": "48x32", "model": "wan-tiny", "seed": 5, "quality": "high"}
            answer = (await s.client.post("/v1/images/generations", json=body)).json()
            pictures = [base64.b64decode(each["b64_json"]).decode() for each in answer["data"]]
            assert pictures == [f"{PROMPT} {seed}" for seed in (5, 6, 7)] and answer["created"] > 0
            asked = {**body, "n": 1, "response_format": "url"}
            url = (await s.client.post("/v1/images/generations", json=asked)).json()["data"][0]["url"]
            assert (await s.client.get(url)).content == f"{PROMPT} 5".encode()
            id = url.split("/")[4]
            told = (await s.client.get(f"/jobs/{id}")).json()
            assert told["request"]["width"] == 48 and told["request"]["frames"] == 1 and told["quality"] == "high"
            made = len(s.maker.made)
            for _ in range(2):
                headers = {"Idempotency-Key": "any / thing é".encode()}
                assert (await s.client.post("/v1/images/generations", json=body, headers=headers)).status_code == 200
            assert len(s.maker.made) == made + 3
            for wrong, status, said in (
                ({"model": "dall-e-3"}, 404, "it serves wan-tiny"),
                ({"n": 0}, 400, "n is 0"),
                ({"n": 11}, 400, "1 to 10"),
                ({"size": "big"}, 400, "WIDTHxHEIGHT"),
                ({"size": "48x32", "width": 48}, 400, "keep one"),
                ({"quality": "hd"}, 400, "'high', 'balanced' or 'fast'"),
                ({"frames": 5}, 400, "unknown field 'frames'"),
            ):
                answer = await s.client.post("/v1/images/generations", json={**body, **wrong})
                assert answer.status_code == status and said in message(answer)

    run(act)


def test_who_goes_away_is_not_waited_for(site, monkeypatch):
    from c4d.serve import openai

    monkeypatch.setattr(openai, "GLANCE", 0.02)

    async def act():
        async with site() as s:
            monkeypatch.setattr(openai.Call, "is_disconnected", lambda call: asyncio.sleep(0, True))
            await s.holding()
            answer = await s.client.post("/v1/images/generations", json={"prompt": "gone"})
            assert answer.status_code == 499 and not s.service._waiting
            keyed = {"Idempotency-Key": "k"}
            await s.client.post("/v1/images/generations", json={"prompt": "comes back"}, headers=keyed)
            assert [job.request.prompt for job in s.service._waiting] == ["comes back"]

    run(act)


def test_videos_as_openai_s_clients_ask_for_them(site):
    async def act():
        async with site() as s:
            form = {"prompt": PROMPT, "model": "wan-tiny", "seconds": "2", "size": "48x32", "steps": "7"}
            made = (await s.client.post("/v1/videos", files={k: (None, v) for k, v in form.items()})).json()
            assert made["object"] == "video" and made["status"] == "queued" and made["size"] == "48x32"
            assert made["seconds"] == "2.125"  # 17 frames at 8: a multiple of four, and one
            await s.over(made["id"])
            done = (await s.client.get(f"/v1/videos/{made['id']}")).json()
            assert done["status"] == "completed" and done["progress"] == 100 and done["completed_at"]
            assert (await s.client.get(f"/v1/videos/{made['id']}/content")).content == f"{PROMPT} 0".encode()
            await s.client.post("/v1/images/generations", json={"prompt": PROMPT})
            listed = (await s.client.get("/v1/videos")).json()
            assert listed["object"] == "list" and listed["data"] == [done] and listed["has_more"] is False
            gone = (await s.client.delete(f"/v1/videos/{made['id']}")).json()
            assert gone == {"id": made["id"], "object": "video.deleted", "deleted": True}
            assert (await s.client.get(f"/v1/videos/{made['id']}")).status_code == 404
            for wrong, said in (
                ({"seconds": "1", "frames": 9}, "keep one"),
                ({"seconds": "long"}, "numbers up to 32.125"),
                ({"seconds": 1e9}, "numbers up to"),
            ):
                answer = await s.client.post("/v1/videos", json={"prompt": PROMPT, **wrong})
                assert answer.status_code == 400 and said in message(answer)
            id = await s.holding()
            assert (await s.client.get(f"/v1/videos/{id}/content")).status_code == 409
            s.service.cancel(s.service.find(id))
            s.maker.go.set()
            await s.over(id)
            told = (await s.client.get(f"/v1/videos/{id}")).json()
            assert told["status"] == "failed" and told["error"]["code"] == "cancelled"

    run(act)


def test_openapi_says_what_a_body_is(site):
    async def act():
        async with site() as s:
            paths = (await s.client.get("/openapi.json")).json()["paths"]
            content = paths["/v1/videos"]["post"]["requestBody"]["content"]
            assert set(content) == {"application/json", "multipart/form-data"}
            known = content["application/json"]["schema"]["properties"]
            assert {"prompt", "seconds", "size", "quality", "steps"} <= set(known)
            assert paths["/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]["required"] == [
                "prompt"
            ]

    run(act)
