"""The pages of ``c4d methods``, ``models`` and ``doctor`` are made of the registries."""

from __future__ import annotations

import re

import torch

from c4d import backends
from c4d.backends.reference import Reference
from c4d.bundled import BUNDLED
from c4d.cli.options import Options
from c4d.core.methods import METHODS
from c4d.core.text.grammar import FORECASTERS, describe
from c4d.models import SPECS


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
        assert f"sites {', '.join(spec.kinds())} signals {', '.join(p.value for p in spec.measurable())}" in text
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
    for words in ("generate", "methods", "models", "doctor", "exit codes", "--debug"):
        assert words in text
    text = c4d("generate", "--help").out
    for name in Options.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text
