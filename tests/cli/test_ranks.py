"""``launch/infer.py`` and ``c4d`` on two ranks of torchrun: the files that one process leaves, or one clear line."""

from __future__ import annotations

import json
import re

import imageio.v3 as iio
import numpy as np
import pytest

from c4d.cli.main import main
from tests.cli.ranks import DecisionSync

pytestmark = pytest.mark.slow
PROMPTS = ["a red circle moving left on a black background", "a blue square moving up on a white background"]
METHOD = "first-block:threshold=0.6"  # every forward asks all ranks
TIMEOUT = 5  # seconds; ranks that start at once meet in less
COMMON = ["--steps", "6", "--frames", "5", "--cache", METHOD, "--quiet"]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """All programs of this file on the same two ranks, which come to their end like any program of torchrun's."""
    started = DecisionSync(tmp_path_factory.mktemp("ranks"))
    try:
        yield started
    finally:
        code = started.close()
    assert code == 0


@pytest.fixture
def launched(ranks):
    """Runs on two ranks; gives exit status and the lines that c4d wrote to stderr."""

    def run(*words, program="launch/infer.py", **settings):
        return ranks.run(program, *words, **settings)

    return run


def alone(*arguments):
    assert main(["generate", *map(str, arguments)]) == 0


@pytest.fixture(autouse=True)
def one_rank_here(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def film(folder):
    return iio.imread(folder / "video.mp4").astype(int)


def record(folder):
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize(
    "degrees, used",
    [
        pytest.param([], {"ulysses": 1, "ring": 1, "cfg": 2, "data": 1}, id="chosen"),  # this pipeline has two branches
        pytest.param(
            ["--cfg", "1", "--ring", "2"],
            {"ulysses": 1, "ring": 2, "cfg": 1, "data": 1},
            id="ring",
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_two_ranks_make_what_one_makes(launched, tmp_path, degrees, used):
    ranks, one = tmp_path / "ranks", tmp_path / "one"
    code, said = launched("--prompt", PROMPTS[0], *COMMON, "--compare", *degrees, "--out", ranks)
    assert code == 0, said
    alone("--prompt", PROMPTS[0], *COMMON, "--compare", "--out", one)
    there, here = record(ranks), record(one)
    assert used.items() <= there["ranks"].items() and here["ranks"] is None
    assert there["fewer_steps"] == here["fewer_steps"]  # of both branches, whoever made them
    assert np.abs(film(ranks) - film(one)).max() <= 2  # of 255: rounding, through the codec
    told = [note for note in there["notes"] if note not in here["notes"]]
    assert told.pop() == "what the cache holds is counted on one of the 2 ranks of this prompt"
    assert told == (
        ["forwards, blocks and the timeline are of one branch of guidance; other ranks made the other one"]
        * (used["cfg"] - 1)
    )
    assert there["session"]["peak_bytes"] * 2 == here["session"]["peak_bytes"]  # of one branch, or of half the tokens
    assert list(there["session"]["timelines"]) == ["cond", "uncond"][: 3 - used["cfg"]]
    page = (ranks / "report.html").read_text()
    assert there["ranks"]["said"] in page and all(note in page for note in there["notes"])
    shown = there["session"]["timelines"]
    assert shown.items() <= here["session"]["timelines"].items() and "r" in shown["cond"]
    assert sorted(path.name for path in ranks.iterdir()) == sorted(path.name for path in one.iterdir())


def test_each_group_of_ranks_makes_its_own_prompts(launched, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join([*PROMPTS, PROMPTS[0]]))  # the third has another seed than the first
    command = ["--prompt-file", prompts, *COMMON, "--data", "2", "--cfg", "1", "--out", tmp_path / "out"]
    code, said = launched(*command)
    assert code == 0, said
    lines = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines if line["path"].endswith(".mp4")] == [*PROMPTS, PROMPTS[0]]
    assert (film(tmp_path / "out/000") != film(tmp_path / "out/002")).any()
    alone("--prompt", PROMPTS[1], *COMMON, "--seed", 1, "--out", tmp_path / "one")
    assert (film(tmp_path / "out/001") == film(tmp_path / "one")).all()
    marks = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("report.json")}
    lost = tmp_path / "out/001/report.json"
    lost.unlink()
    # One prompt is left for two groups: the other waits for it, longer than a collective may take.
    slowly = dict(program="tests/cli/slow_rank.py", SECONDS=str(TIMEOUT + 2))
    code, said = launched(*command, "--timeout", TIMEOUT, **slowly)
    assert code == 0, said
    again = {path: path.stat().st_mtime_ns for path in marks}
    assert [path for path in marks if again[path] != marks[path]] == [lost]


@pytest.fixture(scope="module")
def small(saved, tmp_path_factory):
    """The words that both commands have in common, for a tiny model of random weights."""
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    sizes = ["--height", "32", "--width", "32", "--frames", "5", "--steps", "6", "--max-sequence-length", "32"]
    return ["--model", saved, "--prompt-file", prompts, "--samples", "2", *sizes]


COMMAND = dict(program="c4d/__main__.py")


@pytest.mark.parametrize(
    "degrees, said", [([], "cfg 2"), pytest.param(["--cfg", "1"], "ulysses 2", marks=pytest.mark.nightly)]
)
def test_two_ranks_compare_as_one_does(launched, small, tmp_path, degrees, said):
    words = [*small, "--cache", METHOD, "--samples", "1", "--plain", "3", "--minutes", "0.001", "--quiet"]
    code, told = launched("compare", *words, *degrees, "--out", tmp_path / "two", **COMMAND)
    assert code == 0, told
    assert main([str(word) for word in ("compare", *words, "--out", tmp_path / "one")]) == 0
    two, one = (json.loads((tmp_path / name / "compare.json").read_text()) for name in ("two", "one"))
    assert two["about"]["ranks"] == said and said in (tmp_path / "two/index.html").read_text()
    tried = [[re.sub("none of [0-9]+", "none of those", line) for line in each["left_out"]] for each in (two, one)]
    assert tried[0] == tried[1] and len(two["contenders"]) == len(one["contenders"]) >= 3  # a search is by the clock
    for ours, theirs in zip(two["contenders"], one["contenders"], strict=True):
        same = ("name", "levels", "block_rows", "front", "cached_nothing")
        assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
        for scores in ("PSNR", "SSIM"):
            assert ours["scores"][scores]["each"] == pytest.approx(theirs["scores"][scores]["each"], abs=0.02)
        for cost in ("flops", "share"):
            assert ours[cost] >= theirs[cost], "of both ranks, some of it made twice"
        assert ours["bytes"] * 2 == theirs["bytes"], "of one branch, or of half the tokens"
    before, more = (tmp_path / "two/journal.jsonl").read_text(), ["--cache", "fora:interval=2"]
    code, told = launched("compare", *words, *more, *degrees, "--out", tmp_path / "two", **COMMAND)
    assert code == 0, told
    after = (tmp_path / "two/journal.jsonl").read_text()
    new = [json.loads(line)["clip"] for line in after.removeprefix(before).splitlines() if '"clip"' in line]
    assert after.startswith(before) and [name.partition("-")[2][:4] for name in new] == ["fora"]


def test_peers_are_compared_on_one_rank(launched, small, tmp_path):
    code, said = launched("compare", *small, "--peers", "diffusers", "--out", tmp_path / "out", **COMMAND)
    assert code == 2 and len(said) == 1 and "--peers are compared on one rank, and there are 2" in said[0]


@pytest.mark.parametrize(
    "degrees", [["--cfg", "1", "--memory", "divided"], pytest.param([], marks=pytest.mark.nightly)]
)
def test_two_ranks_calibrate_as_one_does(launched, small, tmp_path, degrees):
    """And a fit that was refused is tried again with what both have sampled."""
    two, one = tmp_path / "two.json", tmp_path / "one.json"
    code, said = launched("calibrate", "teacache:least=1.1", *small, *degrees, "--out", two, **COMMAND)
    assert code == 2 and len(said) == 1 and "no signal predicts" in said[0] and not two.exists()
    code, said = launched("calibrate", "teacache:least=-9", *small, *degrees, "--out", two, **COMMAND)
    assert code == 0 and said.count("as it was kept") == 2 and "recorded" not in said
    assert main([str(word) for word in ("calibrate", "teacache:least=-9", *small, "--out", one)]) == 0
    ours, theirs = (json.loads(path.read_text()) for path in (two, one))
    assert ours["made_for"] == theirs["made_for"] and ours["about"] == theirs["about"]
    assert ours["data"]["signal"] == theirs["data"]["signal"]
    for name in ("range", "coefficients"):
        assert ours["data"][name] == pytest.approx(theirs["data"][name], rel=1e-3, abs=1e-4)
    assert list(tmp_path.glob("*.work")) == []


def test_what_does_not_fit_is_said_once(launched, tmp_path):
    code, said = launched("--prompt", PROMPTS[0], *COMMON, "--ulysses", "3", "--out", tmp_path / "out")
    assert code != 0 and len(said) == 1
    assert "(rank 0)" in said[0] and "ulysses=3 does not fit 2 ranks" in said[0] and "ring 2" in said[0]
    assert not (tmp_path / "out").exists()


def test_one_process_is_no_two_ranks(tmp_path, capsys):
    assert main(["generate", "--prompt", PROMPTS[0], "--ulysses", "2", "--out", str(tmp_path / "out")]) == 2
    assert "ulysses=2 does not fit 1 rank," in capsys.readouterr().err


def test_each_group_of_ranks_makes_its_own_samples_of_a_benchmark(launched, tmp_path):
    (tmp_path / "drawbench.csv").write_text("Prompts,Category\n" + "".join(f"{prompt},Colors\n" for prompt in PROMPTS))
    words = ["benchmark", "drawbench", "--prompt-file", tmp_path / "drawbench.csv", "--frames", "1", "--steps", "2"]
    out = tmp_path / "out"
    words += ["--cache", "none", "--quiet", "--out", out]
    code, said = launched(*words, "--data", "2", "--cfg", "1", "--samples", "2", **COMMAND)
    assert code == 0, said
    lines = [json.loads(line) for line in (out / "prompts.jsonl").read_text().splitlines()]
    assert sorted(str(path.relative_to(out)) for path in (out / "images").iterdir()) == [each["file"] for each in lines]
    found = [json.loads(line) for line in (out / "runs/manifest.jsonl").read_text().splitlines()]
    assert [(each["prompt"], each["seed"]) for each in found] == [
        (prompt, seed) for prompt in PROMPTS for seed in (0, 1)
    ]
