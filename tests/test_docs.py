"""The pages tell the truth: their examples run, and every method, model and option they name exists."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import types
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline

import c4d
from bench import pictures
from bench.fidelity import advice
from bench.fidelity.table import FOLDER, read
from c4d.backends import GROUP, Backend, UnsupportedError
from c4d.backends.reference import Reference
from c4d.cli.main import main
from c4d.core.methods import METHODS
from c4d.core.spec import ModelSpec, Site, Stack
from c4d.core.text.grammar import parse
from c4d.models import SPECS
from c4d.parallel import SequenceParallel
from tests.commands import MODELS, accepted, dry, launched, methods
from tools import api

pytestmark = pytest.mark.slow

PARTS = {"Stack": Stack, "Site": Site, "ModelSpec": ModelSpec}
ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "examples/README.md", "docs/pictures/README.md")]


def code(page, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def test_adding_a_model_ends_in_a_description_that_fits(tmp_path, capsys):
    """The example alone is described, and the description in the page is what is found."""
    example, described = code(ROOT / "docs/adding_a_model.md")
    (tmp_path / "mine.py").write_text(example)
    assert main(["check-model", str(tmp_path / "mine.py")]) == 0
    found = capsys.readouterr().out
    assert "one forward shows this" in found and "the description fits" in found
    (tmp_path / "theirs.py").write_text(f"{example}\n{described}")
    assert main(["check-model", str(tmp_path / "theirs.py")]) == 0
    assert "no description yet" not in capsys.readouterr().out
    scope: dict[str, object] = {}
    exec(compile(f"{example}\n{described}".replace("...", "session.begin([1.0])"), "adding_a_model.md", "exec"), scope)
    again = eval(found.partition("shows this:")[2].partition("MyTransformer:")[0].strip(), vars(c4d) | PARTS)
    assert again == replace(scope["SPEC"], example=None)  # type: ignore[type-var]


def test_adding_a_method_ends_in_a_passing_test(monkeypatch):
    (example,) = code(ROOT / "docs/adding_a_method.md")
    scope: dict[str, object] = {"__name__": "adding_a_method"}
    monkeypatch.setitem(sys.modules, "adding_a_method", types.ModuleType("adding_a_method"))
    exec(compile(example, "adding_a_method.md", "exec"), scope)
    scope["test_it_does_what_it_says"]()  # type: ignore[operator]
    made = scope["my_method"](dense=3)  # type: ignore[operator]
    monkeypatch.setitem(METHODS._found, "my-method", scope["my_method"])
    assert parse("my-method:dense=3") == made and made.name == "my-method:dense=3"


def test_adding_a_backend_makes_a_backend_that_works():
    (example,) = code(ROOT / "docs/adding_a_backend.md")
    scope: dict[str, object] = {}
    exec(compile(example, "adding_a_backend.md", "exec"), scope)
    mine, reference = scope["Mine"](), Reference()  # type: ignore[operator]
    q, k, v = torch.randn(3, 2, 5, 3, 16).bfloat16()
    for options in ({}, {"mask": torch.ones(2, 1, 1, 5) > 0}):
        expected = reference.attention(q, k, v, **options)
        torch.testing.assert_close(mine.attention(q, k, v, **options), expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(mine.lincomb([q, k], [1.0, -0.5]), reference.lincomb([q, k], [1.0, -0.5]))
    with pytest.raises(UnsupportedError, match=r"'einsum' does not take a boolean mask of keys.*these would do: sdpa"):
        mine.attention(q, k, v, **options, kernel="einsum")
    assert isinstance(mine, Backend) and GROUP in (ROOT / "docs/adding_a_backend.md").read_text()


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_names(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:c4d|tests|tools|bench|docs|launch|examples)/[\w./-]+)`", text):
        if path != "c4d/parallel":
            assert (ROOT / path).exists(), path


def test_every_method_text_of_the_page_of_methods_parses():
    text = (ROOT / "docs/methods.md").read_text().partition("\n## Where")[0]
    found = re.findall(r"\b(?:" + "|".join(sorted(METHODS, key=len, reverse=True)) + r"):[^\s`\"]+", text)
    profiles = ROOT / "tests/core/profiles"
    found = [re.sub(r"(dpcache|hyca|l2p):path=\S+?\.json", rf"\1:path={profiles}/\1.json", each) for each in found]
    found = [each.replace("profile:NAME-OR-FILE,computed=14", f"profile:{profiles}/flow.json") for each in found]
    assert {parse(t).name.partition(":")[0] for t in found} == set(METHODS)


def test_every_method_text_of_the_page_for_migrants_parses():
    cells = re.findall(r"^\|[^|]*\|([^|]*)", (ROOT / "docs/migration.md").read_text(), re.MULTILINE)
    texts = [text for cell in cells for text in re.findall(r"`([a-z][a-z-]*(?:[:+@][^`( ]*)?)`", cell)]
    assert len([parse(text) for text in texts]) > 20


@pytest.mark.parametrize("page", ["README.md", "docs/python.md", "docs/command_line.md", "docs/faq.md"])
def test_public_names_that_a_page_uses_are_there(page):
    for name in set(re.findall(r"\bc4d\.(\w+)", (ROOT / page).read_text())):
        assert hasattr(c4d, name) or find_spec(f"c4d.{name}"), name


def test_settings_in_the_pages_are_good():
    """The table is what was measured, and no example is worse than fewer plain steps of the same cost."""
    text, entries = advice.PAGE.read_text(), read(FOLDER / "wan-tiny.csv")
    assert advice.filled(text, entries) == text and advice.table(entries).count("\n") > 5, (
        "python -m bench.fidelity.advice"
    )
    verdicts = {str(parse(each.name).rules): beside.verdict for each, beside in advice.compared(entries)}
    listed, taken = advice.shown()
    good = [*taken, *(given for given, star in listed.items() if not star and "NAME-OR-FILE" not in given)]
    good = [given for given in dict.fromkeys(good) if "path=" not in given]
    assert {given: verdicts[str(parse(given).rules)] for given in good} == dict.fromkeys(good, "better")
    starred = [given for given, star in listed.items() if star and "path=" not in given]
    assert len(good) >= 10 and "better" not in {verdicts.get(str(parse(given).rules)) for given in starred}


def test_the_figures_in_the_readme_are_those_that_were_measured():
    rows = pictures.measured()
    for page in pictures.PAGES:
        text = page.read_text()
        assert pictures.filled(text, rows) == text and pictures.table(rows) in text, (
            "python -m bench.pictures --no-clips"
        )
    told = (pictures.OUT / "README.md").read_text()
    for which, place in pictures.chosen(rows).items():
        figures = [
            float(value) for value in re.findall(rf"\| {re.escape(which)} \|.*?\| (\S+) dB \| (\S+) dB", told)[0]
        ]
        was = [pictures.psnr_of(rows, kind, pictures.FEW)[place] for kind in ("profile", "plain")]
        assert figures == pytest.approx(was, abs=pictures.TOLERANCE)
    pictured = re.findall(r'(?:src|srcset)="([^"]+)"', (ROOT / "README.md").read_text())
    assert len(pictured) == 4
    for shown in pictured:
        assert (ROOT / shown).stat().st_size < 300_000


def test_the_example_of_the_bundled_model_runs():
    (example,) = [block for block in code(ROOT / "docs/python.md") if "bundled_model" in block]
    scope = {"c4d": c4d, "WanPipeline": WanPipeline}
    exec(compile(example.replace("guidance_scale=4.0", "num_inference_steps=6"), "python.md", "exec"), scope)
    assert scope["video"].shape == (13, 32, 32, 3)


def test_the_examples_of_the_page_of_attention_maps_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    scope = {"torch": torch}
    for example in code(ROOT / "docs/attention_maps.md"):
        exec(compile(example.replace("num_inference_steps=20", "num_inference_steps=12"), "maps.md", "exec"), scope)
    assert {path.name for path in tmp_path.iterdir()} == {"maps.npz", "maps.png"}
    said = capsys.readouterr().out
    assert "blocks.7.attn1 stays in its frame: tensor" in said and said.count("\n3 blocks.") == 8
    with c4d.attention_maps(scope["pipe"], 0, groups=scope["halves"]) as maps:
        scope["pipe"]("a dot", height=32, width=32, num_frames=5, num_inference_steps=1)
    assert maps["blocks.0.attn1"].groups.shape == (4, 2, 2)


def test_the_reference_is_of_the_public_names():
    assert api.PAGE.read_text() == api.page(), "python -m tools.api"
    assert [name for names in api.groups().values() for name in names] == c4d.__all__


def imports(text):
    """What Python code imports of c4d, but for ``import c4d`` itself."""
    found = re.findall(r"^\s*(?:from (c4d\.[\w.]+) import|import (c4d\.[\w.]+))", text, re.MULTILINE)
    return {one or other for one, other in found}


def test_pages_and_examples_import_the_public_names_alone():
    """README, docs, programs, what stands for an outside package; launch/infer.py starts the command, before torch."""
    files = [*PAGES, *sorted((ROOT / "examples").iterdir()), ROOT / "tests/outside/their_model.py"]
    assert {str(file): imports(file.read_text()) for file in files if imports(file.read_text())} == {}
    assert imports((ROOT / "launch/infer.py").read_text()) == {"c4d.cli.start"}
    for file in files:
        for name in re.findall(r"\bc4d\.(\w+)\(", file.read_text()):
            assert name in c4d.__all__, (file, name)


def test_every_family_is_on_the_page_of_what_was_run():
    text = re.sub(r"\W", "", (ROOT / "docs/support.md").read_text().partition("## Models")[2]).lower()
    for spec in SPECS.values():
        name = re.split(r"[-,:(/]| and | 1 | 2 | 3 ", spec.about.removeprefix("the "))[0].split()[0]
        assert re.sub(r"\W", "", name).lower() in text, spec.about


def test_a_generation_walks_the_ten_steps(tmp_path):
    """The functions that the page names are called, in its order."""
    page = (ROOT / "docs/structure.md").read_text().partition("in ten steps")[2]
    steps = re.findall(r"^(\d+)\. `(c4d/[\w/.]+)` `(\w+)`", page.partition("\n## ")[0], re.MULTILINE)
    assert [int(number) for number, _, _ in steps] == list(range(1, 11))
    asked = "generate --cache taylorseer-lite:interval=2@blocks --steps 4 --frames 1 --quiet --prompt"
    code = f"""
