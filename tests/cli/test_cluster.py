"""``--ray``: a prompt file on the workers of a real Ray, where it is installed."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import sys
import threading
import time

import pytest

from c4d.backends import load
from c4d.cli import cluster
from c4d.cli.command import prepare
from c4d.cli.options import Options
from c4d.cli.signals import Stops
from c4d.pipelines import InputError, exclusive_lock
from tests.cli.conftest import QUICK

pytestmark = pytest.mark.slow
PROMPTS = [f"a red circle moving {way} on a black background" for way in ("left", "right", "up", "down")]
METHOD = "taylorseer-lite:interval=2,last=1@blocks"
FRAMES = 5 * 3 * 32 * 32 * 4  # bytes of a clip of QUICK before it is enlarged
TIMES = {"timing", "why", "worth", "session", "machine", "files"}  # of a record; of its files the page has times


@pytest.fixture
def ray():
    return pytest.importorskip("ray", reason="Ray is not here: pip install ray (the extra `test` brings it)")


@pytest.fixture
def words(tmp_path):
    """Of a job of four prompts, but for its folder."""
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return ["generate", "--prompt-file", tmp_path / "prompts.txt", *QUICK, "--cache", METHOD, "--quiet", "--out"]


def stamps(folder):
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())}


class Killer(threading.Thread):
    """Once a result is complete, kills the process that writes the next clip, in the middle of its file.

    With ``all_of_them`` every process that writes one.
    """

    def __init__(self, out, all_of_them=False):
        super().__init__(daemon=True)
        self.out, self.all, self.pids, self.stop, self.finished = out, all_of_them, set(), False, {}

    def run(self):
        while not self.stop:
            done = [mark.parent for mark in self.out.glob("*/report.json")]
            halves = [path for path in self.out.glob("*/.video.*") if path.parent not in done]
            for pid in {int(half.name.split(".")[2]) for half in halves if done or self.all} - self.pids:
                os.kill(pid, signal.SIGKILL)
                self.pids.add(pid)
                self.finished = {folder: stamps(folder) for folder in done}
                if not self.all:
                    return
            time.sleep(0.001)


@pytest.fixture
def returned(monkeypatch):
    """Bytes of everything that workers return."""
    sizes, result = [], cluster._result

    def measured(*what):
        found = result(*what)
        sizes.append(len(pickle.dumps(found)))
        return found

    monkeypatch.setattr(cluster, "_result", measured)
    return sizes


def same(there, here):
    """Folders of two jobs, file by file; what tells times is compared without them."""
    names = [sorted(str(path.relative_to(out)) for path in out.rglob("*")) for out in (there, here)]
    assert names[0] == names[1]
    for name in names[1]:
        if name.endswith((".mp4", ".png", ".jsonl")):
            assert (there / name).read_bytes() == (here / name).read_bytes(), name
        elif name.endswith(".json"):
            records = [json.loads((out / name).read_text()) for out in (there, here)]
            assert {k: v for k, v in records[0].items() if k not in TIMES} == {
                k: v for k, v in records[1].items() if k not in TIMES
            }
            assert records[0]["session"]["timelines"] == records[1]["session"]["timelines"]
    pages = [re.sub(r"[\d.]+ s\b", "", (out / "index.html").read_text()) for out in (there, here)]
    assert pages[0] == pages[1]


def test_two_workers_one_of_them_killed_make_what_one_process_makes(ray, c4d, words, tmp_path, returned, monkeypatch):
    """Killed in the middle of a file: what is finished stays, Ray starts the worker again, and nothing is lost."""
    here, there = tmp_path / "here", tmp_path / "there"
    assert c4d(*words, here).code == 0
    killer = Killer(there)
    killer.start()
    contexts, init = [], ray.init
    monkeypatch.setattr(ray, "init", lambda *given, **how: contexts.append(init(*given, **how)))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    outcome = c4d(*words, there, "--ray", "local", "--workers", 2)
    killer.stop = True
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0" and [each.dashboard_url for each in contexts] == [""]
    assert outcome.code == 0, outcome.err
    assert killer.pids and killer.finished
    assert {folder: stamps(folder) for folder in killer.finished} == killer.finished
    told = re.findall(r"^\S+/(\d{3}): .* s cached", outcome.out, re.MULTILINE)
    assert sorted(told) == ["000", "001", "002", "003"]  # each of them once
    same(there, here)
    assert len(returned) >= 5 and 500 < max(returned) < FRAMES / 4
    before = {folder: stamps(folder) for folder in there.glob("0*")}
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("there is nothing to make"))
    assert c4d(*words, there, "--ray", "local").out.count("kept, already complete") == 4
    assert {folder: stamps(folder) for folder in there.glob("0*")} == before


@pytest.mark.nightly
def test_a_cluster_is_joined_and_its_errors_are_one_line(ray, c4d, fails, words, tmp_path, monkeypatch, returned):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        fails([*words, tmp_path / "out", "--ray", "--workers", 3], 2, "--workers is 3", "room for 2 of 1 CPU each")
        outcome = c4d(*words, tmp_path / "out", "--ray", "--workers", 2)
        assert outcome.code == 0, outcome.err
        assert len(list((tmp_path / "out").glob("*/video.mp4"))) == 4
        (tmp_path / "barred").mkdir()
        (tmp_path / "barred/001").write_text("no folder")
        fails([*words, tmp_path / "barred", "--ray", "--workers", 1], 4, "001", "the same command goes on")
        killer = Killer(tmp_path / "lost", all_of_them=True)
        killer.start()
        fails([*words, tmp_path / "lost", "--ray", "--workers", 1], 1, "was lost 3 times over the prompt", PROMPTS[0])
        killer.stop = True
        assert len(killer.pids) == 3
    finally:
        nodes.shutdown()


# -- without Ray


def test_a_worker_does_not_make_again_what_it_made_before_it_died(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a worker goes, it stays: this process comes back
    plan = prepare(
        options := Options(
            prompt_file=words[2], cache=METHOD, steps=2, frames=5, out=tmp_path / "out", quiet=True, ray=""
        ),
        Stops(),
    )
    home, folder, request = options.out, options.out / "000", plan.requests[0]
    with exclusive_lock(home):
        worker = cluster.Worker(options, plan, home, True, [], tmp_path / "nowhere")
        assert worker.ready()
        first = worker.make(folder, request, None)
        made = stamps(folder)
        again = cluster.Worker(options, plan, home, True, [], tmp_path / "nowhere")
        assert again.make(folder, request, None) == first and stamps(folder) == made
        assert "_loaded" not in vars(again)  # nothing was needed for it
        second = worker.make(folder, request, first)  # as with --overwrite
        assert second["asked"] == first["asked"] and stamps(folder) != made
    with pytest.raises(InputError, match="name a folder that all nodes share"):
        cluster.Worker(options, plan, tmp_path / "other", True, [], tmp_path).ready()


@pytest.mark.parametrize(
    ("backend", "given", "nodes", "workers", "takes"),
    [
        ("cpu", {}, [{"CPU": 8.0}, {"CPU": 4.0}], 2, {"num_cpus": 4}),
        ("cpu", {"workers": 4}, [{"CPU": 8.0}, {"CPU": 4.0}], 4, {"num_cpus": 2}),
        ("cpu", {"workers": 5, "threads": 2}, [{"CPU": 8.0}, {"CPU": 4.0}, {"memory": 9.0}], 5, {"num_cpus": 2}),
        ("cuda", {}, [{"CPU": 8.0, "GPU": 8.0}, {"CPU": 8.0, "GPU": 4.0}], 12, {"num_cpus": 1, "num_gpus": 1}),
        ("ascend", {"workers": 3}, [{"NPU": 8.0}, {"CPU": 8}], 3, {"num_cpus": 1, "resources": {"NPU": 1}}),
    ],
)
def test_a_worker_for_each_device(backend, given, nodes, workers, takes):
    assert cluster.share(Options(**given), load(backend), nodes) == (workers, takes)


@pytest.mark.parametrize(
    ("backend", "given", "nodes", "said"),
    [
        ("cpu", {}, [{"CPU": 8.0, "GPU": 1.0}], "'cpu' .CPU., and the cluster has GPU .* or name another --backend"),
        ("cuda", {}, [{"CPU": 8.0}], "'cuda' .GPU., and the cluster has CPU that"),
        ("cuda", {"workers": 3}, [{"CPU": 8.0, "GPU": 2.0}], "--workers is 3, and .* room for 2 of 1 GPU each"),
        ("cpu", {"workers": 3}, [{"CPU": 2.0}], "room for 2 of 1 CPU each"),
    ],
)
def test_a_cluster_that_does_not_fit_is_refused(backend, given, nodes, said):
    with pytest.raises(InputError, match=said):
        cluster.share(Options(**given), load(backend), nodes)
    if "workers" not in given and backend == "cpu":
        assert cluster.share(Options(backend="cpu"), load(backend), nodes).takes == {"num_cpus": 8}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--ray", "--ulysses", "2"], "--ray does not go with --ulysses"),
        (["--ray", "--data", "2"], "--ray does not go with --data"),
        (["--ray", "--workers", "0"], "--workers is 0"),
        (["--workers", "2"], "add --ray"),
    ],
)
def test_what_does_not_go_together(fails, words, tmp_path, more, said):
    fails([*words, tmp_path / "out", *more], 2, said)


def test_a_single_prompt_needs_no_cluster(fails, generate):
    fails([*generate, "--ray"], 2, "--ray divides a prompt file: give --prompt-file")


def test_where_ray_is_missing_its_command_is_said(fails, words, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    fails([*words, tmp_path / "out", "--ray"], 3, "ray cannot be imported", "; pip install ray")
