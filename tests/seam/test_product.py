"""Every method on every model, in the pipeline classes of diffusers: METHODS x MODELS."""

from __future__ import annotations

import functools
import re

import pytest
import torch

import c4d
from c4d.cli.table import table_text
from c4d.core.methods import METHODS
from c4d.core.runtime.steps import RunError
from c4d.core.text.grammar import parse
from c4d.describe.methods import refusal
from c4d.describe.models import short
from c4d.models import SPECS, spec_for
from tests.denoisers import ENTRIES
from tests.methods import REUSING, STEPS, check_decisions
from tests.pipes import PICTURES, PIPELINES, hunyuan_video
from tests.sampled import sampled
from tests.subjects import SUBJECTS
from tests.tiny import rand

SIGNAL = {"Wan": "time_projection", "DiT": "time_embedding"}  # of other families: the modulated input
LEARNED_FOR_ONE = "no weights were learned for step"  # L2P's profile is of one expert


def videos(name):
    pipe, extra = PIPELINES[name]()

    def answer(prompt):
        return pipe(
            prompt=f"a {prompt} circle", height=32, width=32, num_frames=5, num_inference_steps=STEPS,
            guidance_scale=3.0, max_sequence_length=512 if "image" in extra else 8, output_type="latent",
            generator=torch.Generator().manual_seed(3), return_dict=False, **extra,
        )[0]  # fmt: skip

    return pipe, answer


def pictures(name):
    pipe, ask = PICTURES[name]()

    def answer(prompt):
        kind = "pt" if name == "dit" else "latent"  # which always decodes
        made = torch.Generator().manual_seed(3)
        asked = ask(prompt[0].upper())
        return pipe(**asked, num_inference_steps=STEPS, generator=made, output_type=kind, return_dict=False)[0]

    return pipe, answer


def hunyuan():
    pipe = hunyuan_video()

    def answer(prompt):
        return pipe(
            prompt_embeds=rand(1, 12, 16, seed=ord(prompt[0])), pooled_prompt_embeds=rand(1, 8, seed=2),
            prompt_attention_mask=torch.ones(1, 12), height=32, width=32, num_frames=5, num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(3), output_type="latent", return_dict=False,
        )[0]  # fmt: skip

    return pipe, answer


def flux():
    subject = SUBJECTS["flux"]
    pipe = subject.build()
    return pipe, lambda prompt: subject.ask(pipe, prompt=prompt[0].upper(), steps=STEPS)


MAKE = {
    **{name: lambda name=name: videos(name) for name in PIPELINES},
    "hunyuan_video": hunyuan,
    "flux": flux,
    **{name: lambda name=name: pictures(name) for name in PICTURES},
}


def transformers_of(pipe):
    found = (getattr(pipe, name, None) for name in ("transformer", "transformer_2"))
    return [model for model in found if model is not None]


@pytest.fixture(scope="module")
def model(request):
    """A pipeline's name, itself, what it answers for a prompt, and that for "red" without a cache."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edit, "VAE_IMAGE_SIZE", 64 * 64)
        pipe, answer = MAKE[request.param]()
        pipe.set_progress_bar_config(disable=True)
        yield request.param, pipe, answer, answer("red")


@functools.cache
def here():
    """The classes in these pipelines; the others are by themselves, in test_any.py."""
    return {type(each).__name__ for make in MAKE.values() for each in transformers_of(make()[0])}


def test_every_model_is_here():
    assert here() <= set(SPECS) and set(SPECS) - here() <= {entry.name for entry in ENTRIES}


@pytest.mark.parametrize(
    ("model", "kind"),
    sampled(MAKE, REUSING, nth=29, complete=False),
    indirect=["model"],
)
def test_a_method_on_a_model(model, kind):
    """It reuses, as the pure policy decides; blocks run where it says; another prompt before it leaves no trace."""
    name, pipe, answer, plain = model
    family = next((f for f in SIGNAL if type(transformers_of(pipe)[0]).__name__.startswith(f)), "")
    text = REUSING[kind].format(signal=SIGNAL.get(family, "modulated_input"))
    try:
        session = c4d.cached(pipe, text)
    except ValueError as error:
        assert impossible(kind, transformers_of(pipe)[0]), error
        return
    assert not impossible(kind, transformers_of(pipe)[0])
    if parse(text).guidance is not None and (refused := without_pairs(name, session, answer)):
        assert refused in ("unnamed", "alone") and torch.equal(answer("red"), plain)
        return
    entered = []
    stacks = [s for each in transformers_of(pipe) for s in spec_for(each).stacks]
    blocks = {id(b): b for each in transformers_of(pipe) for s in stacks for b in found(each, s.path)}
    handles = [block.register_forward_hook(lambda *_: entered.append(1)) for block in blocks.values()]
    try:
        with session:
            if name == "two_experts" and kind == "l2p":
                with pytest.raises(ValueError, match=LEARNED_FOR_ONE):
                    answer("red")
                return
            answer("blue")
            entered.clear()
            cached = answer("red")
            report = session.report()
            assert report.blocks_entered == len(entered)
            last = [entry for entry in session.trace if entry.run == 1]
    finally:
        for handle in handles:
            handle.remove()
    with c4d.cached(pipe, text):
        assert torch.equal(answer("red"), cached)
    assert torch.equal(answer("red"), plain) and not torch.equal(cached, plain)
    assert report.reused or report.modules_reused
    check_decisions(last, text)


UNPAIRED = {  # where guidance is no two calls: one without a name (FLUX.1's forks, DiT's batch), or distilled
    **dict.fromkeys(("flux_kontext", "flux_controlnet", "dit"), "unnamed"),
    **dict.fromkeys(("hunyuan_video", "hunyuan_image_distilled"), "alone"),
}


def without_pairs(name, session, answer):
    """How a pipeline is told that none of its calls can be spared; None if they can."""
    if UNPAIRED.get(name) == "unnamed":
        with pytest.raises(RunError, match="this one has no name"), session:
            answer("red")
    elif UNPAIRED.get(name) == "alone":
        with session:
            answer("red")
        assert any("no call was spared" in said for said in session.report().why)
    return UNPAIRED.get(name)


def found(model, path):
    try:
        return list(model.get_submodule(path).children())
    except AttributeError:
        return []


def impossible(kind, transformer):
    """Refused with a reason: no cross-attention, or an output that is not like the latents."""
    family = short(type(transformer).__name__)
    return (kind == "pab" and not family.startswith("Wan")) or (kind == "easycache" and family == "DiT")


def test_the_table_says_so():
    for name, spec in SPECS.items():
        refused = {method for method in METHODS if refusal(method, spec)}
        if name in here():
            assert refused == ({"easycache"} if short(name) == "DiT" else set())
        else:
            assert {"dmd", "profile", "taylorseer-lite"} & refused == set()
    text = " ".join(table_text().split())
    assert "easycache stores outputs minus latents, but the output of it is not like them: use @blocks" in text
    for name in SPECS:
        assert re.search(rf"[ ,]{short(name)}(,| |$)", text), name