import json, sys
import diffusers.pipelines.wan, transformers, c4d.cli.command  # not under the profiler, which makes imports slow
from diffusers import WanPipeline
calls = []
def note(frame, event, argument):
    name = frame.f_code.co_filename
    if event == "call" and "/c4d/" in name:
        calls.append((name[name.rindex("/c4d/") + 1:], frame.f_code.co_name))
sys.setprofile(note)
from c4d.cli.start import main
sys.argv = ["c4d", *{asked!r}.split(), "a red circle", "--out", {str(tmp_path / "out")!r}]
assert main() == 0
sys.setprofile(None)
print(json.dumps(calls))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    calls = iter(map(tuple, json.loads(done.stdout.splitlines()[-1])))
    for number, file, name in steps:
        assert (file, name) in calls, f"step {number}, {name} in {file}, is not called after the step before it"


THEIRS = {"git", "pip", "python", "vbench"}  # how samples are scored, which is no command of ours


def commands(page):
    """The lines of a page's blocks that name no language."""
    found, fence = [], None
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            fence = line if fence is None else None
        elif fence == "```" and line and not line.startswith("#"):
            found.append(line)
    return found


def legal(options, world):
    """The degrees that a command asks for are possible for its model."""
    heads, branches = MODELS[options.model]
    options.parts_of(SequenceParallel).degrees(world, node=8, heads=heads, branches=branches)


