"""Caching at the output of models that nobody described: every denoiser of diffusers, modular pipelines, strangers."""

from __future__ import annotations

import inspect
from contextlib import contextmanager, nullcontext

import diffusers
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import c4d
from c4d.core.types import Signal
from c4d.describe.check import check
from c4d.models import SPECS, UnsupportedModelError, spec_for, undescribed
from tests.denoisers import ENTRIES, NOT_DENOISERS, rand
from tests.sampled import sampled

HOMES = ("diffusers.models.transformers", "diffusers.models.unets")
TIMES = [1000.0 * (1 - k / 8) for k in range(8)]
METHODS = {
    "lines": "taylorseer-lite:interval=2",
    "modes": "dmd:interval=2",
    "schedule": "schedule:computed=0/1/4@output",
    "residual": "easycache:threshold=1e9,warmup=2",
    "curve": "magcache:curve=flux.1-dev,threshold=9,max_skips=2@output",
    "latents": "profile:universal,computed=6",
}
# Whose outputs are not like their latents: a spec says it, which is checked below; of the others these are not.
REFUSED = {
    "residual": {name for name, spec in SPECS.items() if not spec.like_latents}
    | {"AnyFlowFARTransformer3DModel", "LatteTransformer3DModel", "Transformer2DModel"},
    "latents": {"AnyFlowFARTransformer3DModel", "RFD4ProteinaTransformer"},
}


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def classes_of_diffusers():
    """Its modules for denoising, by name, wherever they are exported."""
    found = {}
    for name in dir(diffusers):
        try:
            each = getattr(diffusers, name)
        except (ImportError, RuntimeError):
            continue  # an optional package is missing
        if inspect.isclass(each) and issubclass(each, nn.Module) and each.__module__.startswith(HOMES):
            found[name] = each
    return found


def test_every_denoiser_of_diffusers_is_covered():
    """A new class of a new diffusers shows here: describe it, give it an entry in tests/denoisers, or say why not."""
    there = classes_of_diffusers()
    assert len(there) > 60
    assert there.keys() - SPECS.keys() - {entry.name for entry in ENTRIES} - NOT_DENOISERS.keys() == set()


def test_no_reason_is_given_for_what_is_covered():
    assert not NOT_DENOISERS.keys() & {entry.name for entry in ENTRIES}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_same_input_reused_is_the_output_that_was_computed(entry):
    model, x = entry.build(), rand(*entry.latents, seed=3)
    uncached = entry.run(model, x, 900.0)
    with c4d.cached(model, "taylorseer-lite:interval=2,order=0,last=0") as session:
        session.begin([900.0, 900.0])
        computed, reused = entry.run(model, x, 900.0), entry.run(model, x, 900.0)
    assert session.report().timelines == {"0": "Cr"}
    assert session.report().reused == 1 and session.report().computed == 1
    for one, two, three in zip(uncached, computed, reused, strict=True):
        assert torch.equal(one, two) and torch.equal(two, three)


@pytest.mark.whole
@pytest.mark.parametrize(("entry", "method"), sampled(ENTRIES, METHODS, nth=5))
def test_methods_at_the_output_run_on_it(entry, method):
    """Each reuses, and what it makes has the shapes of what is computed, and is finite."""
    model, x = entry.build(), rand(*entry.latents, seed=3)
    want = entry.run(model, x, 900.0)
    if entry.name in REFUSED.get(method, ()):
        with (
            pytest.raises((TypeError, ValueError), match=r"not like|one for each"),
            _tried(model, method),
        ):
            entry.run(model, x, 900.0)
        return
    with _tried(model, method) as session:
        outs = [entry.run(model, (1.0 + 0.01 * k) * x, t) for k, t in enumerate(TIMES)]
    assert "r" in session.report().timelines["0"] and len(session.report().timelines["0"]) == len(TIMES)
    for out in outs:
        assert [each.shape for each in out] == [each.shape for each in want]
        assert all(each.isfinite().all() for each in out)


@contextmanager
def _tried(model, method):
    with c4d.cached(model, METHODS[method]) as session:
        session.begin(TIMES, [t / 1000.0 for t in TIMES])
        yield session


