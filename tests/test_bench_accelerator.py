"""The bench for accelerators, rehearsed on the host: what is kept, what goes on, what the page says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
import torch

from bench import processes
from bench.accelerator import __main__ as bench
from bench.accelerator import bandwidth, cards, device, generate, loops, page, sweep, verdicts
from bench.accelerator import machine as machines
from bench.accelerator.__main__ import SCRIPTS
from bench.accelerator.machine import Machine
from bench.accelerator.records import Absent, Case, Lost, Store, run, theirs
from bench.accelerator.subjects import Subject
from bench.accelerator.verdicts import KEPT, MISSED, UNKNOWN
from bench.stamp import ROOT
from c4d.backends import select
from c4d.backends.reference import Reference
from tests.sampled import first_of, sampled

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No suite within the suite, and nothing is written outside of the folders given."""
    monkeypatch.setattr(device, "suite", lambda machine, *paths: {"checked": 1, "failures": [], "said": "left out"})
    monkeypatch.delenv("OUT", raising=False)


def kept(folder):
    return [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]


def cases_of(folder, part):
    return {record["case"]: record for record in kept(folder) if record.get("part") == part}


def test_a_rehearsal_stops_goes_on_and_reports(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OUT", str(tmp_path / "elsewhere"))
    out = tmp_path / "kept"
    command = ["bandwidth", "attention", "--rehearse", "--out", str(out)]
    assert bench.main([*command, "--minutes", "0"]) == 0
    first = cases_of(out, "bandwidth")
    assert list(first) == ["lincomb K=1, FLUX"] and len(cases_of(out, "attention")) == 1
    assert "left: lincomb K=2, FLUX" in capsys.readouterr().out

    assert bench.main(command) == 0
    whole = cases_of(out, "bandwidth")
    assert len(whole) > 10 and whole["lincomb K=1, FLUX"] == first["lincomb K=1, FLUX"]
    assert whole["lincomb K=2, FLUX"]["stamp"] == 1  # what the second command was made with

    text = (out / "report.md").read_text()
    assert text.startswith(
        "# Measurements on an accelerator (rehearsal with tiny sizes: no figure here means anything)"
    )
    for part, said in page.SAID.items():
        section = text.partition(f"## {said}\n\n")[2].partition("\n## ")[0]
        assert section.startswith("Not measured.") == (part not in ("bandwidth", "attention")), part
    assert "sweep of change, FLUX: not measured: the backend cpu has no kernels to sweep" in text
    for said in (
        "Command: python -m bench.accelerator bandwidth attention --rehearse",
        "Device",
        "Driver",
        "Versions",
        "Commit",
    ):
        assert f"- {said}" in text
    assert (tmp_path / "elsewhere/kept/report.md").read_text() == text
    assert kept(tmp_path / "elsewhere/kept") == kept(out)


def test_the_primitives_of_the_host_pass(tmp_path):
    assert bench.main(["check", "--rehearse", "--out", str(tmp_path)]) == 0
    found = Store(tmp_path).cases
    assert verdicts.right(found, "check").state == KEPT
    assert found["check", "captured graph"]["absent"] and found["check", "lincomb, bfloat16"]["checked"] == 48


@pytest.mark.parametrize("part", first_of(verdicts.MODELS))
def test_contenders_leave_the_model_as_it_was(part):
    pytest.importorskip("cache_dit")
    machine = Machine.find("cpu", rehearsal=True)
    t = torch.full((1,), 500.0)
    with torch.no_grad():
        subject = loops.subject_of(machine, part)
        before = subject.call(subject.latents, t, "cond")
        for case in loops.cases(machine, part):
            try:
                found = case.measure()
            except Absent as why:
                assert "no spec" in str(why) or "is not there" in str(why)
                continue
            assert found["finite"] and len(found["ran"]) == found["steps"] * len(subject.size.branches)
            if "1e9" in case.name:
                assert "r" in found["ran"] and 0 < found["blocks_reused"] < found["blocks"], case.name
            subject.ran = 0
            assert torch.equal(subject.call(subject.latents, t, "cond"), before), case.name
            assert subject.ran == subject.blocks, case.name


def test_a_sweep_compares_what_the_kernel_takes_with_what_is_set():
    def kernel(i, block, warps):
        if block * warps > 4:
            raise RuntimeError("out of resources")

    found = sweep.points(
        Machine.find("cpu", rehearsal=True),
        kernel,
        {"block": 2, "warps": 1},
        {"block": (1, 2, 4), "warps": (1, 2)},
        2**29,
    )
    assert found["chosen"] == "block=2 warps=1" == next(iter(found["ms"]))
    assert len(found["ms"]) == 5 and found["refused"] == ["block=4 warps=2: RuntimeError"]


class Nowhere(Machine):
    """Real sizes without memory."""

    device = torch.device("meta")

    def rand(self, *shape, dtype, seed=0):
        return torch.empty(*shape, dtype=dtype, device="meta")

    def generator(self, seed=0):
        return None


@pytest.mark.parametrize(
    ("part", "parameters", "hidden"),
    sampled(
        [
            ("flux", 11.90e9, 4096 * 3072 * 2),
            ("wan", 1.42e9, 32760 * 1536 * 4),
            ("wan14b", 14.29e9, 75600 * 5120 * 4),
            ("hunyuan", 12.82e9, 118800 * 3072 * 2),
        ],
        nth=3,
        complete=False,
    ),
)
def test_the_models_have_their_published_sizes(part, parameters, hidden):
    with torch.no_grad():
        subject = Subject(Nowhere(select("cpu")), part)
        assert sum(p.numel() for p in subject.model.parameters()) == pytest.approx(parameters, rel=1e-3)
        assert subject.hidden() == hidden
        out = subject.call(subject.latents, torch.full((1,), 500.0, device="meta"), "cond")
    assert out.shape == subject.latents.shape and subject.ran == subject.blocks


def test_a_folder_is_of_one_device_and_of_no_rehearsal(tmp_path, capsys):
    store = Store(tmp_path)
    store.add({"stamp": {"rehearsal": False, "device": "another"}})
    assert bench.main(["check", "--rehearse", "--out", str(tmp_path)]) == 2
    assert "name another --out" in capsys.readouterr().err


@pytest.mark.parametrize("script, backend", SCRIPTS.items())
def test_without_an_accelerator_it_says_so(script, backend, tmp_path, capsys):
    if torch.accelerator.is_available():
        pytest.skip("there is one")
    assert bench.main(["--script", script, "check", "--out", str(tmp_path)]) == 2
    said = f"bench/{script}.sh: no accelerator is found here (backend '{backend}' cannot run here"
    assert capsys.readouterr().err.startswith(said)
    assert not list(tmp_path.iterdir())


def test_the_host_is_for_rehearsals(tmp_path, capsys):
    assert bench.main(["check", "--backend", "cpu", "--out", str(tmp_path)]) == 2
    assert "cpu is the host" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "backend", "out", "command"),
    [
        ("check", "auto", "accelerator-bench", "python -m bench.accelerator check"),
        ("--script gpu", "cuda", "gpu-bench", "bench/gpu.sh"),
        ("--script npu check", "ascend", "npu-bench", "bench/npu.sh check"),
        ("--script npu --backend ascend", "ascend", "npu-bench", "bench/npu.sh --backend ascend"),
        ("--script npu --rehearse", "cpu", "npu-rehearsal", "bench/npu.sh --rehearse"),
        ("--script gpu --rehearse --backend cuda", "cuda", "gpu-rehearsal", "bench/gpu.sh --rehearse --backend cuda"),
    ],
)
def test_a_script_measures_its_own_backend(given, backend, out, command):
    options = bench.parsed(given.split())
    assert (options.backend, options.out.name, options.command) == (backend, out, command)


