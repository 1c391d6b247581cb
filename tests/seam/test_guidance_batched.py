"""Rules of guidance on pipelines that put both branches into one batch: half of its rows is spared, the right one."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

import c4d
from c4d.core.runtime.session import Session
from c4d.core.runtime.steps import RunError
from c4d.models import spec_for
from tests.denoisers import ENTRIES, rand
from tests.seam import test_families_images as images
from tests.seam import test_families_videos as videos
from tests.seam.test_guidance import TIMES

STEPS = 6
FREE = {"z_image": 0.0}  # the guidance scale without guidance; 1 of others


def dit():
    """The bundled one: the halves are of a class, and of none."""
    from importlib.resources import files

    from diffusers import DiTPipeline

    pipe = DiTPipeline.from_pretrained(files("c4d") / "bundled/glyph_dit")
    return pipe, lambda seed: {"class_labels": [seed % 5]}


IMAGES = {f.__name__: f for f in (images.z_image, images.sd3, images.sana, images.pixart_sigma, dit)}
VIDEOS = {f.__name__: f for f in (videos.cogvideox, videos.ltx, videos.mochi, videos.latte)}


@pytest.fixture(scope="module", params=[*IMAGES, *VIDEOS])
def asked(request):
    """A pipeline, and what it makes with guidance of a scale."""
    name = request.param
    pipe, make = (IMAGES | VIDEOS)[name]()
    pipe.set_progress_bar_config(disable=True)
    given = make(1) if name in IMAGES else make("a")

    def ask(scale=4.0, **more):
        generator = torch.Generator().manual_seed(3)
        more = {**given, "guidance_scale": scale, "generator": generator, "num_inference_steps": STEPS, **more}
        with torch.no_grad():
            made = pipe(**more, output_type="np" if name == "dit" else "latent", return_dict=False)[0]
        return torch.as_tensor(made)

    return pipe, ask, FREE.get(name, 1.0)


def rows_seen(pipe, ask):
    """What is made, and how many rows of latents each step ran."""
    counts, inner = [], spec_for(pipe.transformer).stacks[0].path
    block = pipe.transformer.get_submodule(inner)[0]
    handle = block.register_forward_pre_hook(
        lambda _, args, kwargs: counts.append((args[0] if args else kwargs["hidden_states"]).shape[0]), with_kwargs=True
    )
    made = ask()
    handle.remove()
    return made, counts


def test_never_sparing_is_exact(asked):
    pipe, ask, _ = asked
    plain = ask()
    with c4d.cached(pipe, "cfg-skip:ratio=0.001") as session:
        assert torch.equal(ask(), plain) and session.bytes() == 0
    report = session.report()
    assert report.timelines == {"cond": "C" * STEPS, "uncond": "C" * STEPS}
    assert report.blocks_entered == report.blocks_total


def test_always_sparing_is_no_guidance_at_half_the_rows(asked):
    pipe, ask, free = asked
    plain, whole = rows_seen(pipe, ask)
    without = ask(free)
    with c4d.cached(pipe, "cfg-skip:ratio=1") as session:
        made, half = rows_seen(pipe, ask)
        assert session.bytes() == 0
    torch.testing.assert_close(made, without, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(made, plain, atol=1e-4)
    assert [2 * n for n in half] == whole
    report = session.report()
    assert report.timelines == {"cond": "C" * STEPS, "uncond": "r" * STEPS}
    assert 2 * report.blocks_entered == report.blocks_total


def test_a_part_of_the_steps(asked):
    pipe, ask, _ = asked
    with c4d.cached(pipe, "cfg-skip:ratio=0.5") as session:
        made, rows = rows_seen(pipe, ask)
    assert session.report().timelines == {"cond": "CCCCCC", "uncond": "CCCrrr"} and made.isfinite().all()
    assert rows[0] == 2 * rows[-1] and 4 * session.report().blocks_entered == 3 * session.report().blocks_total


@pytest.mark.parametrize("asked", ["pixart_sigma", "ltx"], indirect=True)
def test_padded_text_is_that_of_the_rows_that_run(asked):
    """With c4d's attention, which leaves padding out of each row."""
    pipe, ask, _ = asked
    with c4d.cached(pipe, "cfg-skip:ratio=0.5"):
        plain = ask()
    with c4d.attention(pipe), c4d.cached(pipe, "cfg-skip:ratio=0.5") as session:
        torch.testing.assert_close(ask(), plain, atol=1e-4, rtol=1e-4)
    assert session.report().timelines["uncond"] == "CCCrrr"


# -- beside the two calls of another loop


def sd3():
    return next(entry for entry in ENTRIES if entry.name == "SD3Transformer2DModel").build()


def words(samples):
    """Of each sample, and of none."""
    made = [(rand(samples, 7, 12, seed=s), rand(samples, 6, seed=s + 10)) for s in (5, 6)]
    return [dict(encoder_hidden_states=text, pooled_projections=pooled) for text, pooled in made]


