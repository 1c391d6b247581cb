"""Attention through a backend, for every described family that brings an example."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType, SimpleNamespace

import pytest
import torch

import c4d
from c4d.backends.reference import KERNELS, Reference, math_attention
from c4d.core.attention import Processor
from c4d.models import SPECS
from c4d.parallel.sharding import Sharding, check_whole
from tests.denoisers import ENTRIES, changed, lively, rand

FAMILIES = {
    entry.name: entry
    for entry in ENTRIES
    if entry.name in SPECS and any(stack.attention for stack in SPECS[entry.name].stacks)
}
TWO = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])  # masks of text
ONE = TWO[1:]
PADDED = {  # text that a mask leaves out, where the example has none
    "PixArt": changed("PixArtTransformer2DModel", encoder_attention_mask=ONE),
    "Sana": changed("SanaTransformer2DModel", encoder_attention_mask=ONE),
    "CogView 4": changed("CogView4Transformer2DModel", attention_mask=ONE),
    "Lumina-Next": changed("LuminaNextDiT2DModel", encoder_mask=ONE),
    "Krea 2": changed("Krea2Transformer2DModel", encoder_attention_mask=ONE.bool()),
    "ERNIE-Image": changed("ErnieImageTransformer2DModel", text_lens=torch.tensor([3])),
    "PRX": changed("PRXTransformer2DModel", attention_mask=ONE.bool()),
    "Qwen-Image 2.1": changed("QwenImage21Transformer2DModel", encoder_hidden_states_mask=ONE),
    "Cosmos": changed("CosmosTransformer3DModel", attention_mask=ONE.bool()),
}
VARIANTS = {
    **PADDED,
    "Mochi, prompts of two lengths": changed(
        "MochiTransformer3DModel",
        latents=(2, 4, 2, 8, 8),
        timestep=torch.tensor([300.0, 300.0]),
        encoder_hidden_states=rand(2, 5, 16, seed=1),
        encoder_attention_mask=TWO.bool(),
    ),
    "Lumina 2, prompts of two lengths": changed(
        "Lumina2Transformer2DModel",
        latents=(2, 4, 8, 8),
        timestep=torch.tensor([0.3, 0.3]),
        encoder_hidden_states=rand(2, 5, 12, seed=1),
        encoder_attention_mask=TWO,
    ),
    "Lumina-Next, proportional attention": changed(
        "LuminaNextDiT2DModel", cross_attention_kwargs={"base_sequence_length": 4}
    ),
    "SD3, one attention a block": changed("SD3Transformer2DModel", config=dict(dual_attention_layers=(), qk_norm=None)),
    "Cosmos 2.5, a given image": changed(
        "CosmosTransformer3DModel",
        config=dict(img_context_dim_in=6, img_context_dim_out=32, img_context_num_tokens=4),
        encoder_hidden_states=(rand(1, 5, 12, seed=1), rand(1, 4, 6, seed=2)),
    ),
    "Cosmos 3, keys with a norm for each tower": changed(
        "Cosmos3OmniTransformer", config=dict(hidden_act="relu2", qk_norm_for_text=False, use_und_k_norm_for_gen=True)
    ),
    "Qwen-Image 2.1, a given image": changed(
        "QwenImage21Transformer2DModel",
        latents=(1, 20, 8),
        img_shapes=[[(1, 2, 2), (1, 4, 4)]],
        img_mask=torch.tensor([[False, True, False, False, False, True, True, True, True]]),
    ),
}
CASES = {**FAMILIES, **VARIANTS}


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


class Wrong(Reference):
    """``what`` of its primitives is wrong."""

    def __init__(self, what):
        self.what, self.called = what, False
        kernel = replace(KERNELS["math"], run=self.attend)
        self.attention_kernels = MappingProxyType({"wrong": kernel})

    def wrong(self, what):
        self.called |= what == self.what
        return what == self.what

    def attend(self, q, *rest):
        return math_attention(q.roll(1, 1) if self.wrong("attention") else q, *rest)

    def rms_norm(self, x, weight, *, eps):
        return super().rms_norm(x, None if self.wrong("norm") else weight, eps=eps)

    def rotary(self, x, *rest, **how):
        return x if self.wrong("rotary") else super().rotary(x, *rest, **how)


def processors(model):
    return {name: m.processor for name, m in model.named_modules() if hasattr(m, "processor")}


def declared(model, spec):
    blocks = [(stack, block) for stack in spec.stacks for block in model.get_submodule(stack.path)]
    return [m for stack, block in blocks for name, m in block.named_modules() if name in stack.attention]


def error(got, want):
    return max(float((a.double() - b.double()).norm() / b.double().norm()) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_the_result_is_that_of_the_model_alone(name):
    entry = CASES[name]
    model, x = lively(entry), rand(*entry.latents, seed=3)
    before, plain = processors(model), entry.run(model, x, 700.0)
    with c4d.attention(model, "math") as session:
        inside = entry.run(model, x, 700.0)
        ours = [p for p in processors(model).values() if isinstance(p, Processor)]
    assert len(ours) == len(declared(model, SPECS[entry.name])) > 0 and "through math" in session.lines()[0]
    assert processors(model) == before
    assert error(inside, plain) < 5e-6


@pytest.mark.parametrize("name", CASES)
def test_the_test_above_would_notice_what_is_wrong(name):
    """A wrong attention, norms without their weights, and tokens that are not turned."""
    entry = CASES[name]
    model, x = lively(entry), rand(*entry.latents, seed=3)
    plain = entry.run(model, x, 700.0)
    for backend in map(Wrong, ("attention", "norm", "rotary")):
        with c4d.attention(model, "wrong", backend=backend):
            inside = entry.run(model, x, 700.0)
        assert not backend.called or error(inside, plain) > 1e-4, backend.what
        assert backend.called or backend.what != "attention"
    if any("norm" in name for module in declared(model, SPECS[entry.name]) for name, _ in module.named_parameters()):
        assert error(entry.run(entry.build(), x, 700.0), plain) > 1e-4


@pytest.mark.parametrize("name", [name for name in CASES if not CASES[name].name.startswith("Cosmos3")])
def test_autocast(name):
    """Norms keep another dtype than what they norm, and are called; masks get that of the others.

    Cosmos 3 by itself does not run there.
    """
    entry = CASES[name]
    model, x = lively(entry), rand(*entry.latents, seed=3)
    with torch.autocast("cpu", torch.bfloat16):
        plain = entry.run(model, x, 700.0)
        with c4d.attention(model, "math"):
            inside = entry.run(model, x, 700.0)
    assert error(inside, plain) < 3e-2


@pytest.mark.parametrize("name", PADDED)
def test_masked_text_changes_what_is_compared(name):
    entry = PADDED[name]
    model, x = lively(entry), rand(*entry.latents, seed=3)
    assert error(FAMILIES[entry.name].run(model, x, 700.0), entry.run(model, x, 700.0)) > 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_every_attention_that_a_spec_names_is_there(name):
    model = FAMILIES[name].build()
    for stack in SPECS[name].stacks:
        found = {inner for block in model.get_submodule(stack.path) for inner, _ in block.named_modules()}
        assert set(stack.attention) <= found


@pytest.mark.parametrize("name", ["SanaTransformer2DModel", "SanaVideoTransformer3DModel"])
def test_attention_without_a_softmax_is_left_alone_and_never_spread(name):
    model = FAMILIES[name].build()
    linear = type(model.transformer_blocks[0].attn1.processor).__name__
    session = c4d.attention(model, "math")
    with session:
        assert type(model.transformer_blocks[0].attn1.processor).__name__ == linear
        assert session.lines() == [
            "transformer: 3 cross-attentions will go through math",
            f"transformer: 3 that its spec names no kernel for left to their own processor {linear}",
        ]
    (fitting,), mesh = session.fittings, SimpleNamespace(sequence=SimpleNamespace(size=2), position=0)
    with pytest.raises(ValueError, match=f"the spec of {name} does not say how its tokens are spread"):
        Sharding(fitting, mesh, None)
    with pytest.raises(ValueError, match=rf"the spec of {name} does not name \({linear}\)"):
        check_whole(fitting)


def test_keys_that_a_pipeline_keeps_are_those_of_the_model():
    """Of Qwen-Image 2.1, whose first step keeps keys and values for the others, inside or outside."""
    from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVCache

    entry = FAMILIES["QwenImage21Transformer2DModel"]
    model, x = lively(entry), rand(*entry.latents, seed=3)

    def step(cache, mode):
        return changed(entry.name, kv_cache=cache, kv_cache_mode=mode).run(model, x, 700.0)

    kept, ours = QwenImage21KVCache(3), QwenImage21KVCache(3)
    first, later = step(kept, "extract"), step(kept, "cached")
    with c4d.attention(model, "math"):
        assert error(step(ours, "extract"), first) < 5e-6
        for cache in (kept, ours):
            assert error(step(cache, "cached"), later) < 5e-6
    assert error(step(ours, "cached"), later) < 5e-6