def test_never_skipping_is_exact_and_leaves_nothing_behind():
    for entry in ENTRIES[:: max(1, len(ENTRIES) // 8)]:
        model, x = entry.build(), rand(*entry.latents, seed=3)
        want = entry.run(model, x, 700.0)
        with c4d.cached(model, "taylorseer-lite:interval=1") as session:
            session.begin(TIMES)
            inside = [entry.run(model, x, 700.0) for _ in TIMES]
        after = entry.run(model, x, 700.0)
        assert session.report().timelines == {"0": "C" * len(TIMES)}
        assert all(torch.equal(one, two) for out in (*inside, after) for one, two in zip(out, want, strict=True))
        assert not vars(model).keys() & {"forward", "cache_context"}


class Strange(nn.Module):
    """Somebody's own denoiser: other names, and a dictionary of tensors and nothing."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(8, 8), 0

    def forward(self, noisy, text, t):
        self.calls += 1
        return {"extra": None, "velocity": self.layer(noisy) * t}


def test_a_strangers_module_is_cached_at_its_output():
    model = Strange()
    x, text = rand(2, 6, 8), rand(2, 3, 8)
    with c4d.cached(model, "taylorseer-lite:interval=2,order=0") as session:
        session.begin([1.0, 1.0])
        computed, reused = model(x, text, torch.tensor(0.5)), model(x, text, t=torch.tensor(0.5))
    assert model.calls == 1 and session.report().timelines == {"0": "Cr"}
    assert torch.equal(computed["velocity"], reused["velocity"]) and reused["extra"] is None
    spec = undescribed(model)
    assert (spec.latents, spec.timestep, spec.stacks, spec.exit) == ("noisy", "t", (), None)


def test_what_needs_its_blocks_names_the_way_out():
    moved, kept = "use .*@output", "describe them .* or take a method that goes at the output"
    for method, way in (
        ("fora:interval=2", moved),
        ("seacache:threshold=1.0+cfg-skip:ratio=0.2", moved),
        ("first-block:threshold=0.1", kept),
        ("toca:interval=2", kept),
    ):
        with pytest.raises(ValueError, match=f"Strange offers output, for its blocks are not described: {way}"):
            c4d.cached(Strange(), method)
    model = Strange()
    with c4d.cached(model, "seacache:threshold=1.0@output") as session:
        session.begin([1.0, 0.5], [1.0, 0.5])
        with pytest.raises(RuntimeError, match=r"are tokens .* where they lie nobody described"):
            model(rand(2, 6, 8), rand(2, 3, 8), torch.tensor(1.0))


def test_what_denoises_nothing_is_refused():
    class Encoder(nn.Module):
        def forward(self, words):
            return words

    with pytest.raises(UnsupportedModelError, match="no spec for Encoder, and its forward has no timestep"):
        spec_for(Encoder())


@pytest.mark.parametrize("guided", [False, True])
def test_a_unet_in_its_pipeline(guided):
    """Its loop gives the steps, and guidance in one batch is one call."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )  # fmt: skip
    pipe = diffusers.DDIMPipeline(unet.eval(), diffusers.DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)

    def generate():
        generator = torch.Generator().manual_seed(0)
        return pipe(batch_size=2 if guided else 1, generator=generator, num_inference_steps=6, output_type="np").images

    want = generate()
    with c4d.cached(pipe, "taylorseer-lite:interval=1") as session:
        assert (generate() == want).all()
    with c4d.cached(pipe, "taylorseer-lite:interval=3") as session:
        generate()
    assert session.report().timelines == {"0": "CrrCrr"}
    assert (generate() == want).all()


def test_a_modular_pipeline_is_taken_as_it_is():
    from diffusers.modular_pipelines.wan import WanBlocks

    from tests.pipes import wan_tiny

    parts = wan_tiny().components
    pipe = WanBlocks().init_pipeline()
    names = ("vae", "scheduler", "text_encoder", "tokenizer", "transformer")
    pipe.update_components(**{name: parts[name] for name in names})

    def generate():
        size = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 6}
        generator = torch.Generator().manual_seed(0)
        return pipe(prompt="a red circle", generator=generator, output="videos", output_type="pt", **size)

    want = generate()
    with c4d.accelerate(pipe, cache="taylorseer-lite:interval=1") as work:
        assert torch.equal(generate(), want)
    for method, line in (("taylorseer-lite:interval=2", "CrCrCr"), ("taylorseer-lite:interval=3@blocks", "CrrCrr")):
        with c4d.cached(pipe, method) as session:
            generate()
            assert session.bytes() == 0
        assert session.report().timelines == {"0": line, "1": line}
    assert work.cache.report().reused == 0 and torch.equal(generate(), want)


def test_a_session_that_saw_no_forward_says_so():
    model = Strange()
    session = c4d.cached(model, "taylorseer-lite:interval=2")
    with pytest.warns(RuntimeWarning, match="saw no forward of Strange"), session:
        session.begin([1.0, 0.5])


# -- descriptions


EXAMPLES = [entry for entry in ENTRIES if entry.name in SPECS and SPECS[entry.name].stacks]


def test_whether_an_output_is_like_the_latents_is_right():
    for entry in ENTRIES:
        spec, x = spec_for(entry.build()), rand(*entry.latents, seed=3)
        given, outs = entry.arguments(x, 700.0), entry.run(entry.build(), x, 700.0)
        latents = [leaf for name in spec.denoised for leaf in pytree.tree_leaves(given.get(name)) if leaf is not None]
        alike = len(latents) == len(outs) and all(
            one.ndim == other.ndim and all(a >= b for a, b in zip(one.shape, other.shape, strict=True))
            for one, other in zip(latents, outs, strict=True)
        )
        assert entry.name not in SPECS or alike == spec.like_latents, entry.name


def test_every_description_of_blocks_brings_its_example():
    lacking = [
        name for name, spec in SPECS.items() if spec.stacks and (spec.example is None or spec.example.name != name)
    ]
    assert lacking == []


@pytest.mark.parametrize("entry", sampled(EXAMPLES, nth=3, complete=False))
def test_a_description_fits_its_model(entry):
    findings = list(check(entry.build, SPECS[entry.name], entry.forward))
    assert len(findings) >= 3 and [finding for finding in findings if finding.wrong] == []


def test_last_blocks_are_refused_where_they_read_what_earlier_ones_returned():
    entry = next(entry for entry in EXAMPLES if SPECS[entry.name].long_skips)
    words = f"the last blocks of {entry.name} read what earlier ones returned, .* use last_blocks=0"
    with (
        pytest.raises(ValueError, match=words),
        c4d.cached(entry.build(), "first-block:threshold=1,last_blocks=1"),
    ):
        pass


@pytest.mark.parametrize(
    ("first", "last", "refused"), [(1, 3, True), (10, 1, True), (2, 1, False), (9, 2, False)], ids=str
)
def test_nothing_begins_or_ends_at_a_block_that_a_call_may_pass_by(first, last, refused):
    """Block 9 of Wan Animate 2's unconditional branch: the model's own code goes on without calling it."""
    entry = next(entry for entry in EXAMPLES if entry.name == "WanAnimate2Transformer3DModel")
    words = r"some calls of WanAnimate2Transformer3DModel pass by its block 9 \(from 0\)"
    with (
        pytest.raises(ValueError, match=words) if refused else nullcontext(),
        c4d.cached(entry.build(num_layers=12), f"first-block:threshold=1,first_blocks={first},last_blocks={last}"),
    ):
        pass


def test_a_part_that_a_model_was_made_without_is_no_site():
    """Motif's decoder never has cross-attention, and a model may be made without any."""
    entry = next(entry for entry in EXAMPLES if entry.name == "MotifVideoTransformer3DModel")
    names = ("enable_text_cross_attention_dual", "enable_text_cross_attention_single")
    model, without = entry.build(), entry.build(**dict.fromkeys(names, False))
    for built, reused in ((model, 5 + 4 + 4), (without, 5 + 4)):
        with c4d.cached(built, "fora:interval=2") as session:
            session.begin([2.0, 2.0])
            assert [len(entry.forward(built)) for _ in range(2)] == [1, 1]
        assert session.report().modules_reused == reused
    with (
        pytest.raises(ValueError, match="caches at cross_attn, and this MotifVideoTransformer3DModel was made without"),
        c4d.cached(without, "pab:attn=2,cross_attn=6"),
    ):
        pass


def test_a_signal_is_what_its_module_returned():
    """To the embedded timestep Bria Fibo adds the guidance, in place."""
    entry = next(entry for entry in EXAMPLES if entry.name == "BriaFiboTransformer2DModel")
    model, x, embedded = entry.build(), rand(*entry.latents), []
    model.time_embed.register_forward_hook(lambda module, args, out: embedded.append(out.clone()))
    with c4d.cached(model, "teacache:threshold=9,coefficients=1/0,signal=time_embedding") as session:
        session.begin([900.0, 700.0])
        for t in (900.0, 700.0):
            entry.run(model, x, t)
    before, now = embedded
    seen = session.trace[1].seen[Signal.TIME_EMBEDDING].ratio
    assert seen == pytest.approx(((now - before).abs().sum() / before.abs().sum()).item())
