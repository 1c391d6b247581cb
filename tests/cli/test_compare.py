"""``c4d compare`` on a model of random weights: figures, the page, going on after an interruption, what is refused."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from functools import partial

import pytest
import torch

import c4d.pipelines.comparison as comparison
import c4d.pipelines.runs as making
from c4d.backends import load
from c4d.calibrate.search import Scores
from c4d.cli.compare import contenders
from c4d.cli.main import main
from c4d.core.text.grammar import parse
from c4d.metrics.scores import METRICS
from c4d.pipelines.compare import run_interleaved, work
from c4d.pipelines.errors import GenerationError
from c4d.pipelines.request import Request
from c4d.pipelines.settings import Settings
from c4d.pipelines.strips import LADDER, embedded, write_strip
from tests.networks import clip_model
from tests.pipes import text_to_video

PROMPTS = "a red circle\na </script><script>alert(1)</script> {{ 7 }} 'square'\n"
METHODS = ("--cache", "taylorseer-lite:interval=2", "--cache", "fora:interval=3")


def words(model, folder, *more, methods=METHODS, minutes="0"):
    (folder / "prompts.txt").write_text(PROMPTS)
    sizes = ["--height", "32", "--width", "32", "--frames", "5", "--steps", "6", "--max-sequence-length", "32"]
    where = ["--prompt-file", folder / "prompts.txt", "--out", folder / "out", "--minutes", minutes]
    return [str(word) for word in ("compare", "--model", model, *where, *sizes, *methods, *more)]


@pytest.fixture
def compare(saved, tmp_path):
    return partial(words, saved, tmp_path)


def counting(patch):
    """What is generated, as (method, steps, seed), the untimed run of two plain steps that comes first left out."""
    found, real, flops = [], making.generate, []

    class Counted(making.Flops):
        """Which says that a run is made for its FLOPs: those are left out, too."""

        def __enter__(self):
            flops.append(self)
            return super().__enter__()

        def __exit__(self, *exc):
            flops.pop()
            super().__exit__(*exc)

    def generate(pipe, request, *, method, **how):
        if (method, request.steps) != (None, 2) and not flops:
            found.append((method, request.steps, request.seed))
        return real(pipe, request, method=method, **how)

    patch.setattr(making, "generate", generate)
    patch.setattr(making, "Flops", Counted)
    return found


@pytest.fixture
def runs(monkeypatch):
    return counting(monkeypatch)


@pytest.fixture(scope="module")
def made(saved, tmp_path_factory):
    """A folder with a comparison, and what was generated for it."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WORLD_SIZE", raising=False)
        found = counting(patch)
        patch.setattr(comparison, "score", lambda errors: math.inf)  # so that a search of a moment is worth something
        assert main(words(saved, folder, "--quiet", minutes="0.01")) == 0
    return folder, found


def figures(folder):
    return json.loads((folder / "out/compare.json").read_text())


def by_name(folder):
    return {one["name"]: one for one in figures(folder)["contenders"]}


def test_the_figures(made):
    folder, runs = made
    told, found = figures(folder), by_name(folder)
    chosen = "plain steps at chosen noise levels"
    assert set(found) == {
        "uncached", "taylorseer-lite:interval=2", "fora:interval=3", "3 plain steps", f"3 {chosen}",
    }  # fmt: skip
    half, plain = found["taylorseer-lite:interval=2"], found["3 plain steps"]
    assert half["flops_share"] == pytest.approx(0.5, abs=0.01), "a reused forward costs next to nothing"
    for one in (half, found["fora:interval=3"]):
        assert [each["share"] for each in one["prompts"]] == [one["flops_share"]] * 2, "what is compared is FLOPs"
    assert plain["flops"] == found["uncached"]["flops"] / 2 and found["uncached"]["flops_share"] == 1
    assert not any(one["cached_nothing"] for one in found.values())
    assert half["share"] == 0.5 == plain["share"] and half["bytes"] > 0 == plain["bytes"]
    assert found["uncached"]["block_rows"] == 2 * half["block_rows"] == 2 * plain["block_rows"] > 0
    assert found["uncached"]["scores"]["PSNR"]["each"] == [120.0, 120.0] and found["uncached"]["beside"] == []
    scores = half["scores"]["PSNR"]
    assert scores["mean"] == pytest.approx(sum(scores["each"]) / 2, abs=1e-3) and scores["worst"] == min(scores["each"])
    assert 0 < half["scores"]["SSIM"]["mean"] <= 1
    beside = {each["name"]: each for each in half["beside"]}
    assert set(beside) == {"3 plain steps", f"3 {chosen}"}
    differences = [a - b for a, b in zip(scores["each"], plain["scores"]["PSNR"]["each"], strict=True)]
    assert beside["3 plain steps"]["mean"] == pytest.approx(sum(differences) / 2)
    assert beside["3 plain steps"]["low"] == pytest.approx(min(differences))
    assert found[f"3 {chosen}"]["levels"][0] == 0 and len(found[f"3 {chosen}"]["levels"]) == 3
    assert half["times_as_fast"] == pytest.approx(found["uncached"]["seconds"] / half["seconds"])
    assert any(one["front"] for one in told["contenders"]) and not found["uncached"]["front"]
    measured = {seed for method, _, seed in runs if method is not None}
    assert measured == {0, 1} and {10_000, 10_001} <= {seed for _, _, seed in runs}, "other noise for the search"
    lines = list(csv.DictReader((folder / "out/compare.csv").open()))
    assert len(lines) == 2 * len(found)
    mine = [line for line in lines if line["contender"] == half["name"]]
    assert [line["flops"] for line in mine] == [str(half["flops"]), ""], "counted on the first prompt"
    assert [float(line["PSNR"]) for line in mine] == scores["each"] and mine[1]["prompt"] == PROMPTS.split("\n")[1]
    assert len(list((folder / "out/clips").glob("*.mp4"))) == len(lines)


