"""Scores that are read of the self-attention: planted tokens are found, in the order of the modules they are for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import c4d
from c4d.core.caching.selectors import READ
from c4d.core.integration.blocks import bind
from c4d.core.runtime.tokens import lengths, received
from c4d.core.spec import STREAM, TEXT_STREAM
from c4d.models import SPECS, spec_for
from tests.denoisers import ENTRIES
from tests.sampled import sampled
from tests.tiny import CASES, rand


def picking(stack):
    return [
        site
        for kind in ("mlp", "cross_attn")
        for site in stack.sites.get(kind, ())
        if site.by_token and not site.bypasses
    ]


OTHERS = {"HeliosTransformer3DModel", "StableAudio3DiTModel"}  # queries of a part of the tokens; two attentions at once
READABLE = {
    entry.name: entry
    for entry in ENTRIES
    if entry.name in SPECS.keys() - OTHERS
    and any(map(picking, SPECS[entry.name].stacks))
    and all(stack.self_attention for stack in SPECS[entry.name].stacks if picking(stack))
}


def test_how_much_attention_a_token_receives_is_that_of_the_whole_map():
    """Also of a mask of keys, of one of pairs, of one that is added; whatever the number of queries at a time."""
    q, k = rand(2, 7, 3, 5, seed=1), rand(2, 9, 3, 5, seed=2)
    seen = torch.ones(2, 1, 7, 9, dtype=torch.bool)
    seen[0, :, :, 6:], seen[1, :, 2] = False, False  # keys that nobody sees; a query that sees nobody
    for mask in (None, seen[:1, :, :1], seen, rand(2, 3, 7, 9, seed=3)):
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / 5**0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        whole = scores.softmax(-1).nan_to_num(0.0).sum((1, 2))
        for chunk in (1, 2 * 2 * 3 * 9, 1 << 24):
            assert torch.allclose(received(q, k, mask, chunk), whole, atol=1e-5)
    assert torch.allclose(lengths(q)[1, 3], q[1, 3].norm(dim=1).mean())


PLANTED = [2, 9, 12]


def plant(attn, score):
    """Makes three tokens of the image stand out in this attention: by what is asked for alone."""

    def only(module, change):
        module.register_forward_hook(lambda _, args, out: change(out))

    def larger(out):
        out = out.clone()
        out[:, PLANTED] *= 20.0
        return out

    def alike(out):  # all queries look in one direction, in which the planted keys lie
        return torch.ones_like(out)

    def there(out):
        out = -torch.ones_like(out)
        out[:, PLANTED] = 1.0
        return out

    if score == "attention":
        only(attn.to_q, alike)
        only(attn.to_k, there)
    else:
        only(attn.to_k if score == "key" else attn.to_v, larger)


@pytest.mark.parametrize("score", READ)
@pytest.mark.parametrize("method", ["toca:interval=2,ratio={}", "duca:interval=3,ratio={}"])
def test_planted_tokens_are_computed(score, method):
    """Three of sixteen: those that stand out by the score, and by nothing else that could be asked for."""
    case, model = CASES["dit"], CASES["dit"].build()
    plant(model.transformer_blocks[1].attn1, score)
    for other in READ:
        text = f"{method.format(3 / 16)},score={other},stale=0@mlp" if method.startswith("toca") else None
        text = text or f"{method.format(3 / 16)},score={other},stale=0"
        with c4d.attention(model), c4d.cached(model, text) as session:
            session.begin([900.0, 800.0, 700.0])
            for step in range(2):
                case.run(model, rand(*case.latents, seed=3), 900.0 - 100.0 * step)
            rows = session._run.picked["mlp:transformer_blocks.1.ff"][2]
            assert session.report().host_reads == 0 and session.bytes() > 0
        if other == score or score != "key":  # larger keys receive another attention, too
            assert all((sorted(row.tolist()) == PLANTED) == (other == score) for row in rows)


@pytest.mark.parametrize("name", sampled(READABLE, nth=3, complete=False))
def test_a_weight_is_of_the_token_that_has_its_place_in_the_module(name):
    """A token is changed where it comes to the first block. What comes to an MLP changes most at its place, and so does
    what the self-attention weighs, of image and text, whichever stands first in the one and in the other."""
    entry = READABLE[name]
    stack = next(stack for stack in SPECS[name].stacks if picking(stack))
    for stream in (STREAM, TEXT_STREAM):
        model, found = entry.build(), []
        first = model.get_submodule(stack.path)[0]
        sites = [s for s in picking(stack) if stream in s.streams and s in stack.sites.get("mlp", ())]
        if not sites or stream not in stack.takes:
            continue
        changed = []

        def shift(block, args, kwargs, stream=stream, changed=changed):
            x = bind(stack, args, kwargs)[stream]
            if not changed or x.ndim != 3:
                return None
            other = x.clone()
            other[:, -2] += 5.0 * rand(*x[:, -2].shape, seed=7)
            names = stack.takes[: len(args)]
            return tuple(other if n == stream else y for n, y in zip(names, args, strict=False)) + args[len(names) :], {
                n: other if n == stream else y for n, y in kwargs.items()
            }

        first.register_forward_pre_hook(shift, with_kwargs=True)
        seen = {site.output: [] for site in sites}
        for site in sites:
            first.get_submodule(site.output).register_forward_pre_hook(
                lambda _, args, kwargs, site=site, seen=seen: seen[site.output].append(
                    args[0] if args else next(iter(kwargs.values()))
                ),
                with_kwargs=True,
            )
        for _ in range(2):
            with torch.no_grad(), c4d.attention(model), c4d.cached(model, "toca:interval=2,score=value") as session:
                session.begin([2.0, 1.0])
                entry.forward(model)
                found.append(next(iter(session._run.branches.values())).tokens.weights[f"{stack.path}.0"])
            changed.append(True)
        for site in sites:
            weights = [torch.cat([each[s] for s in site.streams], 1) for each in found]
            one, other = seen[site.output]
            assert weights[0].shape == one.shape[:2]
            where = (other - one).norm(dim=2).argmax(1)
            assert torch.equal((weights[1] - weights[0]).abs().argmax(1), where), site.output


def test_branches_in_calls_of_their_own_and_in_one_batch_pick_alike():
    model, case, picked = CASES["wan-t2v"].build(), CASES["wan-t2v"], {}
    with c4d.attention(model), c4d.cached(model, "toca:interval=4,ratio=0.25,score=key") as session:
        session.begin([900.0] * 4)
        for step in range(3):
            for name in ("cond", "uncond"):
                with model.cache_context(name):
                    case.run(model, rand(*case.latents, seed=ord(name[0])), 900.0 - step)
                picked[step, name] = session._run.picked["mlp:blocks.1.ffn"] if step else None
        weights = [branch.tokens.weights["blocks.1"][STREAM] for branch in session._run.branches.values()]
    assert all(torch.equal(picked[s, "cond"][2], picked[s, "uncond"][2]) for s in (1, 2))
    assert not torch.allclose(*weights)  # each by itself would pick others
    dit = CASES["dit"].build()
    with c4d.attention(dit), c4d.cached(dit, "toca:interval=2,ratio=0.25,score=attention,stale=0@mlp") as session:
        session.begin([900.0, 800.0, 700.0])
        one = rand(1, 4, 8, 8, seed=3).expand(2, -1, -1, -1)
        for _ in range(2):
            dit(one, timestep=torch.tensor([900, 900]), class_labels=torch.tensor([1, 3]))
        weights = next(iter(session._run.branches.values())).tokens.weights["transformer_blocks.3"][STREAM]
        rows = session._run.picked["mlp:transformer_blocks.3.ff"][2].sort().values
    assert torch.equal(rows[0], rows[1]) and not torch.allclose(weights[0], weights[1])


def test_where_it_cannot_be_read_it_is_refused():
    case = CASES["wan-t2v"]
    model = case.build()
    for score in READ:
        with c4d.cached(model, f"toca:interval=2,score={score}") as session:
            session.begin([2.0, 1.0])
            with pytest.raises(RuntimeError, match=r"enter c4d.attention\(pipe\).*use score=norm or random"):
                case.run(model, rand(*case.latents), 2.0)
    spec = spec_for(model)
    bare = replace(spec, stacks=tuple(replace(stack, attention={}) for stack in spec.stacks))
    with pytest.raises(
        ValueError, match=r"'blocks' \(Stack\(attention=…\)\): the scores that it knows are norm and random"
    ):
        c4d.cached(model, "toca:interval=2,score=key", spec=bare)
    wrong = replace(
        spec,
        stacks=tuple(
            replace(s, sites={**s.sites, "mlp": tuple(replace(m, streams=(TEXT_STREAM,)) for m in s.sites["mlp"])})
            for s in spec.stacks
        ),
    )
    with c4d.attention(model), c4d.cached(model, "toca:interval=2,score=key@mlp", spec=wrong) as session:
        session.begin([2.0, 1.0])
        case.run(model, rand(*case.latents), 2.0)
        with pytest.raises(RuntimeError, match=r"mlp:blocks.0.ffn has tokens .* of encoder_hidden_states"):
            case.run(model, rand(*case.latents), 1.0)


@pytest.mark.parametrize("score", READ)
def test_what_is_spread_over_ranks_is_of_each_token_alone(score):
    """Keys and values of a rank's own tokens are whole; the attention that they receive is of all ranks' queries."""
    case, model = CASES["wan-t2v"], CASES["wan-t2v"].build()
    with c4d.attention(model) as attention, c4d.cached(model, f"toca:interval=2,score={score}") as session:
        for fitting in attention.fittings:
            for work in fitting.works:
                work.spread = lambda q, k, v, mask, absent, text_first, sees, work=work: work._attend(q, k, v, mask)
        session.begin([2.0, 1.0])
        if score == "attention":
            with pytest.raises(RuntimeError, match="its queries are spread over ranks"):
                case.run(model, rand(*case.latents), 2.0)
        else:
            for _ in range(2):
                case.run(model, rand(*case.latents), 2.0)


def test_heads_that_are_spread_over_ranks_are_refused():
    case, model = CASES["dit"], CASES["dit"].build()
    for block in model.transformer_blocks:
        for name in ("to_q", "to_k", "to_v"):
            getattr(block.attn1, name).register_forward_hook(lambda _, args, out: out[..., : out.shape[-1] // 2])
    with c4d.attention(model), c4d.cached(model, "toca:interval=2,score=key") as session:
        session.begin([2.0, 1.0])
        with pytest.raises(RuntimeError, match="its heads are spread over ranks"):
            case.run(model, rand(*case.latents), 2.0)