@pytest.mark.parametrize("script, other", [("gpu", "ascend"), ("npu", "cuda"), ("npu", "cpu")])
def test_a_script_refuses_anothers_device(script, other, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main(["--script", script, "check", "--backend", other])
    assert stopped.value.code == 2
    assert "bench/gpu.sh on cuda, bench/npu.sh on ascend" in capsys.readouterr().err


def test_the_environment_of_an_npu(tmp_path):
    """Defaults where nothing is set; what is set stays, and the two names of one setting are not both given."""
    (tmp_path / "python").write_text("#!/bin/sh\necho $TASK_QUEUE_ENABLE,$PYTORCH_NPU_ALLOC_CONF,$*\n")
    (tmp_path / "python").chmod(0o755)
    usual = {name: value for name, value in os.environ.items() if not name.startswith(("PYTORCH_", "TASK_"))}
    for own, said in (
        ({}, "2,expandable_segments:True"),
        ({"TASK_QUEUE_ENABLE": "1", "PYTORCH_NPU_ALLOC_CONF": "x"}, "1,x"),
        ({"PYTORCH_ALLOC_CONF": "x"}, "2,"),
    ):
        settings = {**usual, **own, "PYTHON": str(tmp_path / "python"), "ASCEND_HOME_PATH": "/"}
        done = subprocess.run(
            [ROOT / "bench/npu.sh", "check"], env=settings, capture_output=True, text=True, check=True
        )
        assert (done.stdout, done.stderr) == (f"{said},-m bench.accelerator --script npu check\n", "")


def test_unknown_parts_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main(["chekc"])
    assert stopped.value.code == 2 and "known are check, bandwidth" in capsys.readouterr().err


# -- what a device may lack


class Foreign(Reference):
    """Of a device that is not known to compute in double precision."""

    device_type = "npu"


def test_double_precision_is_asked_of_those_that_have_it(monkeypatch):
    x, moved = torch.randn(3), []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda x: moved.append(x) or x)
    assert Machine(Reference()).exact(x).dtype == torch.float64 and not moved
    assert Machine(Foreign()).exact(x).dtype == torch.float64 and moved == [x]
    assert Machine(Foreign()).exact(x > 0).dtype == torch.bool


