"""The pages of ``c4d methods``, ``models`` and ``doctor`` are made of the registries."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
import torch

import c4d as package
from c4d import backends
from c4d.backends.reference import Reference
from c4d.bundled import BUNDLED
from c4d.cli.options import Options, flag
from c4d.core.methods import METHODS
from c4d.core.text.grammar import FORECASTERS, describe, parse
from c4d.describe.meanings import MEANINGS
from c4d.describe.methods import options, published_for, refusal
from c4d.models import SPECS, spec_known_as


def test_methods(c4d):
    outcome = c4d("methods")
    text = " ".join(outcome.out.split())
    assert outcome.code == 0 and outcome.err == ""
    for name, make in {**METHODS, **FORECASTERS}.items():
        options = describe(make)
        assert (f" {name}:{options}" if options else f" {name} ") in text
        for paper in re.findall(r"arXiv (\d{4}\.\d{5})", make.__doc__ or "")[:1]:
            assert paper in text
    for kind in {kind for spec in SPECS.values() for kind in spec.kinds()}:
        assert kind in text


def test_models(c4d):
    text = " ".join(c4d("models").out.split())
    for spec in SPECS.values():
        assert f"{spec.transformer} {spec.about}" in text
        assert f"sites {', '.join(spec.kinds())} signals {', '.join(p.value for p in spec.measurable())} runs " in text
    for name, runs in (
        ("WanTransformer3DModel", "kernels for self-attention, cross-attention; tokens spread over ranks"),
        ("SanaTransformer2DModel", "kernels for cross-attention; tokens not spread over ranks"),
        ("PriorTransformer", "with its own attention; tokens not spread over ranks"),
    ):
        assert re.search(rf" {name} [^;]* runs {runs}", text)
    for name, model in BUNDLED.items():
        assert f"{name} {model.about}" in text and model.example in text


def test_doctor(c4d, monkeypatch):
    text = c4d("doctor").out
    assert torch.__version__ in text
    for name in backends.BACKENDS:
        assert re.search(rf"^  {name} +(usable|cannot run here: .+)$", text, re.MULTILINE)
        assert backends.load(name).verified in text
    assert re.search(r"auto +takes \w+", text)
    monkeypatch.setitem(backends.BACKENDS, "broken", "c4d.backends.no_such_module:X")
    monkeypatch.setattr(Reference, "missing", lambda self: "a screw is loose")
    outcome = c4d("doctor")
    assert outcome.code == 0 and "no_such_module" in outcome.out and "cannot run here: a screw is loose" in outcome.out


def test_help(c4d):
    text = c4d("--help").out
    for words in ("generate", "explain", "methods", "models", "doctor", "exit codes", "--debug"):
        assert words in text
    text = c4d("generate", "--help").out
    for each in fields(Options):
        assert flag(each.name) in text


@pytest.mark.parametrize("name", METHODS)
def test_one_method(c4d, name):
    """All of one: its paper's equations, published values with the model they are of, an example that can be typed."""
    outcome = c4d("methods", name.replace("-", "_"))
    assert outcome.code == 0 and outcome.out.startswith(name) and describe(METHODS[name]) in outcome.out
    example = outcome.out.rpartition("such as  --cache ")[2].strip()
    if name in ("dpcache", "hyca", "l2p", "profile"):
        assert f"It reads a file that was made for your model: --cache {name}:path=…" in outcome.out
    else:
        assert example.startswith(name) and parse(example)
    for spec in SPECS.values():
        assert re.search(
            rf"^  {spec.transformer} +{re.escape(refusal(name, spec) or 'yes')}$", outcome.out, re.MULTILINE
        )
        for published in published_for(name, spec):
            assert re.search(rf"={re.escape(published)} +{spec.transformer}\b", outcome.out), published


def test_every_option_is_explained(c4d):
    """In one sentence that no other option needs, and with the words that this method takes."""
    told = {f"{name}.{option.name}": option for name in (*METHODS, *FORECASTERS) for option in options(name)}
    assert [where for where, option in told.items() if not option.meaning] == []
    assert set(MEANINGS) <= {*told, *(where.partition(".")[2] for where in told)}
    text = " ".join(c4d("methods", "dicache").out.split())
    assert f"error=delta_y {MEANINGS['dicache.error']} One of delta_y, delta_minus." in text


def test_published_values_of_models_that_cannot_be_cached_are_marked(c4d):
    text = c4d("methods", "teacache").out
    assert re.search(r"fit=open-sora-1.2 +no model that c4d caches; thresholds ", text)
    assert re.search(r"fit=wan2.1-t2v-1.3b +WanTransformer3DModel; thresholds 0.05, 0.07, 0.08", text)
    assert spec_known_as("wan2.1-vace-14b").transformer == "WanVACETransformer3DModel"
    assert spec_known_as("open-sora-1.2") is None


def test_one_model(c4d):
    for name in ("Wan", "WanTransformer3DModel"):
        text = c4d("models", name).out
        assert text.startswith("  WanTransformer3DModel\n") and "Flux" not in text
        assert re.search(r"^  magcache +wan2.1-t2v-14b, ", text, re.MULTILINE)
        assert re.search(r"^  fora +any options$", text, re.MULTILINE)
    assert "a  easycache stores outputs" not in text and "outputs minus latents" in c4d("models", "DiT").out


def test_one_backend(c4d):
    text = c4d("doctor", "--backend", "cpu").out
    assert "  cpu           usable" in text and "  cuda  " not in text and "auto    " not in text


@pytest.mark.parametrize("words", [("methods", "tailor"), ("models", "Vwan"), ("doctor", "--backend", "gpu")])
def test_an_unknown_one_names_the_known(c4d, words):
    outcome = c4d(*words)
    known = {"methods": "taylorseer", "models": "WanTransformer3DModel", "doctor": "cpu"}[words[0]]
    assert outcome.code == 2 and repr(words[-1]) in outcome.err and known in outcome.err


def test_the_version(c4d):
    assert c4d("--version").out == f"c4d {package.__version__}\n"


def test_the_table_tells_files_and_reasons_for_models_that_are_alike(c4d):
    text = c4d("methods").out.partition("METHODS x MODELS")[2]
    lines = [line.split() for line in text.splitlines()[2:] if line[2:].strip() and line[2] != " "]
    rows = {words[0]: words[1:] for words in lines if words[0] in METHODS}
    assert len(rows) == len(METHODS) and len({len(cells) for cells in rows.values()}) == 1
    groups = re.findall(r"^  (\d+) +(.+(?:\n {5}.+)*)", text, re.MULTILINE)
    column = {name: int(number) - 1 for number, names in groups for name in re.split(r",\s+", names)}
    assert len(column) == len(SPECS)
    for name in ("Flux", "Wan", "Flux2", "DiT"):
        assert rows["magcache"][column[name]] == "yes" and rows["dpcache"][column[name]] == "file"
    assert column["Flux"] == column["Wan"] != column["DiT"]
    assert rows["magcache"][column["T5FilmDecoder"]] == "out" and rows["profile"][column["T5FilmDecoder"]] == "file"
    assert len({rows[name][column["T5FilmDecoder"]] for name in ("dbcache", "toca", "speca", "teacache")}) == 1
    letter = rows["dbcache"][column["T5FilmDecoder"]]
    assert re.search(rf"^  {letter}  needs blocks, which are not described", text, re.MULTILINE)
    letter = rows["easycache"][column["DiT"]]
    assert re.search(rf"^  {letter}  easycache stores outputs", text, re.MULTILINE)
