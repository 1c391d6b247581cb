"""``c4d benchmark``: published prompt files in, the layouts of samples that their own tools read out, resumable."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from c4d.pipelines import InputError, results
from c4d.pipelines.benchmark import Benchmark, put
from c4d.pipelines.benchmarks import BENCHMARKS, drawbench, geneval, vbench

RED, BLUE = "a red circle moving left on a black background", "a blue square moving up on a white background"
PICTURES = ("--frames", "1", "--steps", "2", "--cache", "none", "--quiet")
GENEVAL = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": RED},
    {"tag": "counting", "include": [{"class": "clock", "count": 2}], "exclude": [], "prompt": BLUE},
]
VBENCH = [
    {"prompt_en": RED, "dimension": ["temporal_flickering"]},
    {"prompt_en": BLUE, "dimension": ["color", "scene"], "auxiliary_info": {"color": {"color": "blue"}}},
    {"prompt_en": RED, "dimension": ["scene"]},
]


@pytest.fixture
def files(tmp_path):
    """Prompt files as they are published, of two prompts each."""
    (tmp_path / "geneval.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in GENEVAL))
    (tmp_path / "vbench.json").write_text(json.dumps(VBENCH))
    with (tmp_path / "drawbench.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("Prompts", "Category"), (RED, "Colors"), (f'{BLUE}, "so"', "Text")])
    return tmp_path


def made(out, pattern="**/*"):
    """The samples and what lies beside them, without what c4d keeps."""
    found = (path.relative_to(out) for path in out.glob(pattern) if path.is_file())
    return sorted(path.as_posix() for path in found if path.parts[0] != "runs")


def counted(monkeypatch):
    """The requests that are made from now on."""
    from c4d.cli import command

    requests, produce = [], command.produce

    def noting(pipe, request, *arguments, **how):
        requests.append((request.prompt, request.seed))
        return produce(pipe, request, *arguments, **how)

    monkeypatch.setattr(command, "produce", noting)
    return requests


def as_geneval_reads(folder):
    """The pictures of each prompt's line, as its evaluate_images.py finds them."""
    return {
        json.loads((sub / "metadata.jsonl").read_text())["prompt"]: sorted(
            each.name for each in (sub / "samples").iterdir() if re.match(r"\d+\.png", each.name)
        )
        for sub in folder.iterdir()
        if sub.is_dir() and sub.name.isdigit()
    }


def test_geneval_and_going_on(c4d, files, monkeypatch):
    """What was made is not made again; a lost sample is put back; more samples and prompts come beside the others."""
    out, words = files / "out", ["benchmark", "geneval", "--prompt-file", files / "geneval.jsonl", *PICTURES]
    requests = counted(monkeypatch)
    assert c4d(*words, "--out", out, "--samples", 2, "--only", "counting").code == 0
    assert made(out) == ["00001/metadata.jsonl", "00001/samples/0000.png", "00001/samples/0001.png"]
    assert json.loads((out / "00001/metadata.jsonl").read_text()) == GENEVAL[1]
    assert requests == [(BLUE, 0), (BLUE, 1)]
    first = (out / "00001/samples/0001.png").read_bytes()
    requests.clear()

    (out / "00001/samples/0000.png").unlink()
    (out / "00001/samples/.0001.4711.png").touch()  # of a process that was killed
    (out / "runs/00001-0001/report.json").unlink()  # as if it had been stopped there
    done = c4d(*words, "--out", out, "--samples", 3)
    assert done.code == 0 and "evaluate_images.py" in done.out and str(out) in done.out
    assert sorted(requests) == [(BLUE, 1), (BLUE, 2), (RED, 0), (RED, 1), (RED, 2)]
    assert as_geneval_reads(out) == {prompt: ["0000.png", "0001.png", "0002.png"] for prompt in (RED, BLUE)}
    assert (out / "00001/samples/0001.png").read_bytes() == first and not list(out.rglob(".*"))
    Image.open(out / "00001/samples/0000.png").verify()

    requests.clear()
    lines = (out / "runs/manifest.jsonl").read_text()
    assert c4d(*words, "--out", out, "--samples", 3).code == 0 and requests == []
    assert (out / "runs/manifest.jsonl").read_text() == lines and len(lines.splitlines()) == 6
    assert {path.name for path in (out / "runs/00001-0000").iterdir()} == {"image.png", "report.json"}
    assert "of another job" in c4d(*words, "--out", out, "--samples", 3, "--seed", 1).err
    assert c4d("explain", out / "runs").code == 0


def test_an_interrupt_in_the_middle_keeps_what_is_finished(c4d, files, monkeypatch):
    from c4d.cli import command

    out, produce = files / "out", command.produce
    words = ["benchmark", "drawbench", "--prompt-file", files / "drawbench.csv", *PICTURES, "--out", out]

    def interrupted(pipe, request, *arguments, **how):
        if request.prompt != RED:
            raise KeyboardInterrupt
        return produce(pipe, request, *arguments, **how)

    with monkeypatch.context() as patch:
        patch.setattr(command, "produce", interrupted)
        stopped = c4d(*words)
    assert stopped.code == 130 and "the same command goes on from there" in stopped.err
    assert made(out) == ["images/00000-0000.png", "prompts.jsonl"]
    requests = counted(monkeypatch)
    assert c4d(*words).code == 0 and requests == [(f'{BLUE}, "so"', 0)]
    lines = [json.loads(line) for line in (out / "prompts.jsonl").read_text().splitlines()]
    assert [(line["prompt"], line["category"]) for line in lines] == [(RED, "Colors"), (f'{BLUE}, "so"', "Text")]
    assert made(out, "images/*") == [line["file"] for line in lines]