def test_a_contender_that_cannot_run_is_left_out_with_its_reason(monkeypatch, tmp_path):
    def fails(*tensors):
        raise RuntimeError("no compiler\nfor this device")

    monkeypatch.setattr(bandwidth, "compile_", lambda machine, function: fails)
    monkeypatch.setitem(sys.modules, "cache_dit.caching.cache_contexts.calibrators.taylorseer", None)
    machine, store = Machine.find("cpu", rehearsal=True), Store(tmp_path)
    cases = [case for case in bandwidth.cases(machine) if case.name.endswith("FLUX") and "sweep" not in case.name]
    assert run("bandwidth", cases, store, 60, machine.answers) == ([], [])
    found = store.cases["bandwidth", "lincomb K=1, FLUX"]
    assert set(found["ms"]) == {"copy", "c4d", "c4d, weights on the device", "eager"}
    without = found["without"]
    assert without["compiled"] == "RuntimeError: no compiler" and without["cache-dit"].startswith("ModuleNotFound")
    text = page.page([STAMP], store.cases)
    assert "- compiled: not measured in change, FLUX: RuntimeError: no compiler" in text
    assert verdicts.alternatives(store.cases).detail.endswith("beside eager")


def test_what_others_cannot_do_is_no_failure_of_the_run(tmp_path):
    asked, store = [], Store(tmp_path)
    cases = [Case("theirs", 1, theirs(raising(ImportError("not here")))), Case("none", 1, theirs(raising(Absent("x"))))]
    assert run("part", cases, store, 60, lambda: asked.append(1)) == ([], [])
    assert store.cases["part", "theirs"]["absent"] == "ImportError: not here"
    assert store.cases["part", "none"]["absent"] == "x" and len(asked) == 1  # the device may have suffered


