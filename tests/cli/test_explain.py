"""``c4d explain``: real traces of several methods, older reports, what is refused, and the logic alone."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree

import pytest

from c4d.cli.main import main
from c4d.pipelines.drawing import draw
from c4d.pipelines.explain import Explained, Passed, Row, explain, line, tenths, text, threshold_to_try
from c4d.pipelines.why import instead, shares
from tests.cli.conftest import PROMPT
from tests.pipes import two_experts

SVG = "{http://www.w3.org/2000/svg}"
SMALL = ["--height", "32", "--width", "32", "--frames", "5", "--steps", "14"]
METHODS = {
    "interval": "taylorseer-lite:interval=3,last=1",
    "signal": "teacache:threshold=0.3,coefficients=1/0,signal=time_embedding",
    "first-block": "first-block:threshold=0.2",
    "profile": "profile:wan-tiny,quality=balanced",
    "modules": "pab:attn=2,cross_attn=6,high=990",
    "experts": "magcache:curve=wan2.2-t2v-a14b,threshold=0.12,max_skips=2",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Name -> a folder that generate has filled; the report's record is made once a method."""
    root, done = tmp_path_factory.mktemp("made"), set()

    def folder(name):
        if name not in done:
            words = ["generate", "--cache", METHODS[name], *SMALL, "--prompt", PROMPT, "--quiet"]
            if name == "experts":
                two_experts()[0].save_pretrained(root / "model")
                words += ["--model", str(root / "model")]
            assert main([*words, "--out", str(root / name)]) == 0
            done.add(name)
        return root / name

    return folder


def record(folder):
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def shapes(tree, kind):
    return [each for each in tree.iter() if kind in each.get("class", "").split()]


@pytest.mark.parametrize("name", METHODS)
def test_a_run_is_told_and_drawn(c4d, made, capsys, name):
    folder = made(name)
    session = record(folder)["session"]
    capsys.readouterr()
    outcome = c4d("explain", folder)
    assert outcome.code == 0 and f"drawn in {folder / 'explain.svg'}" in outcome.out
    (told,) = c4d("explain", folder, "--json").out.splitlines()
    rows = json.loads(told)["rows"]
    for branch, said in session["timelines"].items():
        mine = [row for row in rows if row["branch"] == branch]
        assert "|".join(row["timeline"] for row in mine).replace("p", "C") == said
        for row in mine:
            assert len(row["timeline"]) == len(row["forwards"])
            assert any(shown.endswith(f" {row['timeline']}") for shown in outcome.out.splitlines())
    forwards = [each for row in rows for each in row["forwards"]]
    levels = [each["noise"] for each in rows[0]["forwards"]]
    assert levels == sorted(levels, reverse=True) and 0 < levels[-1] < levels[0] <= 1
    assert sum(each["seconds"] for each in forwards) == pytest.approx(sum(session["seconds"].values()))

    tree = ElementTree.fromstring((folder / "explain.svg").read_text(encoding="utf-8"))
    assert len(shapes(tree, "cell")) == len(shapes(tree, "bar")) == len(forwards)
    for letter in "Crp":
        drawn = [each for each in shapes(tree, "cell") if letter in each.get("class").split()]
        assert len(drawn) == sum(each["did"] == letter for each in forwards)
    assert len(shapes(tree, "value")) >= sum(each["value"] is not None for each in forwards)
    assert "http" not in (folder / "explain.svg").read_text().replace("http://www.w3.org/2000/svg", "", 1)


@pytest.mark.parametrize("name", ["signal", "first-block", "experts"])
def test_what_was_weighed_decided(c4d, made, capsys, name):
    """Below the threshold a step was reused, from it on computed, and where nothing was weighed computed."""
    folder = made(name)
    capsys.readouterr()
    told = json.loads(c4d("explain", folder, "--json").out)
    weighed = [each for row in told["rows"] for each in row["forwards"] if each["value"] is not None]
    assert any(each["did"] == "r" for each in weighed) and told["what"] and told["threshold"] > 0
    for each in weighed:
        assert each["did"] == ("r" if each["value"] < told["threshold"] else "C")
    free = [each for row in told["rows"] for each in row["forwards"] if each["value"] is None]
    assert free and {each["did"] for each in free} == {"C"}
    assert f"in tenths of the threshold {told['threshold']:g}" in " ".join(c4d("explain", folder).out.split())


def test_methods_that_weigh_nothing_show_no_values(c4d, made, capsys):
    for name in ("interval", "profile", "modules"):
        folder = made(name)
        capsys.readouterr()
        told = json.loads(c4d("explain", folder, "--json").out)
        assert told["what"] is told["threshold"] is None
        assert "tenths" not in c4d("explain", folder).out
    assert "p" in told["rows"][0]["timeline"]


def test_the_second_expert_has_lines_of_its_own(c4d, made, capsys):
    folder = made("experts")
    capsys.readouterr()
    lines = c4d("explain", folder).out.splitlines()
    first, second = (next(each for each in lines if each.startswith(f"cond, network {n}")) for n in (1, 2))
    assert len(first) < len(second) and second[len("cond, network 1  ") : len(first)].strip() == ""
    assert len(shapes(ElementTree.fromstring((folder / "explain.svg").read_text()), "expert")) == 3  # one in the legend


