"""Jobs that are killed, interrupted or out of disk: what is complete stays, the rest is made by the same command."""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from c4d.cli.signals import Terminated, stoppable
from tests.sampled import first_of

pytestmark = pytest.mark.slow
PROMPTS = [f"a red circle moving {way} on a black background" for way in ("left", "right", "up")]


class Forks:
    """Starts jobs one at a time; ``ended`` waits for one and gives its exit status, None while it runs."""

    def __init__(self, folder):
        self.folder, self.log = folder, folder / "log"
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=Path(__file__).resolve().parent.parent.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
        )
        (folder / "prompts.txt").write_text("\n".join(PROMPTS))

    def start(self, out, limit=None):
        words = ["generate", "--prompt-file", f"{self.folder / 'prompts.txt'}", "--cache", "fora:interval=2@blocks"]
        words += ["--steps", "2", "--frames", "5", "--threads", "1", "--quiet", "--out", str(out)]
        self.log.write_text("")
        job = {"words": words, "log": str(self.log), "limit": limit}
        self.server.stdin.write(json.dumps(job).encode() + b"\n")
        return int(self.server.stdout.readline())

    def ended(self, seconds):
        ready, _, _ = select.select([self.server.stdout], [], [], seconds)
        return int(self.server.stdout.readline()) if ready else None

    def run(self, out, limit=None):
        self.start(out, limit)
        return int(self.server.stdout.readline()), self.log.read_text()

    def stop(self, child, number):
        """Sends a signal; the exit status, which is 0 where the job was faster."""
        with suppress(ProcessLookupError):
            os.kill(child, number)
        return self.ended(60)

    def until_seen(self, out, pattern):
        """Returns when a file of ``pattern`` is in ``out``; the exit status if the job ended before."""
        while not any(out.glob(pattern)):
            if (status := self.ended(0)) is not None:
                return status
            time.sleep(0.0005)  # the job needs the processor
        return None


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    made = Forks(tmp_path_factory.mktemp("forks"))
    yield made
    made.server.stdin.close()
    made.server.wait()


@pytest.fixture(scope="module")
def undisturbed(forks):
    """(folder of a job that nothing stopped, its seconds)."""
    out = forks.folder / "undisturbed"
    forks.start(out)  # returns once everything is imported
    started = time.perf_counter()
    assert forks.ended(120) == 0 and forks.log.read_text().count("s cached") == len(PROMPTS), forks.log.read_text()
    return out, time.perf_counter() - started


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def complete_files(out):
    """File -> (digest, inode, time) of everything in the folders of ``out`` that are complete."""
    found = {}
    for mark in out.glob("*/report.json"):
        files = {mark.parent / name: said for name, said in json.loads(mark.read_text())["files"].items()}
        if all(path.exists() and sha(path) == said["sha256"] for path, said in files.items()):
            found.update({p: (sha(p), p.stat().st_ino, p.stat().st_mtime_ns) for p in [*files, mark]})
    return found


def check_parts(out, whole):
    """Whatever bears its final name is whole: clips and sheets as in ``whole``, the manifest true."""
    for path in [*out.glob("*/video.mp4"), *out.glob("*/sheet.png")]:
        assert sha(path) == sha(whole / path.relative_to(out)), path
    complete = complete_files(out)
    listed = (out / "manifest.jsonl").read_text().splitlines() if (out / "manifest.jsonl").exists() else []
    for line in map(json.loads, listed):
        assert complete[out / line["path"]][0] == line["sha256"]


def check_end(out, whole):
    """``out`` is what ``whole`` is, but for times."""

    def names(folder):
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))

    assert names(out) == names(whole)
    assert (out / "manifest.jsonl").read_bytes() == (whole / "manifest.jsonl").read_bytes()
    assert len(complete_files(out)) == 4 * len(PROMPTS)
    check_parts(out, whole)


def test_the_manifest_ties_each_output_to_what_made_it(undisturbed):
    out, _ = undisturbed
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    folders = [f"{index:03d}" for index in range(len(PROMPTS))]
    assert [line["path"] for line in lines] == [f"{f}/{name}" for f in folders for name in ("video.mp4", "sheet.png")]
    for line, (seed, prompt) in zip(lines, [each for each in enumerate(PROMPTS) for _ in range(2)], strict=True):
        assert line["sha256"] == sha(out / line["path"]) and line["bytes"] == (out / line["path"]).stat().st_size
        assert (line["prompt"], line["seed"], line["method"], line["model"]) == (
            prompt, seed, "fora:interval=2@blocks", "wan-tiny",
        )  # fmt: skip
        assert set(line["versions"]) == {"python", "torch", "diffusers", "transformers", "c4d"}