def test_a_graph_that_cannot_be_captured_is_absent(monkeypatch):
    class Module:
        CUDAGraph = object

        @staticmethod
        def graph(captured):
            raise RuntimeError("not on this device\ntrace")

    streams = []
    monkeypatch.setattr(torch, "get_device_module", lambda of: Module)
    monkeypatch.setattr(Machine, "device", torch.device("cpu"))
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda: "the stream before")
    monkeypatch.setattr(torch.accelerator, "set_stream", streams.append)
    with pytest.raises(Absent, match=r"captures no graphs \(not on this device\)"):
        device.graph(Machine(Foreign()))
    assert streams == ["the stream before"]


def test_of_a_board_only_its_versions_are_kept(monkeypatch):
    board = """
        NPU ID                         : 0
        Serial Number                  : 0123456789
        Software Version               : 25.2.0
        Firmware Version               : 7.7.0.6.236
    """
    monkeypatch.setattr(machines.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(machines.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=board))
    assert machines.driver("npu") == "Software Version : 25.2.0, Firmware Version : 7.7.0.6.236"
    assert machines.driver("xpu") == "unknown (no tool of its vendor)"


# -- processes


@pytest.mark.nightly
def test_ranks_of_the_host(tmp_path):
    assert bench.main(["cards", "--rehearse", "--out", str(tmp_path)]) == 0
    two, eight = cases_of(tmp_path, "cards").values()
    assert two["checked"] == 32 and not two["failures"] and two["times"]
    assert "is of 2 ranks" in eight["absent"]
    text = (tmp_path / "report.md").read_text()
    assert "| collectives and sharded attention and times, 2 ranks | 32 |" in text
    assert "| all-to-all of queries, HunyuanVideo | 2 |" in text


def test_a_rank_that_fails_is_heard_and_nobody_waits(tmp_path):
    machine = Machine.find("cpu", True, tmp_path)
    with pytest.raises(RuntimeError, match=r"rank 1: ValueError: out of luck"):
        cards.measure(machine, ["times"], 2, worker="tests.failing_rank")


def test_a_command_ends_in_time_with_what_it_started():
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], start_new_session=True)"
    how, (pid,) = processes.run(["-c", parent], 2)
    assert how == "its time being up (2 s)"
    with suppress(psutil.NoSuchProcess):  # or killed, and nobody has asked for its end yet
        killed = psutil.Process(int(pid))
        while killed.status() != psutil.STATUS_ZOMBIE:
            assert time.time() - killed.create_time() < 60
            time.sleep(0.05)


@pytest.mark.parametrize(("how", "error"), [(3, Absent), (1, RuntimeError), ("its time being up", RuntimeError)])
def test_a_command_that_does_not_end_well(how, error, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "run", lambda command, limit: (how, ["progress", "c4d: error: why"]))
    with pytest.raises(error, match="c4d: error: why"):
        generate.measure(Machine(Reference(), True, tmp_path), "float32", 1)


def test_clips_that_differ_are_told(tmp_path, monkeypatch):
    made = {"exit": 0, "timelines": {"cond": "CrrC"}, "nonfinite": 0}
    monkeypatch.setattr(generate, "made", lambda machine, backend, dtype, folder, ranks: dict(made))
    monkeypatch.setattr(generate, "closeness", lambda film, other: 29.0 if film.name == "uncached.mp4" else 55.0)
    machine = Machine(Reference(), True, tmp_path)
    assert generate.measure(machine, "bfloat16", 1)["failures"] == [
        "uncached: 29.0 dB to the host's clip, less than 30"
    ]
    machine.kept["host"] = {"timelines": {"cond": "CCCC"}}
    assert generate.measure(machine, "bfloat16", 1)["failures"][0].startswith(
        "other steps are computed than on the host"
    )


# -- what is kept


def raising(error):
    def measure():
        raise error

    return measure


def fine():
    return None


def test_an_interrupt_keeps_what_was_done(tmp_path):
    cases = [Case("one", 1, lambda: {"x": 1}), Case("two", 1, raising(KeyboardInterrupt()))]
    with pytest.raises(KeyboardInterrupt):
        run("part", cases, Store(tmp_path), 60, fine)
    store = Store(tmp_path)
    assert store.done("part", "one") and not store.done("part", "two")
    cases = [Case("one", 1, raising(AssertionError("is done"))), Case("two", 1, lambda: {"x": 2})]
    assert run("part", cases, store, 60, fine) == ([], [])
    assert Store(tmp_path).cases["part", "two"]["x"] == 2