def test_vbench_finds_its_videos(c4d, files):
    """By its standard mode: the ending of the first file, and PROMPT-INDEX under it, for each prompt of a dimension."""
    out = files / "out"
    words = ["benchmark", "vbench", "--prompt-file", files / "vbench.json", "--frames", 5, "--steps", 2, "--quiet"]
    assert c4d(*words, "--cache", "none", "--samples", 2, "--out", out, "--only", "scene").code == 0
    there = os.listdir(out / "videos")
    ending = Path(there[0]).suffix
    wanted = {
        f"{entry['prompt_en']}-{i}{ending}" for entry in VBENCH for i in range(2) if "scene" in entry["dimension"]
    }
    assert set(there) == wanted and ending == ".mp4"
    assert {record["asked"]["seed"] for record in results(out / "runs").values()} == {0, 1}


def test_without_a_name_a_benchmark_gets_a_folder_and_finds_it_again(c4d, files, monkeypatch):
    monkeypatch.chdir(files)
    words = ["benchmark", "drawbench", "--prompt-file", "drawbench.csv", *PICTURES, "--only", "Colors"]
    assert c4d(*words).code == 0
    requests = counted(monkeypatch)
    assert c4d(*words).code == 0 and requests == []
    assert [path.name for path in (files / "out").iterdir()] == ["001-drawbench"]


# -- formats


def test_vbench_takes_a_text_of_one_dimension_and_counts_as_the_file_does():
    items = vbench.VBENCH.items(f"{RED}\n\n{BLUE}\n", Path("color.txt"))
    assert [(item.number, item.prompt, item.parts) for item in items] == [(0, RED, {"color"}), (1, BLUE, {"color"})]
    whole = vbench.VBENCH.items(json.dumps(VBENCH), Path("VBench_full_info.json"))
    assert [(item.prompt, item.parts) for item in whole] == [
        (RED, {"temporal_flickering", "scene"}),
        (BLUE, {"color", "scene"}),
    ]
    (only,) = vbench.VBENCH.items(json.dumps(VBENCH), Path("VBench_full_info.json"), ["color"])
    assert only.number == 1


def test_benchmarks_are_found_by_name():
    assert set(BENCHMARKS) == {"geneval", "drawbench", "vbench"}
    assert {each.samples for each in BENCHMARKS.values()} == {4, 1, 5}
    assert all(isinstance(each, Benchmark) and "DIR" in each.scored for each in BENCHMARKS.values())


@pytest.mark.parametrize(
    ("benchmark", "text", "said"),
    [
        (geneval.GENEVAL, "a prompt\n", "is not geneval's: Expecting value"),
        (geneval.GENEVAL, '{"prompt": "x"}\n', "entry 1 has no tag and prompt"),
        (geneval.GENEVAL, "\n", "has no prompt; give its evaluation_metadata.jsonl"),
        (drawbench.DRAWBENCH, "prompt,kind\nx,y\n", "its columns are prompt, kind, not Prompts and Category"),
        (vbench.VBENCH, '{"prompt_en": "x"}', "it is no list of prompts"),
        (vbench.VBENCH, '[{"prompt_en": "x"}]', "entry 1 has no prompt_en and dimension"),
        (vbench.VBENCH, "day/night\n", "prompt 1 has a slash"),
        (vbench.VBENCH, f"{'é' * 120}\n", "or more than 240 bytes"),
    ],
)
def test_a_file_of_another_format_is_refused(benchmark, text, said):
    with pytest.raises(InputError, match=re.escape(said)):
        benchmark.items(text, Path("prompts"))


def test_unknown_parts_are_refused_with_the_known():
    text = "".join(json.dumps(entry) + "\n" for entry in GENEVAL)
    with pytest.raises(InputError, match="unknown tag 'colors' for --only: known are counting, single_object"):
        geneval.GENEVAL.items(text, Path("x"), ["colors"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["benchmark"], ["which BENCHMARK? known are drawbench, geneval, vbench"]),
        (["benchmark", "coco"], ["unknown benchmark 'coco': known are"]),
        (["benchmark", "geneval", "--prompt", "x"], ["geneval needs --prompt-file and no --prompt"]),
        (["benchmark", "geneval", "--prompt-file", "geneval.jsonl"], ["geneval is of pictures", "--frames 1"]),
        (["benchmark", "vbench", "--prompt-file", "vbench.json", "--frames", 1], ["vbench is of videos", "--frames"]),
        (["benchmark", "vbench", "--prompt-file", "vbench.json", "--samples", 0], ["--samples is 0"]),
        (["benchmark", "vbench", "--prompt-file", "geneval.jsonl"], ["is not vbench's", "VBench_full_info.json"]),
    ],
)
def test_bad_input_is_one_line(fails, files, monkeypatch, words, said):
    """Before weights are loaded."""
    monkeypatch.chdir(files)
    monkeypatch.setattr("c4d.cli.command.load_pipeline", lambda *_, **__: pytest.fail("weights were loaded"))
    fails(words, 2, *said)


def test_a_file_system_without_hard_links_gets_copies(tmp_path, monkeypatch):
    source, target = tmp_path / "image.png", tmp_path / "samples/0000.png"
    source.write_bytes(b"one")
    put(source, target)
    assert target.samefile(source)

    def refuse(*_):
        raise OSError

    monkeypatch.setattr(os, "link", refuse)
    shutil.copyfile(source, tmp_path / "other.png")
    (tmp_path / "other.png").write_bytes(b"two")
    put(tmp_path / "other.png", target)
    assert target.read_bytes() == b"two" and source.read_bytes() == b"one"
    before = target.stat().st_ino
    put(tmp_path / "other.png", target)
    assert target.stat().st_ino == before  # not written again
