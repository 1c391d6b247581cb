"""Prompts that are encoded beforehand: the same pictures bit for bit, and text encoders that are gone."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import c4d
from c4d.backends import UnsupportedError
from c4d.backends.reference import Reference
from c4d.memory_modes import encoders
from c4d.memory_modes.mode import Part, modules_of
from c4d.memory_modes.text import parse_memory
from tests import pipes
from tests.sampled import sampled

WORDS = ("a red circle", "a blue square on white")
SMALL = dict(num_inference_steps=2, output_type="pt", height=32, width=32)


def wan(prompt):
    return dict(SMALL, prompt=prompt, num_frames=5, guidance_scale=3.0, max_sequence_length=16, negative_prompt="dark")


def of_flux(prompt):
    return dict(SMALL, prompt=prompt, max_sequence_length=16, true_cfg_scale=2.0, negative_prompt="dark")


def qwen(prompt):
    return dict(SMALL, prompt=prompt, true_cfg_scale=2.0, negative_prompt="dark", max_sequence_length=512)


PIPES = {
    "wan": (pipes.wan_tiny, wan),
    "two experts": (lambda: pipes.two_experts()[0], wan),
    "image to video": (lambda: pipes.text_and_image_to_video()[0], lambda p: dict(wan(p), image=given())),
    "flux": (pipes.flux_with_text, of_flux),
    "qwen": (pipes.qwen_with_text, qwen),
    "hunyuan image": (pipes.hunyuan_image_with_text, lambda p: dict(SMALL, prompt=p, negative_prompt="dark")),
    "u-net": (pipes.stable_diffusion, lambda p: dict(SMALL, prompt=p, negative_prompt="dark")),
}
MODES = [None, "components", "groups", "full+float8", "sliced"]


def given():
    return pipes.text_and_image_to_video()[1]["image"]


def built(name):
    pipe = PIPES[name][0]()
    pipe.set_progress_bar_config(disable=True)
    for part in modules_of(pipe).values():
        part.eval()
    return pipe


def made(pipe, call):
    out = pipe(**call, generator=torch.Generator().manual_seed(1), return_dict=False)[0]
    return out if isinstance(out, torch.Tensor) else torch.stack(list(out))


def mode_of(text):
    """With the host as its device: what moves weights moves them in place."""
    if text is None:
        return None
    mode = parse_memory(text)
    return replace(mode, parts=tuple((each, Part(part.apply)) for each, part in mode.parts))


@pytest.mark.parametrize(("name", "mode"), sampled(PIPES, MODES, nth=3))
def test_the_same_pictures_without_the_text_encoders(name, mode):
    ask = PIPES[name][1]
    calls = [ask(words) for words in WORDS]
    plain, pipe = built(name), built(name)
    if mode is not None:
        mode_of(mode).apply(plain, Reference())
    wanted = [made(plain, call) for call in calls]
    held = {n: weakref.ref(m) for n, m in pipe.components.items() if n.startswith("text_encoder")}
    encoders.encode_all(pipe, calls, backend=Reference(), memory=mode_of(mode))
    gc.collect()
    assert held and all(ref() is None for ref in held.values())
    assert not torch.equal(*wanted)
    for call, out in zip(calls, wanted, strict=True):
        assert torch.equal(made(pipe, call), out)
    with c4d.cached(pipe, "taylorseer-lite:interval=2"):
        assert torch.equal(
            made(pipe, dict(calls[0], num_inference_steps=1)), made(plain, dict(calls[0], num_inference_steps=1))
        )


def test_each_text_is_encoded_once():
    pipe, calls = built("wan"), [wan(WORDS[0]), wan(WORDS[1]), dict(wan(WORDS[0]), height=64)]
    seen, encode = [], pipe.encode_prompt
    pipe.text_encoder.register_forward_hook(lambda *_: seen.append(1))
    c4d.encode_prompts(pipe, calls)
    assert len(seen) == 2 * 2  # with what is not wanted
    made(pipe, calls[2])
    assert len(seen) == 4 and encode.__self__ is pipe


def test_a_text_that_was_not_encoded_is_an_error_that_says_which():
    pipe = built("wan")
    c4d.encode_prompts(pipe, [wan(WORDS[0])])
    for other in (dict(wan(WORDS[1])), dict(wan(WORDS[0]), negative_prompt="bright")):
        with pytest.raises(ValueError, match=rf"WanPipeline gave its text encoders back, .*prompt '{other['prompt']}'"):
            made(pipe, other)
    with pytest.raises(UnsupportedError, match="given back already: load the pipeline anew"):
        c4d.encode_prompts(pipe, [wan(WORDS[1])])
    with pytest.raises(RuntimeError, match=r"text_encoder was given back .*: load the pipeline anew"):
        pipe.text_encoder(torch.zeros(1, 1))
    assert pipe.text_encoder.dtype is torch.float32 and pipe.text_encoder.config.model_type


def test_an_encoder_that_somebody_else_holds_goes_on_working():
    pipe, other = built("flux"), built("flux")
    other.text_encoder = pipe.text_encoder
    wanted = made(other, of_flux(WORDS[0]))
    c4d.encode_prompts(pipe, [of_flux(WORDS[0])])
    assert torch.equal(made(other, of_flux(WORDS[0])), wanted)


def test_a_call_that_fails_leaves_the_pipeline_as_it_was():
    pipe = built("wan")
    with pytest.raises(ValueError, match="divisible by 16"):
        c4d.encode_prompts(pipe, [wan(WORDS[0]), dict(wan(WORDS[1]), height=33)])
    assert not {"encode_prompt", "progress_bar"} & set(vars(pipe)) and not pipe.transformer._forward_pre_hooks
    assert torch.equal(made(pipe, wan(WORDS[0])), made(built("wan"), wan(WORDS[0])))


def test_the_transformer_waits_until_the_text_encoders_are_gone(monkeypatch):
    """With ``full``: who is moved, in order."""
    pipe, moved = built("wan"), []
    names = {id(part): name for name, part in pipe.components.items()}
    to = torch.nn.Module.to

    def noted(self, *args, **kwargs):
        if id(self) in names:
            moved.append(names[id(self)])
        return to(self, *args, **kwargs)

    pipe.text_encoder.register_forward_hook(lambda *_: moved.append("encoded"))
    monkeypatch.setattr(torch.nn.Module, "to", noted)
    monkeypatch.setattr(type(pipe.transformer), "to", noted)
    c4d.encode_prompts(pipe, [wan(WORDS[0])], memory="full", backend="cpu")
    before, after = moved[: moved.index("encoded")], moved[moved.index("encoded") :]
    assert "text_encoder" in before and "transformer" not in before
    assert "transformer" in after and "text_encoder" not in after


@pytest.mark.parametrize(
    ("pipe", "words"),
    [
        (lambda: pipes.dit()[0], "DiTPipeline has no encode_prompt"),
        (pipes.flux, "FluxPipeline holds no text encoder"),
    ],
)
def test_what_cannot_be(pipe, words):
    with pytest.raises(UnsupportedError, match=f"cannot be encoded beforehand: {words}"):
        c4d.encode_prompts(pipe(), [{}])


def test_a_pipeline_that_encodes_in_its_loop_is_refused():
    pipe = built("wan")
    pipe.__class__ = type("Late", (type(pipe),), {"__call__": lambda self, **_: self.progress_bar()})
    with pytest.raises(
        UnsupportedError, match="Late did not call its encode_prompt before its loop, called with prompt"
    ):
        c4d.encode_prompts(pipe, [dict(prompt="x")])


def test_bad_arguments():
    with pytest.raises(TypeError, match="SimpleNamespace is no diffusers pipeline"):
        c4d.encode_prompts(SimpleNamespace(), [])
    for calls in ("a cat", ["a cat"], None):
        with pytest.raises(TypeError, match=r"calls is a list of .*\[\{'prompt': 'a cat'\}\]"):
            c4d.encode_prompts(built("wan"), calls)