def test_what_failed_or_was_absent_is_tried_again_last(tmp_path):
    order, store = [], Store(tmp_path)
    cases = [
        Case("fails", 1, raising(ValueError("no\nsecond line"))),
        Case("absent", 1, raising(Absent("not here"))),
        Case("good", 1, lambda: order.append("good") or {}),
    ]
    assert run("part", cases, store, 60, fine) == ([], ["fails"])
    assert store.cases["part", "fails"]["error"] == "ValueError: no"
    assert store.cases["part", "absent"]["absent"] == "not here"
    cases = [Case(name, 1, lambda name=name: order.append(name) or {}) for name in ("fails", "good", "new")]
    run("part", cases, store, 60, fine)
    assert order == ["good", "new", "fails"]
    run("part", cases, store, 60, fine, again=True)
    assert order[3:] == ["fails", "good", "new"]


def test_a_lost_device_ends_the_run(tmp_path):
    def gone():
        raise RuntimeError("gone")

    with pytest.raises(Lost, match=r"after bad the device does not answer \(gone\)"):
        run("part", [Case("bad", 1, raising(RuntimeError("x"))), Case("next", 1, dict)], Store(tmp_path), 60, gone)
    assert set(Store(tmp_path).cases) == {("part", "bad")}


# -- verdicts


STAMP = {
    "rehearsal": False, "device": "NVIDIA H200, compute capability 9.0", "backend": "cuda", "driver": "1", "host": "h",
    "versions": {"torch": "2"}, "commit": "c", "source": "s", "command": "bench/gpu.sh", "date": "2026-11-21",
}  # fmt: skip
METHOD = "c4d taylorseer-lite:interval=5,order=1@blocks"


def loop_record(name, **changes):
    usual = {
        "contender": name, "few": False, "weights": 1, "blocks": 57, "steps": 50, "seconds_loop": 10.2, "ran": "C" * 50,
        "blocks_reused": 57, "full_ms": 200.0, "reused_ms": None, "gap_ms": 1.0, "between": 0, "peak": 10**9,
        "held": 1, "finite": True, "stamp": 0, "seconds": 1,
    }  # fmt: skip
    return {**usual, **changes}


def records(ms=None, reused=2.0, loop=2.15, auto=1.0, failures=()):
    """Of a device that keeps every limit, unless changed: emptied stacks 1.5 ms, 3 x 1 GB at 4 TB/s 0.75 ms."""
    ran = "Crrrr" * 10
    emptied = {"ran": "r" * 50, "full_ms": None, "reused_ms": 1.5, "device_ms": 1.5, "bandwidth": 4e12, "hidden": 10**9}
    cached = {"seconds_loop": loop, "ran": ran, "reused_ms": reused, "blocks_reused": 0, "features": 2}
    ms = {"copy": 2.0, "c4d": 3.1, "eager": 9.0, "compiled": 3.05, **(ms or {})}
    host = dict.fromkeys(ms, 5.0)
    kernels = {"auto": {"ms": auto, "error": 1e-3}, "sdpa": {"ms": 1.0, "error": 1e-3}, "x": {"absent": "not here"}}
    kernels["sage"] = {"ms": 0.5, "error": 1e-2, "lossy": True}
    made = {
        ("check", "lincomb, bfloat16"): {"checked": 3, "worst": 0.5, "failures": list(failures)},
        ("generate", "wan-tiny, bfloat16"): {
            "checked": 4, "failures": [], "psnr": {"cached": 47.9, "uncached": 49.5}, "computed": 36, "reused": 64,
            "peak": 26 * 10**6, "peak_bytes": 98304, "attention": ["transformer: 8 self-attentions through sdpa"],
        },
        ("cards", "collectives, 2 ranks"): {"ranks": 2, "checked": 20, "worst": 0.0, "failures": [], "times": {}},
        ("cards", "times, 2 ranks"): {
            "ranks": 2, "checked": 0, "worst": 0.0, "failures": [],
            "times": {"all-to-all of queries, FLUX": {"sent": 10**9, "ms": 20.0, "gb_s": 50.0}},
        },
        ("bandwidth", "lincomb K=2, FLUX"): {"bytes": 10**9, "traffic": 3, "ms": ms, "host_us": host},
        ("attention", "FLUX"): {
            "shape": [1, 2, 3, 4],
            "masked": False,
            "flop": 10**9,
            "auto": "sdpa",
            "kernels": kernels,
        },
        ("flux", "uncached, 1"): loop_record("uncached"),
        ("flux", "stacks emptied, 1"): loop_record("stacks emptied", **emptied),
        ("flux", f"{METHOD}, 1"): loop_record(METHOD, **cached),
    }  # fmt: skip
    return {key: {"part": key[0], "case": key[1], "stamp": 0, "seconds": 1, **made[key]} for key in made}


