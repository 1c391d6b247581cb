"""What ``c4d generate`` leaves behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import imageio.v3 as imageio
import pytest
import torch
from PIL import Image

from c4d.core.text.grammar import parse
from c4d.pipelines.why import worth
from tests.cli.conftest import PROMPT, QUICK

ROOT = Path(__file__).resolve().parent.parent.parent
VOID = {"meta", "img", "br", "rect", "line"}


class Balanced(HTMLParser):
    """Fails on a tag that closes another; collects where pictures and clips come from."""

    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag, tag


def page(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(text)
    assert not parser.open and parser.sources
    assert all(source.startswith("data:") for source in parser.sources)
    text = re.sub(r"base64,[\w+/=]*", "", text)
    assert "http" not in text and "<script" not in text and "None" not in text
    return text


def record(folder):
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_a_comparison(c4d, generate):
    folder = Path(generate[-1])
    method = "taylorseer-lite:interval=2@blocks"
    outcome = c4d(*generate, "--cache", method, "--compare", "--repeats", 2, "--seed", 3)
    assert outcome.code == 0 and str(folder) in outcome.out
    assert {p.name for p in folder.iterdir()} == {
        "video.mp4", "uncached.mp4", "fewer_steps.mp4", "sheet.png", "report.json", "report.html", "manifest.jsonl",
    }  # fmt: skip
    for name in ("video.mp4", "uncached.mp4", "fewer_steps.mp4"):
        assert imageio.imread(folder / name, plugin="FFMPEG").shape == (5, 256, 256, 3)
    Image.open(folder / "sheet.png").verify()

    r = record(folder)
    assert r["asked"]["prompt"] == PROMPT and r["asked"]["cache"] == method and r["asked"]["seed"] == 3
    assert r["settings"]["num_inference_steps"] == 4 and r["settings"]["guidance_scale"] == 4.0
    assert r["clip"] == {"frames": 5, "height": 32, "width": 32, "fps": 8.0, "enlarged": 8}
    timing = r["timing"]
    assert {kind: len(values) for kind, values in timing["seconds"].items()} == {
        "cached": 2, "uncached": 2, "fewer_steps": 2,
    }  # fmt: skip
    assert timing["speedup"] == timing["median"]["uncached"] / timing["median"]["cached"] and timing["repeatable"]
    assert set(r["fidelity"]) == {"cached", "fewer_steps"} and r["fidelity"]["cached"]["psnr_db"] > 0
    parts = ["preparing", "computed", "reused", "between", "decoding"]
    for kind in timing["seconds"]:
        assert list(timing["phases"][kind]) == parts and min(timing["phases"][kind].values()) >= 0
        assert sum(timing["fractions"][kind].values()) == pytest.approx(1)
    assert timing["phases"]["uncached"]["reused"] == 0 < timing["phases"]["cached"]["reused"]
    session = r["session"]
    assert r["fewer_steps"] == round(4 * session["blocks_entered"] / session["blocks_total"])
    assert set(session["timelines"]) == {"cond", "uncond"} and len(session["timelines"]["cond"]) == 4
    assert r["backend"]["name"] == "cpu" and r["versions"]["torch"] == torch.__version__
    assert r["machine"]["cores"] == os.cpu_count() and r["machine"]["threads"] == 1

    text = page(folder)
    for branch, line in session["timelines"].items():
        assert f'aria-label="{branch}: {line}"' in text
    assert text.count('<g class="c">') == session["computed"] and text.count('<g class="r">') == session["reused"]
    for words in (method, PROMPT, "Is the cache worth it?", "difference ×8", r["backend"]["verified"]):
        assert words in text
    assert text.count('<span class="part ') == 2 * len(parts) and text.count("<li>") >= len(r["why"])


def test_a_method_that_never_skips_changes_nothing(c4d, generate):
    folder = Path(generate[-1])
    assert c4d(*generate, "--cache", "fora:interval=1", "--compare").code == 0
    r = record(folder)
    assert r["fidelity"] == {"cached": {"identical": True, "psnr_db": None, "ssim": 1.0}}
    assert r["fewer_steps"] is None and "identical" in page(folder)
    assert r["why"][0] == "nothing was reused at attn, cross_attn, mlp: interval=1 computes every step"
    assert len(r["why"]) == 2 and r["why"][1].startswith("one-time costs")
    assert "<li>Nothing was reused at attn" in page(folder)


def test_a_method_inside_the_blocks_is_counted_in_modules(c4d, generate):
    assert c4d(*generate, "--cache", "fora:interval=2").code == 0
    session = record(Path(generate[-1]))["session"]
    text = page(Path(generate[-1]))
    assert session["modules_reused"] > 0
    assert f"{session['modules_total'] - session['modules_reused']} of {session['modules_total']}" in text
    assert "attention and MLP calls" in text and "Is the cache worth it?" not in text


def test_without_a_cache_and_with_the_report_on_the_terminal(c4d, generate):
    generate.remove("--quiet")
    outcome = c4d(*generate)
    assert outcome.code == 0 and "uncached" in outcome.out and "step/s" in outcome.err
    assert "time of the uncached clip: reading the prompt" in outcome.out and "why not" not in outcome.out
    r = record(Path(generate[-1]))
    assert r["session"] is None and r["fidelity"] == {} and "step by step" not in page(Path(generate[-1]))


def test_one_frame_is_a_picture(c4d, generate):
    folder = Path(generate[-1])
    assert c4d(*generate, "--frames", 1, "--cache", "taylorseer-lite:interval=2", "--compare").code == 0
    assert Image.open(folder / "image.png").size == (256, 256) and (folder / "uncached.png").exists()
    assert not list(folder.glob("*.mp4")) and "1 frame of 32" in page(folder)


def test_the_seed_makes_the_clip_and_old_files_go(c4d, generate):
    folder, clips = Path(generate[-1]), []
    generate.append("--overwrite")
    for extra in (["--frames", 1], ["--seed", 7], ["--seed", 7], ["--seed", 8]):
        assert c4d(*generate, *extra).code == 0
        clips.append((folder / "video.mp4").read_bytes() if (folder / "video.mp4").exists() else None)
    assert clips[0] is None and clips[1] == clips[2] != clips[3] and not (folder / "image.png").exists()


def test_words_the_model_does_not_know_are_said(c4d, generate):
    generate[generate.index(PROMPT)] = "a red zebra moving left on a black background"
    generate.remove("--quiet")
    assert "no word for: zebra" in c4d(*generate).out
    assert "no word for: zebra" in page(Path(generate[-1]))


def test_what_the_user_wrote_is_escaped_in_the_page(c4d, generate):
    generate[generate.index(PROMPT)] = "a <b>red</b> circle & <script>alert(1)</script>"
    assert c4d(*generate).code == 0
    assert "&lt;script&gt;" in page(Path(generate[-1]))


def test_a_config_file_and_flags_over_it(c4d, tmp_path):
    config = tmp_path / "job.yaml"
    config.write_text(
        f"prompt: {PROMPT}\nsteps: 2\nframes: 5\nguidance_scale: 2\nquiet: true\ncompare: true\n"
        f"cache: fora:interval=2\nout: {tmp_path / 'out'}\n"
    )
    assert c4d("generate", "--config", config, "--steps", 3, "--no-compare", "--cache", "none").code == 0
    asked = record(tmp_path / "out")["asked"]
    assert (asked["steps"], asked["guidance_scale"], asked["compare"], asked["cache"]) == (3, 2.0, False, None)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(PROMPT)
    assert c4d("generate", "--config", config, "--prompt-file", prompts).code == 0
    assert (tmp_path / "out" / "000" / "report.json").exists()


def test_a_local_pipeline_of_two_experts_from_a_picture(c4d, generate, tmp_path):
    from tests.pipes import image_to_video

    pipe, extra = image_to_video()
    pipe.register_to_config(boundary_ratio=0.9)
    pipe.save_pretrained(tmp_path / "model")
    extra["image"].save(tmp_path / "first.png")
    generate += ["--model", tmp_path / "model", "--height", 32, "--width", 32, "--cache", "fora:interval=2@blocks"]
    assert c4d(*generate, "--image", tmp_path / "first.png").code == 0
    r = record(tmp_path / "out")
    assert r["pipeline"] == "WanImageToVideoPipeline" and len(r["asked"]["image_sha256"]) == 64
    assert "|" in r["session"]["timelines"]["cond"] and r["clip"]["fps"] == 16
    text = page(tmp_path / "out")
    assert 'class="expert"' in text and "second network" in text


def test_compiling_is_said(c4d, generate, monkeypatch):
    from diffusers import WanTransformer3DModel

    calls = []
    monkeypatch.setattr(WanTransformer3DModel, "compile_repeated_blocks", lambda self, **k: calls.append(k))
    generate.remove("--quiet")
    assert "WanTransformerBlock compiled" in c4d(*generate, "--compile").out
    assert calls == [{"fullgraph": True}]
    assert "after a warm-up" in record(Path(generate[-1]))["timing"]["how"]


def test_the_launch_script_from_elsewhere(tmp_path):
    words = [sys.executable, str(ROOT / "launch/infer.py"), "--prompt", PROMPT, *QUICK, "--cache", "fora:interval=2"]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "out").iterdir()
    assert folder.name == "001-a-red-circle-moving-left-on-a-black-back" and (folder / "video.mp4").exists()
    assert "forwards" in result.stdout


def test_the_demo_is_a_job_that_can_run():
    import argparse

    from c4d.cli.options import Options, add_options, read_options
    from c4d.cli.prompts import read_prompts

    parser = argparse.ArgumentParser()
    add_options(parser)
    options = read_options({"config": ROOT / "launch/demo.yaml"}, parser, Options)
    assert options.compare and parse(options.cache) and read_prompts(options)


# -- without --out


def test_folders_are_numbered(c4d, tmp_path, monkeypatch):
    """The same job goes on where it was, another one takes the next number."""
    monkeypatch.chdir(tmp_path)
    words = ["generate", "--prompt", PROMPT, *QUICK, "--quiet"]
    name = "a-red-circle-moving-left-on-a-black-back"

    def made():
        return sorted(path.name for path in (tmp_path / "out").iterdir())

    assert c4d(*words).code == 0 and made() == [f"001-{name}"]
    assert "kept, already complete" in c4d(*words).out and made() == [f"001-{name}"]
    assert "kept" not in c4d(*words, "--seed", 1).out and made() == [f"001-{name}", f"002-{name}"]
    assert "kept" in c4d(*words, "--seed", 1).out
    assert c4d(*words, "--seed", 1, "--overwrite").code == 0 and made()[-1] == f"003-{name}"
    (tmp_path / "out/000-mine").mkdir()
    (tmp_path / "out/notes-of-mine").touch()
    assert c4d("generate", "--prompt", "a blue square", *QUICK, "--quiet").code == 0
    assert made()[-2:] == ["004-a-blue-square", "notes-of-mine"]
    (tmp_path / "two shots.txt").write_text(f"{PROMPT}\n{PROMPT}\n")
    batch = ["generate", "--prompt-file", "two shots.txt", *QUICK, "--quiet"]
    assert c4d(*batch).code == 0
    folder = tmp_path / "out/005-two-shots"
    assert [record(folder / each)["asked"]["seed"] for each in ("000", "001")] == [0, 1]
    (folder / "001/report.json").unlink()  # as if it had been stopped there
    assert c4d(*batch).out.count("kept") == 1 and (folder / "001/report.json").exists()


def test_a_prompt_file_has_a_page_of_its_clips(c4d, generate, tmp_path):
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\na <b>blue</b> square\n")
    words = [*generate[:1], "--prompt-file", tmp_path / "prompts.txt", *generate[3:]]
    assert "index.html, clips.png" in c4d(*words).out
    out = Path(generate[-1])
    page = (out / "index.html").read_text()
    for i, prompt in enumerate((PROMPT, "a &lt;b&gt;blue&lt;/b&gt; square")):
        assert prompt in page and f"seed {i}" in page
        assert f'src="00{i}/video.mp4"' in page and f'href="00{i}/report.html"' in page
    sheets = [Image.open(out / f"00{i}/sheet.png") for i in range(2)]
    clips = Image.open(out / "clips.png")
    assert clips.width == sheets[0].width and clips.height == sum(sheet.height + 20 for sheet in sheets)


# -- whether it is worth it


@pytest.mark.parametrize(
    ("cached", "fewer", "speedup", "said"),
    [
        (
            40.0,
            30.0,
            2.0,
            "on this clip, yes: it is closer to the uncached clip (40.0 dB beside 30.0) than 7 plain",
        ),
        (
            None,
            30.0,
            2.0,
            "on this clip, yes: it is closer to the uncached clip (inf dB beside 30.0) than 7 plain",
        ),
        (
            30.0,
            31.5,
            2.0,
            "on this clip, no: 7 plain steps, which compute as much, are closer (31.5 dB",
        ),
        (
            30.0,
            None,
            2.0,
            "on this clip, no: 7 plain steps, which compute as much, are closer (inf dB",
        ),
        (
            30.0,
            30.5,
            2.0,
            "undecided: 7 plain steps, which compute as much, are as close on this clip (30",
        ),
        (40.0, 30.0, 1.05, "hardly: it is 1.05 times as fast, and below 1.1 a cache is hardly worth its error"),
        (40.0, 30.0, 0.9, "no, it is slower: 0.90 times as fast"),
    ],
)
def test_whether_a_setting_is_worth_it_is_said(cached, fewer, speedup, said):
    close = {kind: {"identical": x is None, "psnr_db": x} for kind, x in (("cached", cached), ("fewer_steps", fewer))}
    (found,) = worth(close, 7, {"ratio": 2.0}, speedup)
    assert found.startswith(said)
    assert worth({}, None, {"ratio": 2.0}, None) == []
    assert worth({}, None, {"ratio": 1.02}, None)[0].startswith("hardly: it is 1.02 times as fast")


@pytest.mark.parametrize(("speedup", "first"), [(0.9, "no, it is slower"), (1.05, "hardly: it is 1.05")])
def test_a_setting_that_is_neither_fast_nor_close_gets_both_said(speedup, first):
    close = {kind: {"identical": False, "psnr_db": x} for kind, x in (("cached", 30.0), ("fewer_steps", 40.0))}
    found = worth(close, 7, {"ratio": 2.0}, speedup)
    assert found[0].startswith(first) and found[1].startswith("on this clip, no: 7 plain steps") and len(found) == 2


def test_it_is_said_on_the_terminal_and_in_the_report(c4d, generate):
    generate.remove("--quiet")
    folder = Path(generate[-1])
    outcome = c4d(*generate, "--cache", "taylorseer:interval=3,order=2", "--compare")
    said = record(folder)["worth"]
    assert said and all(f"worth it: {each}" in outcome.out for each in said)
    assert all(each[1:40] in (folder / "report.html").read_text() for each in said)


def test_the_manifest_knows_how_many_steps_the_plain_clip_has(c4d, generate):
    c4d(*generate, "--cache", "fora:interval=2@blocks", "--compare")
    folder = Path(generate[-1])
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    steps = {line["path"]: (line["settings"]["num_inference_steps"], line["method"]) for line in lines}
    assert steps["uncached.mp4"] == (4, None) and steps["video.mp4"] == (4, "fora:interval=2@blocks")
    assert steps["fewer_steps.mp4"] == (record(folder)["fewer_steps"], None) != steps["uncached.mp4"]


def test_the_page_shows_the_clip_of_as_many_plain_steps(c4d, generate):
    folder = Path(generate[-1])
    c4d(*generate, "--cache", "fora:interval=2@blocks", "--compare")
    page, steps = (folder / "report.html").read_text(), record(folder)["fewer_steps"]
    captions = [page.index(f"<figcaption>{name}") for name in ("uncached", "cached", f"{steps} plain steps")]
    assert captions == sorted(captions) and page.count("<video") == 3


# -- what a newcomer types


def test_less_memory_by_modes_and_eight_bits(c4d, generate):
    """A feature of 4-byte numbers becomes one byte a number, and 4 for the scale of each token."""
    method, peaks = ("--cache", "taylorseer-lite:interval=2@blocks", "--overwrite"), []
    for more in ((), ("--memory", "float8+tiled", "--history-dtype", "int8")):
        outcome = c4d(*generate, *method, *more)
        assert outcome.code == 0, outcome.err
        made = record(Path(generate[-1]))
        peaks.append(made["session"]["peak_bytes"])
    config = json.loads((files("c4d") / "bundled/wan_tiny/transformer/config.json").read_text())
    width = config["num_attention_heads"] * config["attention_head_dim"]
    assert peaks[1] * 4 * width == peaks[0] * (width + 4)
    assert made["asked"]["memory"] == "float8+tiled" and made["asked"]["history_dtype"] == "int8"


def test_short_names_of_dtypes(c4d, generate):
    assert c4d(*generate, "--dtype", "bf16").code == 0
    assert record(Path(generate[-1]))["asked"]["dtype"] == "bfloat16"
    assert "kept" in c4d(*generate, "--dtype", "bfloat16").out


def test_values_of_another_model_are_a_note(c4d, generate):
    outcome = c4d(*generate, "--cache", "magcache:published=flux.1-dev")
    assert outcome.code == 0
    assert outcome.err.count("c4d: note: published=flux.1-dev was made for FluxTransformer2DModel;") == 1


def test_a_model_that_is_not_on_the_hub_is_one_quick_line(fails, monkeypatch):
    """Asked for once; what loads would ask again and again for a minute."""
    asked = []

    def answer(self, model, timeout, revision=None):
        asked.append(timeout)
        raise ConnectionError("no network\nand more")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", answer)
    monkeypatch.setattr(
        sys.modules["c4d.pipelines.skeleton"], "_config", lambda *_: pytest.fail("the library was asked too")
    )
    words = ["cannot be found on this disk or on the hub: no network; check its name", "HF_TOKEN"]
    fails(["generate", "--model", "Nobody/has-this", "--prompt", "x"], 2, "Nobody/has-this", *words)
    assert len(asked) == 1 and asked[0] <= 10