def test_the_page_stands_alone(made):
    folder, _ = made
    page = (folder / "out/index.html").read_text()
    assert len(page) < 20e6
    assert not re.search(r"https?://|//cdn|@import|url\(|<link|<iframe| src=", page)
    assert page.count("<script") == 3 and "alert(1)</script>" not in page, "what people wrote is text"
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert [asked["prompt"] for asked in data["prompts"]] == PROMPTS.strip().split("\n")
    command = data["commands"]["taylorseer-lite:interval=2"]
    assert "--cache taylorseer-lite:interval=2 --steps 6 --height 32" in command
    assert "--cache none --steps 3" in data["commands"]["3 plain steps"]
    pictures = json.loads(re.search(r'id="pictures">(.*?)</script>', page, re.DOTALL)[1])
    names = [cell["name"] for one in data["contenders"] for cell in one["prompts"]]
    assert {f"{name}.strip" for name in names} <= set(pictures)
    assert all(uri.startswith("data:image/webp;base64,") for uri in pictures.values())
    assert "ImageReward" in page and "FLIP" in page


def test_levels_that_are_no_closer_are_left_out(c4d, compare, tmp_path, monkeypatch):
    def searched(make, reference, start, total, seconds, journal):
        journal[frozenset(start)] = Scores(math.inf, math.inf)
        return start, 7

    monkeypatch.setattr(comparison, "searched", searched)
    assert c4d(*compare("--plain", "2", "--samples", "1", minutes="1")).code == 0
    assert "2 plain steps at chosen noise levels" not in by_name(tmp_path)
    assert by_name(tmp_path)["taylorseer-lite:interval=2"]["beside"] == [], "no plain steps cost as much"
    said = "2 plain steps at chosen noise levels: none of 7 that were tried came closer than the scheduler's own"
    assert any(line.startswith(said) for line in figures(tmp_path)["left_out"])


def test_it_goes_on_where_it_was_stopped(c4d, compare, tmp_path, runs, monkeypatch):
    counted, real = [], making.generate

    def stopped(*arguments, **how):
        counted.append(1)
        if len(counted) == 8:  # the untimed one, the uncached, two methods, each twice: then the first plain steps
            raise KeyboardInterrupt
        return real(*arguments, **how)

    with monkeypatch.context() as patch:
        patch.setattr(making, "generate", stopped)
        outcome = c4d(*compare())
    assert outcome.code == 130 and "the same command goes on" in outcome.err
    journal = tmp_path / "out/journal.jsonl"
    assert len(journal.read_text().splitlines()) == 2 * 3 == 2 * len(runs), "a line of FLOPs for each"
    with journal.open("a") as file:
        file.write('{"key": "half a li')  # as kill -9 leaves it
    before, runs[:] = list(runs), []
    assert c4d(*compare()).code == 0
    assert not set(before) & set(runs) and len(runs) == 4 * 2 - 3, "two plain steps are not counted"
    runs[:] = []
    assert c4d(*compare()).code == 0 and runs == []
    assert c4d(*compare("--cache", "dmd:interval=3")).code == 0
    assert {method for method, _, _ in runs} == {"dmd:interval=3"}, "what is new is measured, and no more"