def looped(method, batched, samples=2, name="cond_uncond", model=None, times=TIMES, spec=None):
    """What each step returns of both branches, conditional first, and the session."""
    model, (cond, uncond), found = model or sd3(), words(samples), []
    x = rand(samples, 4, 8, 10, seed=3)
    more = {} if spec is None else {"spec": spec}
    with torch.no_grad(), c4d.cached(model, method, **more) as session:
        session.begin(times, [t / 1000 for t in times])
        for t in times:
            if batched:
                joint = {k: torch.cat((uncond[k], cond[k])) for k in cond}
                with model.cache_context(name) if name else nullcontext():
                    out = model(hidden_states=torch.cat((x, x)), timestep=torch.full((2 * samples,), t), **joint)[0]
                b, a = out.chunk(2)
            else:
                pair = []
                for call, given in (("cond", cond), ("uncond", uncond)):
                    with model.cache_context(call):
                        pair.append(model(hidden_states=x, timestep=torch.full((samples,), t), **given)[0])
                a, b = pair
            found.append((a.clone(), b.clone()))
            x = x - 0.1 * (b + 3 * (a - b))
    return found, session


@pytest.mark.parametrize(
    "method",
    [
        "cfg-skip:ratio=0.4",
        "guidance-interval:low=0.3,high=0.8",
        "cfg-cache:interval=3,high=1001",
        "cfg-cache:interval=3,high=1001+taylor:order=1",
        "taylorseer-lite:interval=2+cfg-skip:ratio=0.4",
        "taylorseer-lite:interval=3+cfg-cache:interval=2,high=801@blocks",
        "fora:interval=3+cfg-cache:interval=2,low=300,high=801",
        "easycache:threshold=0.2,warmup=2+cfg-skip:ratio=0.3",
        "first-block:threshold=0.2+guidance-interval:low=0.3,high=0.8",
        "toca:interval=2,ratio=0.5,score=random+cfg-skip:ratio=0.3",
    ],
)
def test_it_is_what_two_calls_give(method):
    wanted, two = looped(method, batched=False)
    found, one = looped(method, batched=True)
    for (a, b), (c, d) in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, c, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(b, d, atol=2e-5, rtol=1e-4)
    assert one.report().timelines == two.report().timelines
    assert any("r" in line for line in one.report().timelines.values())
    ours, theirs = one.report(), two.report()
    assert (ours.blocks_entered, ours.modules_reused) == (theirs.blocks_entered, theirs.modules_reused)
    assert ours.blocks_total == theirs.blocks_total


def test_an_unnamed_batch_is_told_by_its_latents():
    wanted, _ = looped("cfg-skip:ratio=0.4", batched=True)
    found, session = looped("cfg-skip:ratio=0.4", batched=True, name="")
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(found, wanted, strict=True))
    assert session.report().host_reads == 2, "in the first two steps"


# -- what cannot be known


def test_a_model_that_does_not_say_which_half_is_which():
    model = sd3()
    spec = replace(spec_for(model), conditional=None)
    with pytest.raises(RunError, match=r"the spec of this model does not say which one .* conditional='last'"):
        looped("cfg-skip:ratio=0.4", batched=True, model=model, spec=spec)
    with pytest.raises(ValueError, match="has conditional='upper': known are 'first', 'last'"):
        replace(spec, conditional="upper")


def test_the_other_order_is_the_specs_to_say():
    model = sd3()
    turned = replace(spec_for(model), conditional="first")
    found, _ = looped("cfg-skip:ratio=1", batched=True, model=model, spec=turned)
    usual, _ = looped("cfg-skip:ratio=1", batched=True)
    assert torch.equal(found[0][0], found[0][1]) and torch.equal(usual[0][0], usual[0][1])
    assert not torch.allclose(found[0][0], usual[0][0], atol=1e-4)


def alone(name, rows, method="cfg-skip:ratio=1"):
    """One branch, with the latents ``rows(step)``."""
    model, (given, _) = sd3(), words(2)
    with torch.no_grad(), c4d.cached(model, method) as session:
        session.begin(TIMES, [t / 1000 for t in TIMES])
        for i, t in enumerate(TIMES):
            with model.cache_context(name) if name else nullcontext():
                model(hidden_states=rows(i), timestep=torch.full((2,), t), **given)
    return session


def test_a_batch_without_guidance():
    """Its halves are samples: named as both it has nothing to spare, and without a name nobody knows what it is."""
    session = alone("cond_uncond", lambda i: rand(2, 4, 8, 10, seed=i))
    assert session.report().timelines == {"cond_uncond": "C" * len(TIMES)}
    assert "no call was spared" in session.report().why[0]
    with pytest.raises(RunError, match="this one has no name, and is no batch of both"):
        alone("", lambda i: rand(2, 4, 8, 10, seed=i))


def test_samples_of_one_noise_are_no_branches():
    def rows(step):
        x = rand(1, 4, 8, 10, seed=1)
        return torch.cat((x, x + 0.1 * step))

    with pytest.raises(RunError, match="began alike and differ in step 1, so they are samples"):
        alone("cond_uncond", rows)


def test_a_call_that_raises_leaves_nothing():
    model = sd3()
    bad = model.transformer_blocks[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        looped("taylorseer-lite:interval=2+cfg-skip:ratio=0.5", batched=True, model=model)
    bad.remove()
    found, session = looped("cfg-skip:ratio=0.5", batched=True, model=model)
    assert session.report().timelines["uncond"] == "CCCCrrrr" and session.bytes() == 0 and found


def test_several_ranks_share_no_half(monkeypatch):
    monkeypatch.setattr(Session, "alone", property(lambda session: False))
    with pytest.raises(RuntimeError, match="several ranks share all of it: leave that method out"):
        looped("cfg-skip:ratio=0.5", batched=True)