def test_an_older_report_is_told_as_far_as_it_goes(c4d, made, capsys, tmp_path):
    old = record(made("experts"))
    new = explain(old)
    del old["session"]["forwards"], old["session"]["rules"]
    (tmp_path / "report.json").write_text(json.dumps(old))
    capsys.readouterr()
    outcome = c4d("explain", tmp_path)
    assert outcome.code == 0 and "note: this report was written before c4d kept" in outcome.out
    told = explain(old)
    assert [(row.branch, row.expert) for row in told.rows] == [(row.branch, row.expert) for row in new.rows]
    assert [line(row, 0, 14) for row in told.rows] == [line(row, 0, 14) for row in new.rows]
    drawing = ElementTree.fromstring((tmp_path / "explain.svg").read_text())
    assert len(shapes(drawing, "cell")) == 28 and not shapes(drawing, "bar")


def test_a_prompt_file_is_told_clip_by_clip(c4d, generate, tmp_path):
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\na blue square\n")
    words = [*generate[:1], "--prompt-file", tmp_path / "prompts.txt", *generate[3:], "--cache", "fora:interval=2"]
    assert c4d(*words).code == 0
    out = tmp_path / "out"
    told = [json.loads(each) for each in c4d("explain", out, "--json").out.splitlines()]
    assert [each["folder"] for each in told] == [str(out / "000"), str(out / "001")]
    assert (out / "000/explain.svg").exists() and (out / "001/explain.svg").exists()
    (out / "001/report.json").unlink()
    assert "001" not in c4d("explain", out).out
    assert c4d(*words, "--overwrite").code == 0 and not (out / "000/explain.svg").exists()  # it told of the old clip


def test_an_uncached_generation(c4d, generate, tmp_path):
    assert c4d(*generate, "--cache", "none").code == 0
    outcome = c4d("explain", tmp_path / "out")
    assert outcome.code == 0 and "wan-tiny, uncached: nothing was cached" in outcome.out
    assert "time of the uncached clip" in outcome.out and not (tmp_path / "out/explain.svg").exists()
    told = json.loads(c4d("explain", tmp_path / "out", "--json").out)
    assert told["method"] is None and told["rows"] == []


def test_auto_that_took_nothing_says_why(c4d, generate, tmp_path):
    assert c4d(*generate).code == 0
    assert "note: --cache auto: " in c4d("explain", tmp_path / "out").out


# -- what is refused


def test_no_folder(fails, tmp_path):
    fails(["explain"], 2, "DIR", "c4d explain --help")
    fails(["explain", tmp_path / "nowhere"], 2, "nowhere' does not exist", "c4d generate made")
    (tmp_path / "file").touch()
    fails(["explain", tmp_path / "file"], 2, "file' is no folder")
    fails(["explain", tmp_path], 2, f"{str(tmp_path)!r} has no report.json", "c4d generate --out DIR")


def test_a_folder_of_several_jobs_names_them(fails, tmp_path):
    for name in ("001-one", "002-two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text("{}")
    fails(["explain", tmp_path], 2, "of several jobs", str(tmp_path / "001-one"), str(tmp_path / "002-two"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", ["is broken, no JSON"]),
        (b"\xff\xfe", ["is broken, no JSON"]),
        ("[]", ["no report of c4d generate"]),
        ('{"schema": 3}', ["of another version of c4d (schema 3; this one reads 4)"]),
        ('{"schema": 4}', ["is broken: KeyError"]),
        ('{"schema": 4, "session": 7, "asked": {"cache": null}}', ["is broken: KeyError"]),
    ],
)
def test_a_report_that_cannot_be_read(fails, tmp_path, content, said):
    (tmp_path / "report.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    fails(["explain", tmp_path], 2, "report.json'", "--overwrite", *said)


def test_a_forward_that_did_something_unknown_is_broken(fails, made, capsys, tmp_path):
    strange = record(made("interval"))
    strange["session"]["forwards"][3]["did"] = "x"
    (tmp_path / "report.json").write_text(json.dumps(strange))
    capsys.readouterr()
    fails(["explain", tmp_path], 2, "is broken: ValueError: unknown action 'x'")


def test_a_drawing_that_cannot_be_written(c4d, made, capsys, monkeypatch):
    folder = made("interval")

    def full(path, words):
        from c4d.pipelines.output import writing

        with writing(path):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("c4d.cli.explain.write_text", full)
    capsys.readouterr()
    outcome = c4d("explain", folder)
    assert outcome.code == 4 and "explain.svg' cannot be written: No space left" in outcome.err
    assert "computed" in outcome.out and "same command" not in outcome.err


# -- what generate says itself


def test_generate_says_where_it_is_explained(c4d, generate, tmp_path):
    generate.remove("--quiet")
    outcome = c4d(*generate, "--cache", "fora:interval=1", "--compare")
    said = outcome.out.splitlines()
    assert f"step by step: c4d explain {tmp_path / 'out'}" in said
    assert any(each.startswith("why not faster: nothing was reused") for each in said)


# -- the logic alone


def told(*rows, threshold=None, remarks=(), steps=None):
    steps = steps or 1 + max(each.step for row in rows for each in row.forwards)
    what = None if threshold is None else "change of it"
    return Explained("m", "x:y=1", steps, rows, "predicted", what, threshold, tuple(remarks), None)


def row(letters, values=None, branch="cond", expert=0, start=0):
    values = values or [None] * len(letters)
    each = [Passed(start + i, did, value=value) for i, (did, value) in enumerate(zip(letters, values, strict=True))]
    return Row(branch, expert, tuple(each))


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "."), (0.0, "0"), (0.1, "5"), (0.199, "9"), (0.2, "#"), (math.inf, "#"), (math.nan, "#"), (-1.0, "0")],
)
def test_tenths_of_the_threshold(value, said):
    assert tenths(value, 0.2) == said