@pytest.mark.parametrize("least", first_of([3, 20]))
def test_killed_at_random(forks, undisturbed, least):
    whole, length = undisturbed
    moments, starts, kills, rounds, seen = random.Random(20), 0, 0, 0, set()
    sights = ["*/.video.*", "*/.sheet.*", "*/.report.*.html", "*/.report.*.json", ".manifest.*"]
    while kills < least:
        out, status, before = forks.folder / f"killed{least}-{rounds}", None, {}
        rounds += 1
        while status is None and kills < least:
            child, starts = forks.start(out), starts + 1
            assert starts <= 3 * least, f"{kills} kills in {starts} starts"
            if starts % 2:
                pattern = sights[starts // 2 % len(sights)]
                status = forks.until_seen(out, pattern)
            else:
                pattern, status = "time", forks.ended(moments.uniform(0, length))
            if status is None:
                status = forks.stop(child, signal.SIGKILL)
            if status == -signal.SIGKILL:
                status, kills = None, kills + 1
                seen.add(pattern)
            now = complete_files(out)
            assert before.items() <= now.items(), "a complete result was touched"
            check_parts(out, whole)
            before = now
        status, log = forks.run(out)
        assert status == 0 and log.count("kept") == len(before) // 4, log
        assert before.items() <= complete_files(out).items()
        check_end(out, whole)
    assert seen if least < 20 else seen >= {"time", "*/.video.*"}  # the others are there for a few milliseconds


@pytest.mark.parametrize("code", first_of([143, 130]))
def test_interrupted(forks, undisturbed, code):
    number = {130: signal.SIGINT, 143: signal.SIGTERM}[code]
    whole, length = undisturbed
    out, stopped, before = forks.folder / f"stopped{code}", 0, {}
    for moment in (".lock", 0.2, "*/.video.*", 0.5, "*/.report.*", 0.3):
        child = forks.start(out)
        status = forks.until_seen(out, moment if isinstance(moment, str) else ".lock")
        if status is None and not isinstance(moment, str):
            status = forks.ended(moment * length)
        if status is None:
            status = forks.stop(child, number)
        now = complete_files(out)
        assert before.items() <= now.items() and not list(out.rglob(".*"))
        check_parts(out, whole)
        if status == code:
            stopped += 1
            last = forks.log.read_text().strip().splitlines()[-1]
            assert last.startswith("c4d: error: ") and "the same command goes on" in last, last
        else:
            assert status == 0 and len(now) == 4 * len(PROMPTS), forks.log.read_text()
        before = now
    assert stopped >= 3
    assert forks.run(out)[0] == 0
    check_end(out, whole)


def test_files_over_the_limit_of_the_system(forks, undisturbed):
    """A real refusal: ffmpeg is killed by it, Python gets EFBIG."""
    whole, _ = undisturbed
    sizes = {name: (whole / "000" / name).stat().st_size for name in ("video.mp4", "sheet.png", "report.html")}
    limits = {  # the page's size varies with the times in it
        "video.mp4": sizes["video.mp4"] // 2,
        "sheet.png": sizes["sheet.png"] - 1,
        "report.html": (sizes["sheet.png"] + sizes["report.html"]) // 2,
    }
    assert sizes["video.mp4"] <= limits["sheet.png"] and sizes["sheet.png"] <= limits["report.html"]
    out = forks.folder / "limited"
    for name, limit in limits.items():
        status, log = forks.run(out, limit)
        last = log.strip().splitlines()[-1]
        assert status == 4 and f"000/{name}" in last and "goes on" in last and "Traceback" not in log, log
        assert not list(out.rglob(".*")) and not complete_files(out)
        check_parts(out, whole)
    assert forks.run(out)[0] == 0
    check_end(out, whole)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_that_an_import_swallows_is_not_lost(number, kind):
    """Lazy imports of other packages turn what they meet into ImportErrors, or into nothing."""
    with pytest.raises(kind), stoppable():
        try:
            signal.raise_signal(number)
        except BaseException as error:
            raise ImportError("no such class") from error
    with pytest.raises(kind), stoppable(), suppress(BaseException):
        signal.raise_signal(number)
    with stoppable():
        pass
