"""The bench for accelerators, rehearsed on the host: what is kept, what goes on, what the page says."""

from __future__ import annotations

import json

import pytest
import torch

from bench.accelerator import __main__ as bench
from bench.accelerator import device, loops, page, sweep, verdicts
from bench.accelerator.machine import Machine
from bench.accelerator.records import Absent, Case, Lost, Store, run
from bench.accelerator.subjects import Subject
from bench.accelerator.verdicts import KEPT, MISSED, UNKNOWN
from c4d.backends import select


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No suite within the suite, and nothing is written outside of the folders given."""
    monkeypatch.setattr(device, "suite", lambda machine: {"checked": 1, "failures": [], "said": "left out"})
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


@pytest.mark.parametrize("part", verdicts.MODELS)
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
    [
        ("flux", 11.90e9, 4096 * 3072 * 2),
        ("wan", 1.42e9, 32760 * 1536 * 4),
        ("wan14b", 14.29e9, 75600 * 5120 * 4),
        ("hunyuan", 12.82e9, 118800 * 3072 * 2),
    ],
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


def test_without_an_accelerator_it_says_so(tmp_path, capsys):
    if torch.accelerator.is_available():
        pytest.skip("there is one")
    assert bench.main(["check", "--out", str(tmp_path)]) == 2
    assert "no accelerator is found here (backend 'cuda' cannot run here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_unknown_parts_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main(["chekc"])
    assert stopped.value.code == 2 and "known are check, bandwidth" in capsys.readouterr().err


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
METHOD = "c4d taylorseer-lite:interval=5,order=1@stack"


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
    }
    return {key: {"part": key[0], "case": key[1], "stamp": 0, "seconds": 1, **made[key]} for key in made}


def states(found):
    return {verdict.what: verdict.state for verdict in verdicts.verdicts(found)}


def test_limits_are_kept_or_not_measured():
    found = states(records())
    assert [state for what, state in found.items() if not what.startswith(("wan", "hunyuan"))] == [KEPT] * 6
    assert {state for what, state in found.items() if what.startswith(("wan", "hunyuan"))} == {UNKNOWN}
    assert set(states({}).values()) == {UNKNOWN}


@pytest.mark.parametrize(
    ("change", "limit"),
    [
        ({"failures": ["(1,) K=1: 7 of its limit"]}, "every primitive"),
        ({"ms": {"c4d": 3.6, "compiled": 3.6}}, "lincomb moves"),
        ({"ms": {"compiled": 2.9}}, "lincomb takes"),
        ({"auto": 1.06}, "attention"),
        ({"reused": 2.6}, "flux: a pass reused"),
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
    assert text.count("Not measured.") == 3