def test_every_command_of_the_page_of_published_tables_is_one(tmp_path):
    """Each of the eight methods has its own; published names, fits and options are known, and ranks can be divided."""
    page, told = ROOT / "docs/reproduce.md", {}
    for name in ("dpcache", "l2p"):
        (tmp_path / f"{name}.json").write_text((ROOT / f"tests/core/profiles/{name}.json").read_text())
    costs = json.loads((tmp_path / "dpcache.json").read_text())
    costs["data"] = {"steps": 50, "costs": [[[1.0] * 51] * 50] * 50}
    (tmp_path / "dpcache.json").write_text(json.dumps(costs))
    for line in commands(page):
        program, *words = shlex.split(line)
        if program in THEIRS:
            continue
        options = accepted(*words, files=tmp_path)
        assert program == "c4d" and options.prompt_file and options.out and options.model in MODELS, line
        legal(options, options.ranks or 1)
        told[options.out] = {each.partition(":")[0] for each in methods(options)}
    for method in ("taylorseer", "speca", "teacache", "magcache", "easycache", "l2p", "dpcache", "budcache"):
        assert [out for out, named in told.items() if method in named and out.name.startswith(method)], method
    outs = [line.partition("--out ")[2].split()[0] for line in commands(page) if line.startswith("c4d")]
    assert len(outs) == len(set(outs))  # none would refuse another's folder
    assert "None of it was run here" in page.read_text()


def test_every_command_of_the_page_of_clusters_is_one(monkeypatch, tmp_path):
    """Lines that start scripts are those that the scripts print for torchrun; images and manifests are there."""
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho node0\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    kinds = set()
    for line in commands(ROOT / "docs/clusters.md"):
        words = [word for word in shlex.split(line) if not word.startswith("C4D_") and word != "bash"]
        kinds.add(words[0])
        if words[0] == "c4d":
            options = accepted(*words[1:])
            assert options.ray is not None and options.out and options.prompt_file and options.model in MODELS
            continue
        if words[0] in ("docker", "kubectl"):
            assert (ROOT / words[words.index("-f") + 1]).is_file()
            continue
        if words[0] != "torchrun":
            asked = dict(word[2:].split("=") for word in words if re.fullmatch(r"--(nodes|array)=\S+", word))
            (start,) = [i for i, word in enumerate(words) if word.startswith("launch/")]
            job = {
                "SLURM_NNODES": asked.get("nodes", "2"),
                "SLURM_JOB_NODELIST": "node[0-7]",
                "SLURM_GPUS_ON_NODE": "8",
            }
            line = dry(words[start], *words[start + 1 :], **job)
        found = launched(line)
        assert found.options.out and found.options.prompt_file
    assert kinds >= {"sbatch", "torchrun", "docker", "kubectl", "c4d"}


@pytest.mark.parametrize("page", ["README.md", "docs/command_line.md", "docs/faq.md"])
def test_the_commands_of_a_page_are_ones(page):
    """Those without an ellipsis; what else may stand between backticks is for people."""
    seen = 0
    for line in commands(ROOT / page):
        program, *words = shlex.split(line, comments=True) or [""]
        if program == "c4d" and words[0] not in ("explain", "doctor"):
            seen += bool(accepted(*words))
    assert seen >= 4