def states(found):
    return {verdict.what: verdict.state for verdict in verdicts.verdicts(found)}


def test_limits_are_kept_or_not_measured():
    found = states(records())
    assert [state for what, state in found.items() if not what.startswith(("wan", "hunyuan"))] == [KEPT] * 8
    assert {state for what, state in found.items() if what.startswith(("wan", "hunyuan"))} == {UNKNOWN}
    assert set(states({}).values()) == {UNKNOWN}


@pytest.mark.parametrize(
    ("change", "limit"),
    [
        ({"failures": ["(1,) K=1: 7 of its limit"]}, "every primitive"),
        ({"ms": {"c4d": 3.6, "compiled": 3.6}}, "lincomb moves"),
        ({"ms": {"compiled": 2.9}}, "lincomb takes"),
        ({"auto": 1.06}, "attention"),
        ({"reused": 2.6}, "flux: a forward reused"),
        ({"loop": 2.3}, "flux: the formula's loop"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_limit_that_is_missed_is_called_so(change, limit):
    found = states(records(**change))
    assert [what for what, state in found.items() if state == MISSED] == [
        what for what in found if what.startswith(limit)
    ]
    assert "**MISSED**" in page.page([STAMP], records(**change))


def test_an_error_among_the_primitives_is_a_miss():
    found = records()
    found["check", "change, float32"] = {"part": "check", "case": "change, float32", "error": "RuntimeError: x"}
    assert verdicts.right(found, "check").state == MISSED


def test_rounds_are_merged_by_their_medians():
    found = records()
    for i, seconds in ((2, 9.0), (3, 9.1)):
        found["flux", f"uncached, {i}"] = {**loop_record("uncached", seconds_loop=seconds), "part": "flux"}
    assert verdicts.contenders(found, "flux")["uncached"]["seconds_loop"] == 9.1


def test_the_page_of_a_device(tmp_path, monkeypatch):
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    store = Store(tmp_path / "kept")
    store.add({"stamp": STAMP})
    for record in records().values():
        store.add(record)
    assert bench.main(["report", "--out", str(tmp_path / "kept")]) == 0
    text = (tmp_path / "docs/measurements/nvidia-h200-2026-11-21.md").read_text()
    assert text.startswith("# Measurements on NVIDIA H200\n") and "rehearsal" not in text
    # 2 GB in 2 ms, 3 GB in 3.1 ms; 10 full, 40 reused and 50 gaps of 1 ms: 2.13 s.
    assert "| K=2, FLUX | 1000.0 | 1.000 | 0.968 | 0.333 | 0.984 | 0.968 | 1.016 (compiled) | 5.0, 5.0 |" in text
    assert f"| {METHOD} | 10 + 40 | 0 of 57 | 200.000 | 2.000 | 0.889 | 2.150 | 4.744 | 0.991 |" in text
    assert "| wan-tiny, bfloat16 | 36 + 64 | 47.9 | 49.5 | 26.0 | 0.098 |  |" in text
    assert "| all-to-all of queries, FLUX | 2 | 1000.0 | 20.000 | 50.0 |" in text
    assert text.count("Not measured.") == 3
