"""Memory modes: each beside a method of every kind, what is refused, and what is left when a request is given up."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

import c4d
from c4d.backends import UnsupportedError
from c4d.backends.reference import Reference
from c4d.memory_modes import MODES
from c4d.memory_modes.mode import Kind
from c4d.memory_modes.text import parse_memory
from tests.pipes import dit
from tests.sampled import sampled
from tests.subjects import KINDS, SUBJECTS, built, passes

SUBJECT = SUBJECTS["wan"]
FIXED = [kind for kind in KINDS if kind in ("modules", "output", "stack")]  # these decide by the step alone
NEAR = {"float8": 0.05, "int8": 0.02, "float8+groups": 0.05, "int8+components": 0.02}  # relative L2; others are exact
HERE = ["components", "groups", "groups:blocks=3", "tiled+sliced", "float8", "float8+groups", "int8", "int8+components"]


def in_mode(text, pipe=None):
    """A pipeline in that mode, with the host as its device: what moves weights moves them in place."""
    pipe = pipe or SUBJECT.build()
    for _, part in parse_memory(text).parts:
        part.apply(pipe, Reference())
    return pipe


def needs(text):
    if "int8" in text:
        pytest.importorskip("torchao")


@pytest.mark.parametrize(("text", "kind"), sampled(HERE, KINDS, nth=2))
def test_a_cached_clip_is_that_of_the_plain_pipeline(text, kind):
    needs(text)
    method, plain = SUBJECT.methods[kind], built("wan")
    pipe = in_mode(text)
    with c4d.cached(plain, method) as expected, c4d.attention(plain):
        wanted = SUBJECT.ask(plain)
    with c4d.cached(pipe, method) as session, c4d.attention(pipe):
        found = SUBJECT.ask(pipe)
    assert session.report().reused > 0
    if text not in NEAR:
        assert torch.equal(found, wanted) and passes(session) == passes(expected)
    elif kind in FIXED:  # others may decide otherwise with other weights
        assert 0 < (found - wanted).norm() <= NEAR[text] * wanted.norm() and passes(session) == passes(expected)
    assert torch.isfinite(found).all()


def stored(module):
    return sum(p.nbytes for p in module.parameters())


def test_float8_stores_a_quarter_and_leaves_out_what_is_small_and_precise():
    pipe, before = SUBJECT.build(), stored(built("wan").transformer)
    c4d.memory(pipe, "float8", backend="cpu")
    assert stored(pipe.transformer) < before / 2
    kept = {name for name, p in pipe.transformer.named_parameters() if p.dtype == torch.float32}
    assert "patch_embedding.weight" in kept and "blocks.0.attn1.to_q.weight" not in kept


def test_a_mode_that_does_not_place_leaves_weights_where_they_are(monkeypatch):
    pipe = SUBJECT.build()
    monkeypatch.setattr(type(pipe), "to", lambda *_: pytest.fail("moved"))
    c4d.memory(pipe, "sliced + tiled", backend="cpu")
    assert pipe.vae.use_slicing and pipe.vae.use_tiling


def test_tiles_change_nothing_where_one_is_enough():
    pipe, latents = SUBJECT.build(), torch.randn(1, 8, 2, 8, 8)
    whole = pipe.vae.decode(latents, return_dict=False)[0]
    c4d.memory(pipe, "tiled", backend="cpu")
    assert torch.equal(pipe.vae.decode(latents, return_dict=False)[0], whole)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "lots",
            "unknown memory mode 'lots': known are components, divided, float8, full, groups, int8, sequential, sliced",
        ),
        ("", "unknown memory mode ''"),
        ("groups+full", "groups and full both say where weights are; keep one"),
        ("float8+int8", "both say what weights are stored as; keep one"),
        ("tiled+tiled", "tiled is given twice; keep one"),
        ("sequential+int8", "sequential does not go with int8: take groups or components"),
        ("groups:blocks=0", "blocks is 0; allowed are whole numbers from 1"),
        ("divided+groups", "divided and groups both say where weights are; keep one"),
        ("divided+float8", "divided does not go with float8: take groups or components"),
        ("divided:ranks=1", "ranks is 1; allowed are whole numbers from 2"),
        ("groups:size=2", "groups has no option 'size': known are blocks"),
    ],
)
def test_what_no_text_can_say(text, words):
    with pytest.raises(ValueError, match=words):
        c4d.memory(built("wan"), text, backend="cpu")


@pytest.mark.parametrize("name", ["components", "groups", "sequential"])
def test_the_host_has_nowhere_to_move_weights_from(name):
    with pytest.raises(UnsupportedError, match=f"{name} cannot be done: it moves .* take full, float8 or"):
        c4d.memory(built("wan"), name, backend="cpu")


class Card(Reference):
    """A device that is not the host; what is refused before it is touched."""

    name, device_type = "card", "xpu"


@pytest.mark.parametrize(
    ("pipe", "text", "words"),
    [
        (lambda: SimpleNamespace(components={}), "tiled", "there is no VAE in this pipeline"),
        (lambda: SimpleNamespace(components={}, vae=SimpleNamespace()), "sliced", "SimpleNamespace has no slicing"),
        (lambda: SimpleNamespace(components={}, model_cpu_offload_seq=None), "components", "take groups or sequ"),
        (lambda: in_mode("groups"), "full", "offloaded already: load the pipeline anew"),
        (lambda: in_mode("components"), "sequential", "offloaded already"),
        (lambda: in_mode("float8"), "float8", "in another dtype already"),
        (lambda: built("wan"), "divided", "this process is alone: start it with torchrun"),
        (lambda: dit()[0], "groups", "does not offload DiTTransformer2DModel in groups: take components"),
    ],
)
def test_what_this_pipeline_cannot(pipe, text, words):
    with pytest.raises(UnsupportedError, match=words):
        c4d.memory(pipe(), text, backend="cpu" if text == "float8" else Card())


def test_a_device_without_float8_says_so(monkeypatch):
    def refuse(self, *_, **__):
        raise RuntimeError("no such dtype")

    pipe = built("wan")
    monkeypatch.setattr(torch.Tensor, "to", refuse)
    with pytest.raises(UnsupportedError, match=r"does not convert torch.float8_e4m3fn \(no such dtype\): take groups"):
        parse_memory("float8").check(pipe, Reference())


def test_int8_without_torchao_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(UnsupportedError, match=r"torchao cannot be imported.*pip install torchao, or take float8"):
        c4d.memory(built("wan"), "int8", backend="cpu")


def test_what_is_no_pipeline_or_no_text():
    with pytest.raises(TypeError, match="WanTransformer3DModel is no diffusers pipeline"):
        c4d.memory(built("wan").transformer, "full")
    with pytest.raises(TypeError, match=r"mode is None; give text such as 'groups\+tiled'"):
        c4d.memory(built("wan"), None)


def test_every_mode_says_what_it_does_and_how_close_it_is():
    assert all(mode.exact and mode.__doc__ for mode in MODES.values())
    assert {mode.kind for mode in MODES.values()} == set(Kind)