def test_lines_are_of_fifty_steps_and_begin_where_a_branch_does():
    lines = list(text(told(row("C" * 60), row("r" * 3, branch="late", start=57))))
    assert lines[2].split() == ["step", "0", "10", "20", "30", "40"]
    assert lines[3] == f"cond  {'C' * 50}" and not lines[4].startswith("late")
    assert lines[4].split() == ["step", "50"] and lines[6] == f"late  {' ' * 7}rrr"


def test_a_branch_without_a_name_is_called_by_its_number():
    lines = list(text(told(row("CrC", branch="0"), row("CCC", branch="x"))))
    assert lines[2:5] == ["step      0", "branch 0  CrC", "x         CCC"]
    assert next(text(told(row("C", branch="x")))) and list(text(told(row("C", branch="x"))))[2:4] == [
        "step  0",
        "x     C",
    ]


def test_rows_with_the_same_computed_steps_share_a_table():
    same = list(text(told(row("CrC"), row("CrC", branch="uncond"))))
    assert [each for each in same if each.startswith("not reused")] == [
        "not reused on cond and uncond: 2 steps (counted from 0)"
    ]
    apart = list(text(told(row("CrC"), row("CCr", branch="uncond"))))
    assert sum(each.startswith("not reused on") for each in apart) == 2


def test_a_value_that_is_no_number_is_told_in_json_and_drawn():
    odd = told(row("CCCr", [None, math.inf, math.nan, 0.1]), threshold=0.2)
    values = [each["value"] for each in odd.to_dict()["rows"][0]["forwards"]]
    assert values == [None, "inf", "nan", 0.1] and json.dumps(odd.to_dict(), allow_nan=False)
    tree = ElementTree.fromstring(draw(odd))
    assert [each.tag for each in shapes(tree, "value")].count(f"{SVG}path") == 2


def test_what_is_drawn_is_escaped():
    drawing = draw(told(row("Cr"), remarks=[("worth it", "a <b> & c")]))
    assert "a &lt;b&gt; &amp; c" in drawing and ElementTree.fromstring(drawing) is not None


def test_a_threshold_is_proposed_only_where_nothing_was_reused():
    scale = {"what": "change of it", "threshold": 0.01}
    assert list(threshold_to_try([row("CCC", [None, 0.3, 0.25])], scale)) == [
        "a threshold above 0.25 in place of 0.01: the smallest change of it of this run was that"
    ]
    assert not list(threshold_to_try([row("CrC", [None, 0.005, 0.25])], scale))
    assert not list(threshold_to_try([row("CC", [None, math.inf])], scale))


def figures(speedup, cached=None, fewer=None, method="fora:interval=3"):
    close = {"cached": cached, "fewer_steps": fewer} if fewer is not None else {}
    return {
        "asked": {"cache": method, "model": "m"},
        "timing": {"speedup": speedup, "median": {"cached": 2.0, "uncached": 1.8, "fewer_steps": 0.9}},
        "fidelity": {kind: {"identical": False, "psnr_db": x} for kind, x in close.items()},
        "fewer_steps": 7,
    }


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (figures(None), []),
        (figures(2.0, 40.0, 30.0), []),
        (figures(0.9), ["--cache none: it took 1.8 s instead of 2"]),
        (figures(2.0, 30.0, 35.0), ["--steps 7 --cache none: 0.9 s, 35.0 dB where", "c4d tune --model m"]),
        (figures(2.0, 30.0, 30.5), ["c4d tune --model m"]),
        (figures(2.0, 30.0, 35.0, "profile:p"), ["--steps 7 --cache none"]),
        (figures(0.9, 30.0, 35.0), ["--cache none", "--steps 7 --cache none", "c4d tune"]),
    ],
)
def test_what_to_try_instead(of, said):
    found = instead(of)
    assert len(found) == len(said), found
    for sentence, words in zip(found, said, strict=True):
        assert sentence.startswith(words)


def test_shares_leave_out_what_is_nothing():
    parts = {"uncached": {"preparing": 0.001, "computed": 0.999}, "cached": {"preparing": 0.5, "computed": 0.5}}
    assert list(shares({"timing": {"fractions": parts}})) == [
        ("cached", "reading the prompt 50%, computed forwards 50%"),
        ("uncached", "computed forwards 100%"),
    ]