def test_what_was_measured_otherwise_is_put_aside(c4d, compare, tmp_path, runs):
    few = compare("--plain", "3", "--samples", "1")
    assert c4d(*few).code == 0 and len(runs) == 4
    runs[:] = []
    assert c4d(*few, "--seed", "5").code == 0 and len(runs) == 4
    assert figures(tmp_path)["prompts"] == [{"prompt": "a red circle", "seed": 5}]
    runs[:] = []
    assert c4d(*few, "--repeats", "2").code == 0 and len(runs) == 4, "one more of each"
    assert all(len(one["prompts"][0]["seconds"]) == 2 for one in figures(tmp_path)["contenders"])


def test_a_reference_that_is_gone_is_made_again(c4d, compare, tmp_path, runs):
    few = compare("--plain", "3", "--samples", "1")
    assert c4d(*few).code == 0
    for path in (tmp_path / "out/references").iterdir():
        path.unlink()
    before, runs[:] = by_name(tmp_path), []
    assert c4d(*few, "--cache", "dmd:interval=3").code == 0
    assert runs == [(None, 6, 0), ("dmd:interval=3", 6, 0)]
    assert by_name(tmp_path)["fora:interval=3"]["scores"] == before["fora:interval=3"]["scores"]


def test_a_method_that_fails_is_named_and_the_rest_goes_on(c4d, compare, tmp_path, monkeypatch):
    real = making.generate

    def broken(pipe, request, *, method, **how):
        if method == "fora:interval=3":
            raise GenerationError("3 pixel values are not finite")
        return real(pipe, request, method=method, **how)

    monkeypatch.setattr(making, "generate", broken)
    outcome = c4d(*compare())
    assert outcome.code == 0 and "left out: fora:interval=3: 3 pixel values" in outcome.out
    assert "fora:interval=3" not in by_name(tmp_path)
    assert "fora:interval=3: 3 pixel values" in (tmp_path / "out/index.html").read_text()


def test_metrics_that_are_not_installed_are_said_to_be(made):
    told = figures(made[0])
    for metric in METRICS:
        measured = metric.installed and not metric.asked
        assert all(measured == (metric.name in one["scores"]) for one in told["contenders"])
        missing = f"{metric.name}: not installed here (pip install {metric.install})"
        assert (missing in told["left_out"]) == (not metric.installed and not metric.asked)
        small = f"{metric.name}: takes frames from 176 pixels, and these have 32x32"
        assert (small in told["left_out"]) == (measured and metric.least > 32)
    assert not replace(METRICS[0], package="no_such_package").installed


def test_a_network_that_is_asked_for(c4d, compare, tmp_path, runs):
    clip_model(tmp_path / "clip")
    few = compare("--plain", "3", "--samples", "1", methods=METHODS[:2])
    assert c4d(*few).code == 0
    runs[:] = []
    outcome = c4d(*few, "--metrics", f"clip={tmp_path}/nowhere")
    assert outcome.code == 0 and runs == [], "nothing is made anew for what cannot be measured"
    why = f"CLIP score: cannot be loaded (FileNotFoundError: no folder '{tmp_path}/nowhere'); --metrics clip=… is a "
    assert f"compare: left out: {why}" in outcome.err and f"left out: {why}" in outcome.out
    assert "CLIP score" not in by_name(tmp_path)["uncached"]["scores"]
    assert c4d(*few, "--metrics", f"clip={tmp_path}/clip").code == 0 and len(runs) == 3
    told, found = figures(tmp_path), by_name(tmp_path)
    score = found["uncached"]["scores"]["CLIP score"]["mean"]
    assert 0 < score < 100 and score != found["3 plain steps"]["scores"]["CLIP score"]["mean"]
    assert {"name": "CLIP score", "source": f"{tmp_path}/clip", "close": False}.items() <= told["metrics"][-1].items()
    page = (tmp_path / "out/index.html").read_text()
    assert f"({tmp_path}/clip); higher suits it better" in page and "ImageReward and the CLIP score cannot rank" in page
    first = next(csv.DictReader((tmp_path / "out/compare.csv").open()))
    assert float(first["CLIP score"]) == score and (tmp_path / "out" / first["clip"]).exists()


def test_without_methods_it_takes_those_that_need_nothing_but_a_text():
    pipe = text_to_video()[0]
    texts = [one.method for one in contenders(pipe, [], 50)]
    assert texts[:3] == [f"profile:universal,quality={name}" for name in ("high", "balanced", "fast")]
    assert {"dmd:interval=4", "seacache:threshold=1.0,max_skips=3", "fora:interval=5"} < set(texts)
    assert [one.method for one in contenders(pipe, ["dmd:interval=4", "auto"], 50)] == [
        "dmd:interval=4",
        "profile:universal,quality=balanced",
    ]


