"""``c4d calibrate`` from the command line, on a model of random weights: the file, its use, and what is refused."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from c4d.calibrate import collect
from c4d.core.caching.calibrated import CalibrationData
from tests.pipes import flux_with_text

SIZES = ["--height", "32", "--width", "32", "--frames", "5", "--steps", "14"]


@pytest.fixture
def calibrate(saved, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")

    def words(method, *more, out="made.json"):
        where = ["--prompt-file", tmp_path / "prompts.txt", "--out", tmp_path / out]
        return ["calibrate", method, "--model", saved, *where, *SIZES, "--max-sequence-length", "8", *more]

    return words


@pytest.mark.parametrize(
    "method, said, options",
    [
        ("teacache:least=-99", "R^2 held out", "threshold=0.2,"),
        ("magcache", "cond, expert 0: 14 noise levels", "threshold=0.2,max_skips=2,"),
        ("easycache", "cond, expert 0: 13 noise levels", "threshold=1.0,warmup=2,"),
        ("dpcache", "mean of 4 samples", "budget=7,"),
        ("hyca:interval=4", "clusters of single samplings: adjusted Rand index", "interval=4,"),
        ("l2p:computed=0/1/3/6/13,features=2", "between 5 computed ones of 14", ""),
        ("meancache:peak=2", "costs of every gap between two computed steps of 14, mean of 4 samples", "budget=6,"),
    ],
)
def test_made_and_used_without_a_line_of_code(c4d, calibrate, saved, tmp_path, method, said, options):
    name, path = method.partition(":")[0], tmp_path / "made.json"
    outcome = c4d(*calibrate(method))
    assert outcome.code == 0, outcome.err
    assert said in outcome.out and f"--cache {name}:path={path}" in outcome.out
    assert "calibrate: sampling 4 of 4: 14 steps recorded" in outcome.err
    found = CalibrationData.load(path, name)
    assert found.made_for["transformer"] == "WanTransformer3DModel" and found.about["model"] == str(saved)
    assert found.about["steps"] == 14 and found.about["samples"] == 4 and found.about["versions"]["torch"]
    assert not path.with_suffix(".work").exists()
    made = ["--cache", f"{name}:{options}path={path}", "--prompt", "a red circle", "--out", tmp_path / "out", "--quiet"]
    assert c4d("generate", "--model", saved, *made, *SIZES).code == 0
    line = json.loads((tmp_path / "out/report.json").read_text())["session"]["timelines"]["cond"]
    assert "r" in line and "C" in line


def test_a_search_is_of_one_prompt(c4d, fails, calibrate, saved, tmp_path):
    fails(calibrate("budcache:budget=2", "--steps", "3"), 2, "BudCache is made of one sampling, not of 2")
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    outcome = c4d(*calibrate("budcache:budget=2", "--steps", "3"))
    assert outcome.code == 0, outcome.err
    assert "2 of 3 steps: 0/" in outcome.out and "2 sets tried" in outcome.out and "set 1: mean sq" in outcome.err
    assert f"--cache budcache:path={tmp_path}/made.json --prompt" in outcome.out
    assert len(CalibrationData.load(tmp_path / "made.json", "budcache").data["computed"]) == 2


def test_another_architecture_is_refused(c4d, fails, calibrate, tmp_path):
    assert c4d(*calibrate("magcache", "--samples", "1")).code == 0
    flux_with_text().save_pretrained(tmp_path / "flux")
    text = f"magcache:path={tmp_path}/made.json,threshold=0.1,max_skips=2"
    words = ["generate", "--model", tmp_path / "flux", "--prompt", "a", "--cache", text, "--out", tmp_path / "out"]
    fails(words, 2, "made for WanTransformer3DModel, and this is FluxTransformer2DModel", "c4d calibrate")


def test_an_interrupted_command_goes_on(c4d, calibrate, tmp_path, monkeypatch):
    whole, made = collect.write_whole, []

    def interrupted(path, text):
        whole(path, text)
        made.append(path)
        if len(made) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(collect, "write_whole", interrupted)
    outcome = c4d(*calibrate("magcache"))
    assert outcome.code == 130 and "the same command goes on from there" in outcome.err
    assert not (tmp_path / "made.json").exists()
    monkeypatch.setattr(collect, "write_whole", whole)
    outcome = c4d(*calibrate("magcache"))
    assert outcome.code == 0 and outcome.err.count("as it was kept") == 2 and outcome.err.count("steps recorded") == 2
    assert c4d(*calibrate("magcache", out="at_once.json")).code == 0
    again, once = (json.loads((tmp_path / name).read_text())["data"] for name in ("made.json", "at_once.json"))
    assert again == once


def test_a_refused_signal_keeps_what_was_sampled(c4d, fails, calibrate):
    fails(
        calibrate("teacache:least=1.1"), 2, "no signal predicts how far the residual changes", "time_embedding", "input"
    )
    outcome = c4d(*calibrate("teacache:least=-99"))
    assert outcome.code == 0 and outcome.err.count("as it was kept") == 4


@pytest.fixture
def differences(tmp_path):
    """The same relation in every format that is read."""
    folder, draw = tmp_path / "recorded", random.Random(0)
    folder.mkdir()
    runs = []
    for _ in range(4):
        x = np.array([0.02, 0.4, *(draw.uniform(0.02, 0.4) for _ in range(30))])
        runs.append((x, 2.0 * x**2 + 0.1 * x + 0.01))
    rows = [[f"{float(x)!r},{float(y)!r}" for x, y in zip(*run, strict=True)] for run in runs]
    (folder / "a.csv").write_text("\n".join(["input, output", *rows[0], "nan, 0.1"]))
    (folder / "b.txt").write_text("\n".join(["# two columns", "", *(row.replace(",", "  ") for row in rows[1])]))
    np.save(folder / "c.npy", np.stack(runs[2], 1))
    np.savez(folder / "d.npz", input=runs[3][0], output=runs[3][1])
    (folder / "notes.md").write_text("not a run")
    return folder


def test_differences_of_another_tool(c4d, saved, tmp_path, differences):
    where = ["--model", saved, "--from", differences, "--out", tmp_path / "made.json"]
    outcome = c4d("calibrate", "teacache:signal=time_embedding", *where)
    assert outcome.code == 0, outcome.err
    assert "made of 129 changes" not in outcome.out and "made of 128 changes in 3 samples, 1 left out" in outcome.out
    found = CalibrationData.load(tmp_path / "made.json", "teacache")
    assert found.data["coefficients"] == pytest.approx([0, 0, 2.0, 0.1, 0.01], abs=1e-6)
    assert found.about["from"] == ["a.csv", "b.txt", "c.npy", "d.npz"]
    made = ["--cache", f"teacache:threshold=0.3,path={tmp_path}/made.json", "--prompt", "a", "--out", tmp_path / "out"]
    assert c4d("generate", "--model", saved, *made, *SIZES, "--quiet").code == 0
    (tmp_path / "c.yaml").write_text(f"from: {differences}\nmodel: {saved}\nout: {tmp_path}/again.json\n")
    assert c4d("calibrate", "teacache:signal=time_embedding", "--config", tmp_path / "c.yaml").code == 0


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.csv", "1,2\n1;3\n", ["a.csv", "line 2 is '1;3', not two numbers"]),
        ("a.csv", "1,2\n1,2,3\n", ["line 2 is '1,2,3'"]),
        ("a.csv", "x,y\n", ["a.csv", "have no row"]),
        ("a.npy", "nothing", ["a.npy", "cannot be read"]),
        ("a.md", "1,2", ["has no recorded differences", ".csv, .txt, .npy, .npz"]),
    ],
)
def test_differences_that_cannot_be_read(fails, tmp_path, name, text, words):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_text(text)
    fails(["calibrate", "teacache:signal=input", "--from", tmp_path / "d", "--out", tmp_path / "x.json"], 2, *words)


def test_arrays_that_are_not_two_columns(fails, tmp_path):
    (tmp_path / "d").mkdir()
    words = ["calibrate", "teacache:signal=input", "--from", tmp_path / "d", "--out", tmp_path / "x.json"]
    np.save(tmp_path / "d/a.npy", np.zeros((4, 3)))
    fails(words, 2, "its shape is [4, 3], not [steps, 2]")
    (tmp_path / "d/a.npy").unlink()
    np.savez(tmp_path / "d/a.npz", input=np.zeros(3))
    fails(words, 2, "no array output, but input")


@pytest.mark.parametrize(
    "method, more, words",
    [
        ("fora", [], ["unknown calibration 'fora'", "known are budcache, dpcache, easycache, hyca, l2p, magcache"]),
        ("teacache:shape=round", [], ["unknown shape 'round'", "monotone, least-squares"]),
        ("teacache:target=blocks", [], ["unknown target 'blocks'"]),
        ("teacache:signal=first_blocks", [], ["unknown signal 'first_blocks'"]),
        ("teacache:degree=3", [], ["no option 'degree'"]),
        ("l2p:computed=1/2", [], ["computed=1/2"]),
        ("l2p:features=0", [], ["features must be", "got 0"]),
        ("hyca:interval=1", [], ["interval must be a whole number of at least 2", "got 1"]),
        ("hyca:interval=13", ["--samples", "1"], ["there is nothing to choose a solver by"]),
        ("magcache", ["--samples", "0"], ["--samples is 0"]),
        ("magcache", ["--from", "x"], ["--from reads what was recorded", "--prompt-file"]),
        ("magcache", ["--steps", "1", "--samples", "1"], ["1 steps of cond have a value"]),
        ("teacache", ["--samples", "1"], ["one sampling leaves none to judge"]),
        ("l2p:computed=0/3/14", ["--samples", "1"], ["step 14 is to be computed", "have 14"]),
    ],
)
def test_what_cannot_be_calibrated(fails, calibrate, method, more, words):
    fails(calibrate(method, *more), 2, *words)


def test_differences_need_their_signal(fails, differences, tmp_path):
    words = ["--from", differences, "--out", tmp_path / "x.json"]
    fails(["calibrate", "teacache", *words], 2, "do not say of which signal", "teacache:signal=")
    fails(["calibrate", "dpcache", *words], 2, "DPCache is not made of recorded differences")


def test_a_method_has_to_be_named(fails):
    fails(["calibrate", "--prompt", "a"], 2, "which METHOD? known are budcache, dpcache")


def test_it_is_kept_unless_it_may_be_replaced(fails, calibrate, tmp_path):
    (tmp_path / "made.json").write_text("mine")
    fails(calibrate("magcache"), 2, "made.json' is there already", "--overwrite")
    assert (tmp_path / "made.json").read_text() == "mine"


def test_the_help_lists_what_can_be_calibrated(c4d):
    text = c4d("calibrate", "--help").out
    for name in ("budcache", "dpcache", "easycache", "hyca", "l2p", "magcache", "meancache", "teacache"):
        assert f"\n  {name}" in text
        assert f"c4d calibrate {name}" in c4d("methods", name).out
    assert "c4d calibrate" not in c4d("methods", "fora").out
