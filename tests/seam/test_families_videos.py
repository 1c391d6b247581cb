"""The pipelines of videos, unmodified, around tiny random models: caching in their own loops, with guidance.

Each builder returns the pipeline and a function that makes a request, told apart by ``prompt``.
"""

from __future__ import annotations

import time

import pytest
import torch

import c4d
from c4d.models import spec_for
from tests.denoisers import ENTRIES, rand

STEPS = 6
ENTRY = {entry.name: entry for entry in ENTRIES}


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def seeded(make, *args, **config):
    torch.manual_seed(0)
    return make(*args, **config).eval()


def words(prompt, *names, tokens=6, width=8):
    """Embeddings of ``prompt`` for each of ``names``, and of what is not wanted."""
    made = {}
    for k, name in enumerate(names):
        made[name] = rand(1, tokens, width, seed=ord(prompt) + k)
        made[f"negative_{name}"] = rand(1, tokens, width, seed=20 + k)
    return made


# -- pipelines


def hunyuan_video15():
    """Its guider says which branches there are."""
    from diffusers import (
        AutoencoderKLHunyuanVideo15,
        ClassifierFreeGuidance,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideo15Pipeline,
    )

    vae = seeded(
        AutoencoderKLHunyuanVideo15, latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1,
        spatial_compression_ratio=8, temporal_compression_ratio=4,
    )  # fmt: skip
    pipe = HunyuanVideo15Pipeline(
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, vae=vae,
        transformer=ENTRY["HunyuanVideo15Transformer3DModel"].build(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0), guider=ClassifierFreeGuidance(guidance_scale=3.0),
    )  # fmt: skip

    def request(prompt):
        masks = {f"{which}prompt_embeds_mask{n}": torch.ones(1, 6) for which in ("", "negative_") for n in ("", "_2")}
        masks["negative_prompt_embeds_mask"][:, 3:] = 0
        return dict(**words(prompt, "prompt_embeds", "prompt_embeds_2"), **masks, height=32, width=32, num_frames=5)

    return pipe, request


# -- what they make

PIPELINES = {f.__name__: f for f in (hunyuan_video15,)}
BRANCHES = {
    "hunyuan_video15": {"pred_cond", "pred_uncond"},
}
_BUILT = {}  # name -> pipeline, request, what it makes without a cache


def generate(pipe, asked, seed):
    """What the pipeline returns (a video, and the sound where there is one)."""
    made = pipe(**asked, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(seed), return_dict=False)
    return [torch.as_tensor(each) for each in made if each is not None]


@pytest.fixture(params=PIPELINES)
def family(request):
    """A name, its pipeline, what that makes for a prompt, and without a cache for "a"."""
    name = request.param
    if name not in _BUILT:
        pipe, ask = PIPELINES[name]()
        pipe.set_progress_bar_config(disable=True)

        def answer(prompt):
            return generate(pipe, {"output_type": "pt", **ask(prompt)}, seed=ord(prompt))

        began = time.perf_counter()
        _BUILT[name] = pipe, answer, answer("a")
        print(f"\n{name}: {time.perf_counter() - began:.2f} s for {STEPS} steps")
    return (name, *_BUILT[name])


def equal(one, two):
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_never_skipping_is_exact(family):
    _, pipe, answer, plain = family
    with c4d.cached(pipe, "taylorseer-lite:interval=1") as session:
        assert equal(answer("a"), plain)
    report = session.report()
    assert report.reused == 0 and set(report.timelines.values()) == {"C" * STEPS}
    assert equal(answer("a"), plain)
    assert not equal(answer("b"), plain)


def test_a_whole_forward_method_reuses(family):
    name, pipe, answer, plain = family
    with c4d.cached(pipe, "taylorseer-lite:interval=2") as session:
        cached = answer("a")
        assert session.bytes() == 0
    print(f"\n{name}: {session.report().timelines}")
    assert session.report().timelines == dict.fromkeys(BRANCHES[name], "CrCrCr")
    for one, two in zip(cached, plain, strict=True):
        assert one.shape == two.shape and one.isfinite().all() and not torch.equal(one, two)
    assert equal(answer("a"), plain)


def test_a_second_request_is_not_changed_by_the_first(family):
    _, pipe, answer, _ = family
    with c4d.cached(pipe, "taylorseer-lite:interval=2"):
        first, other, again = answer("a"), answer("b"), answer("a")
    assert equal(first, again) and not equal(first, other)


@pytest.mark.parametrize(
    "method", ["taylorseer-lite:interval=2@blocks", "first-block:threshold=1e9,last=0", "fora:interval=2"]
)
def test_a_block_method(family, method):
    name, pipe, answer, plain = family
    if not spec_for(pipe.transformer).stacks:
        pytest.skip("its blocks are not described")
    with c4d.cached(pipe, method) as session:
        first, other, again = answer("a"), answer("b"), answer("a")
        assert session.bytes() == 0
    report = session.report()
    print(f"\n{name}, {method}: {report.timelines}")
    assert set(report.timelines) == BRANCHES[name] and report.blocks_entered < report.blocks_total
    assert equal(first, again) and not equal(first, other) and not equal(first, plain)
    assert all(each.isfinite().all() for each in first)
    assert equal(answer("a"), plain)