@pytest.mark.parametrize(
    "more, words",
    [
        (["--plain", "6"], ["--plain is 6", "from 1 to 5"]),
        (["--plain", "0/3"], ["--plain is 0/3"]),
        (["--plain", "few"], ["'few' is not a whole number"]),
        (["--minutes", "-1"], ["--minutes is -1.0"]),
        (["--repeats", "0"], ["--repeats is 0"]),
        (["--samples", "0"], ["--samples is 0"]),
        (["--cache", "fourier:interval=3"], ["fourier", "dmd"]),
        (["--cache", "none"], ["--cache none is always compared"]),
        (["--metrics", "fid"], ["--metrics: 'fid' is not known", "lpips, clip=…"]),
        (["--metrics", "clip"], ["--metrics: 'clip': clip=… is a folder or hub id"]),
        (["--metrics", "lpips=inception"], ["'lpips=inception'", "alex, vgg, squeeze"]),
        (["--cache", "auto"], ["--cache auto: no cache: of 6 steps"]),
    ],
)
def test_what_cannot_be_compared(fails, compare, more, words):
    fails(compare(*more), 2, *words)


def test_nothing_to_compare(fails, compare, monkeypatch):
    monkeypatch.setattr("c4d.cli.compare.others", lambda *given: [])
    fails(compare(methods=()), 2, "no method goes with this WanPipeline", "--cache TEXT")


def test_strips_shrink_until_they_fit(tmp_path):
    torch.manual_seed(0)
    strips = {f"{i}": (tmp_path / f"{i}.webp", 5) for i in range(3)}
    for path, _ in strips.values():
        write_strip(path, torch.rand(5, 3, 200, 300))
    whole, rung = embedded(strips, 10_000_000)
    assert rung is LADDER[0] and len(whole) == 3
    size = sum(len(uri) for uri in whole.values())
    small, rung = embedded(strips, size // 4)
    assert rung.quality is not None and len(small) == 3 and sum(len(uri) for uri in small.values()) <= size // 4
    one, rung = embedded(strips, 1 + sum(len(uri) for uri in embedded(strips, 0)[0].values()))
    assert one == {} and rung is LADDER[-1]


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def opened(folder, profile):
    """The page of a comparison after its script has run, as text."""
    how = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    how += ["--disable-component-update", "--disable-sync", f"--user-data-dir={profile}"]
    command = [BROWSER, *how, "--virtual-time-budget=2000", "--dump-dom", f"file://{folder}/out/index.html"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(BROWSER is None, reason="no chromium here (Debian: apt-get install chromium)")
def test_a_browser_runs_the_page(made, tmp_path):
    folder, _ = made
    dom = opened(folder, tmp_path / "browser")
    assert 'data-ready="yes"' in dom, "the script ran to its end"
    body = dom.partition("<body")[2]
    answer = re.search(r'id="answer"[^>]*>(.*?)</p>', body, re.DOTALL)[1]
    assert answer.startswith("Take <b>") and "% of the work" in answer.replace("&nbsp;", " ")
    assert body.count("<tr class=") == len(by_name(folder)), "a row for each"
    assert "alert(1)" in body and "<script>alert" not in body
    assert body.count("point ") >= len(by_name(folder)) - 1
    assert "c4d generate" in re.search(r'id="command">(.*?)</code>', body)[1]


def test_modules_of_blocks_that_were_skipped_whole_count_as_work_not_done():
    """DuCa reuses modules in some steps and runs no block in others: its share of the work knows both."""
    report = {"modules_total": 80, "modules_reused": 20, "blocks_entered": 8, "blocks_total": 16}
    done = work(report)
    assert (done["done"], done["total"], done["what"]) == (60, 160, "attention and MLP calls")


def test_a_measured_comparison_is_with_plain_steps_of_the_same_flops():
    """The warm-up counts them; one impression goes by the calls of modules, whatever tokens they computed."""
    pipe, _ = text_to_video()
    request = Request("a red circle", height=32, width=32, num_frames=5, steps=12, max_sequence_length=8)
    method, how, flops = parse("clusca:interval=4,clusters=1"), {"backend": load("cpu"), "progress": False}, []
    for cache in (method, None):
        with making.Flops(pipe) as counter:
            making.generate(pipe, request, method=cache, **how)
        flops.append(counter.count)
    settings = Settings("", "cpu", "float32", 16.0, method, compare=True, repeats=2)
    measured, once = (run_interleaved(pipe, request, replace(settings, repeats=n), **how).fewer_steps for n in (2, 1))
    assert measured == round(12 * flops[0] / flops[1]) < once
