"""Partial steps: which tokens are computed, what becomes of the others, and that a module runs on no other ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import c4d
from c4d.backends import load
from c4d.core.caching.finite_differences import Taylor
from c4d.core.caching.selectors import Clustered, Scored, TokenView
from c4d.core.runtime.history import History, HistoryConfig
from c4d.core.runtime.signals import SingleProcess
from c4d.core.runtime.tokens import alike_in_size, averaged, cells_of, drawn, frames_of, lying, twins
from c4d.core.text.grammar import parse
from c4d.core.types import Step
from c4d.describe.check import by_token
from c4d.models import SPECS, spec_for
from tests.denoisers import ENTRIES
from tests.tiny import CASES, rand

STACKED = [entry for entry in ENTRIES if entry.name in SPECS and SPECS[entry.name].stacks]


@pytest.mark.parametrize("entry", STACKED, ids=lambda entry: entry.name)
def test_modules_that_are_said_to_make_each_token_by_itself_do(entry):
    """Every MLP and cross-attention of the blocks, given every second token backwards; the others say they do not."""
    with torch.no_grad():
        found = by_token(entry.build(), SPECS[entry.name], entry.forward)
    assert not {name: wrong for name, wrong in found.items() if wrong}


def run(case, text, steps=6, hook=None):
    model = case.build()
    if hook is not None:
        hook(model)
    with c4d.cached(model, text) as session:
        outs = case.loop(model, steps, session.begin)
    return outs, session


@pytest.mark.parametrize("name", ["wan-t2v", "flux", "dit"])
def test_between_reuse_and_compute(name):
    """No token is reuse, all of them is compute (of the kinds that are cached), and nothing is read from the device."""
    case = CASES[name]
    none, session = run(case, "toca:interval=3,ratio=0")
    same(none, run(case, "fora:interval=3")[0])
    assert set(session.report().timelines.values()) == {"CppCpp"}
    every, session = run(case, "toca:interval=3,ratio=1@mlp")
    same(every, case.loop(case.build(), 6))
    report = session.report()
    assert report.tokens_computed == report.tokens_total > 0 and report.modules_reused == report.host_reads == 0
    many, session = run(case, "clusca:interval=3,clusters=1000,order=2@mlp")
    same(many, case.loop(case.build(), 6))
    some, session = run(case, "toca:interval=3,ratio=0.5,bonus=0.5")
    assert session.report().host_reads == 0 and not torch.equal(some[-1], none[-1])


def same(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


TEXTS = ("toca:interval=3,ratio=0.4,bonus=0.5", "duca:interval=3,ratio=0.3", "clusca:interval=3,clusters=2")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["wan-t2v", "flux", "dit"])
def test_a_module_runs_on_the_counted_rows_alone(name, text):
    case, seen = CASES[name], []

    def hook(model):
        for path, module in model.named_modules():
            if path.endswith((".net.0.proj", "attn2.to_q")) and "blocks" in path and "embedder" not in path:
                module.register_forward_hook(lambda _, args, out: seen.append(args[0].shape[0] * args[0].shape[1]))

    _, session = run(case, text, hook=hook)
    report = session.report()
    if text.startswith("clusca") and name == "wan-t2v":  # whose cross-attention is forecast whole
        assert sum(seen) > report.tokens_computed
        return
    assert sum(seen) == report.tokens_computed < report.tokens_total
    letters = [entry.did for entry in session.trace if entry.step.branch == "cond"]
    assert "".join(letters) == ("CprCpr" if text.startswith("duca") else "CppCpp")


def test_both_branches_of_guidance_compute_the_same_tokens():
    """Of two calls the second takes what the first picked; in one batch rows of one sample pick alike, others not."""
    model, picked = CASES["wan-t2v"].build(), {}
    with c4d.cached(model, "toca:interval=4,ratio=0.25") as session:
        session.begin([900.0] * 4)
        for step in range(3):
            for name in ("cond", "uncond"):
                with model.cache_context(name):
                    CASES["wan-t2v"].run(model, rand(*CASES["wan-t2v"].latents, seed=ord(name[0])), 900.0 - step)
                picked[step, name] = session._run.picked["mlp:blocks.1.ffn"] if step else None
    assert all(torch.equal(picked[s, "cond"][2], picked[s, "uncond"][2]) for s in (1, 2))
    latents = torch.stack([rand(4, 3, seed=1), rand(4, 3, seed=2)] * 2)
    score = rand(4, 5, seed=3)
    made = averaged(score, twins([latents]))
    assert torch.allclose(made[0], (score[0] + score[2]) / 2) and torch.allclose(made[3], (score[1] + score[3]) / 2)
    frames = averaged(rand(8, 5, seed=4), twins([latents]))  # of each row two frames
    assert torch.allclose(frames[1], frames[5]) and not torch.allclose(frames[0], frames[1])


def view(feature, since=None, **more):
    B, S = feature.shape[:2]
    since = torch.zeros(B, S) if since is None else since
    given = {"cells": None, "labels": None, "weight": None, "frames": [torch.arange(S)[None]], **more}
    return TokenView(
        feature, since, Step(1, 8, "cond"), 0.5, draw=lambda n: drawn(n, 1, "a", "cpu"), alike=lambda x: x, **given
    )


def test_the_score_finds_planted_tokens():
    """Strong ones; with staleness those that waited; with the bonus the best of every cell before the second of any."""
    feature = 0.1 * rand(2, 48, 8)
    planted = torch.tensor([[3, 17, 40], [5, 6, 11]])
    feature.scatter_(1, planted[..., None].expand(-1, -1, 8), 5.0)
    rows = Scored(0.1, 4).select(view(feature), 3)
    assert torch.equal(rows.sort().values, planted)
    since = torch.ones(2, 48).scatter(1, 47 - planted, 4.0)
    rows = Scored(0.1, 4, stale=10.0).select(view(feature, since), 3)
    assert torch.equal(rows.sort().values, (47 - planted).sort().values)
    cells = cells_of(((3, 4, 4),), 2)
    rows = Scored(0.1, 4, bonus=1e3).select(view(feature, cells=cells), 12)
    assert all(torch.equal(cells[row].sort().values, torch.arange(1, 13)) for row in rows)
    draws = [Scored(0.5, 4, "random", stale=0.0).select(view(feature), 24).sort().values for _ in range(2)]
    assert (
        torch.equal(*draws) and torch.equal(draws[0][0], draws[0][1]) and not torch.equal(draws[0][0], torch.arange(24))
    )


def test_how_many_tokens():
    """By the definition: FLUX's fall over the layers, DiT's over the steps; never less than none or more than all."""
    flux = Scored(0.04, 4, over_layers=-0.5)
    assert [flux.count(1000, Step(3, 50, ""), depth) for depth in (0.0, 0.5, 1.0)] == [60, 40, 20]
    dit = Scored(0.2, 4, over_steps=2.0)
    assert [dit.count(100, Step(step, 50, ""), 0.5) for step in (0, 25, 49)] == [60, 20, 0]
    assert Scored(0.9, 4, over_steps=2.0).count(100, Step(0, 50, ""), 0.5) == 100


def test_cells_lie_in_frames_and_text_in_none():
    cells = cells_of(((2, 3, 4), (5,)), 2)
    assert cells[:12].tolist() == [1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4] and cells[12] == 5
    assert cells[24:].tolist() == [9, 9, 10, 10, 11]
    image, text = "hidden_states", "encoder_hidden_states"
    assert lying(cells, 31, (image,), "last").tolist() == lying(cells, 31, (text, image), None).tolist()
    assert lying(cells, 31, (image,), "last").tolist() == [0, 0, *cells.tolist()]
    assert lying(cells, 31, (image,), "first").tolist() == [*cells.tolist(), 0, 0]
    assert not lying(cells, 7, (image,), None).any() and not lying(cells, 29, (text,), None).any()


@pytest.mark.parametrize("at_anchor", [False, True])
def test_clusters_of_equal_tokens_are_exact(at_anchor):
    """K-means finds them; one of each is computed, and with the whole share all others are as if they had been."""
    kinds = torch.tensor([[0, 1, 2, 0, 1, 2, 2, 2, 0, 0], [2, 2, 2, 1, 0, 0, 1, 1, 1, 0]])
    values = 3.0 * rand(2, 3, 6, seed=1)
    x = values.gather(1, kinds[..., None].expand(-1, -1, 6))
    select = Clustered(6, 1.0, at_anchor=at_anchor)
    whole = [torch.arange(10)[None]]
    known = select.grouped(x, None, lambda n: drawn(n, 0, "a", "cpu"), whole)
    centroids, labels = known
    assert torch.allclose(centroids.gather(1, labels[..., None].expand(-1, -1, 6)), x, atol=1e-5)
    rows = select.select(view(x, labels=labels), 6)
    fresh = torch.tanh(x.gather(1, rows[..., None].expand(-1, -1, 6)))
    assert torch.allclose(select.spread(torch.zeros_like(x), rows, fresh, known), torch.tanh(x), atol=1e-5)
    again, _ = select.grouped(x, known, None, whole)  # begins where it ended
    assert torch.equal(again, centroids)


def test_clusters_of_frames_never_mix_them():
    """Frames of equal and of other sizes, whose tokens are alike: each is clustered as if it were alone, text too."""
    grid, K = ((2, 2, 3), (1, 2, 2)), 2
    numbers = lying(frames_of(grid), 19, ("encoder_hidden_states", "hidden_states"), None)
    assert numbers.tolist() == [0] * 3 + [1] * 6 + [2] * 6 + [3] * 4
    frames = alike_in_size(numbers)
    assert sorted(tuple(each.shape) for each in frames) == [(1, 3), (1, 4), (2, 6)]
    assert frames_of(((4, 5), (7,))).tolist() == [1] * 20 + [2] * 7
    x, select = rand(2, 19, 5, seed=1), Clustered(K, 1.0, by_frame=True)
    x[:, 9:15] = x[:, 3:9]
    draws = drawn(4 * K, 0, "a", "cpu")
    centroids, labels = known = select.grouped(x, None, lambda n: draws[:n], frames)
    assert centroids.shape == (2, 4 * K, 5)
    done = 0
    for each in frames:
        for places in each:
            alone = select.grouped(
                x[:, places], None, lambda n, d=done: draws[d * K : d * K + n], [torch.arange(len(places))[None]]
            )
            assert torch.equal(labels[:, places], alone.labels + done * K)
            assert torch.allclose(centroids[:, done * K : (done + 1) * K], alone.centroids, atol=1e-6)
            done += 1
    together = Clustered(K, 1.0).grouped(x, None, lambda n: draws[:n], [torch.arange(19)[None]])
    assert torch.equal(together.labels[:, 3:9], together.labels[:, 9:15])
    rows = select.select(view(x, labels=labels, frames=frames), 4 * K)
    assert all(sorted(numbers[row].tolist()) == [0, 0, 1, 1, 2, 2, 3, 3] for row in rows)
    fresh = torch.zeros(2, 4 * K, 5)
    fresh[numbers[rows] == 2] = 1.0  # what is found in a frame moves no other
    made = select.spread(torch.zeros_like(x), rows, fresh, known)
    assert (made[:, numbers == 2] == 1.0).all() and not made[:, numbers != 2].any()


def test_each_frame_of_a_video_has_clusters_of_its_own():
    case, model = CASES["wan-t2v"], CASES["wan-t2v"].build()
    counts = {}
    for frames in ("together", "each"):
        with c4d.cached(model, f"clusca:interval=3,clusters=3,frames={frames}") as session:
            session.begin([900.0, 800.0, 700.0])
            for step in range(2):
                case.run(model, rand(*case.latents, seed=step), 900.0 - 100.0 * step)
            labels = next(iter(session._run.branches.values())).tokens.clusters["blocks.ffn"].labels
            counts[frames] = session.report().tokens_computed - session.report().tokens_total // 2
            assert session.report().host_reads == 0
        frame = torch.arange(labels.shape[1]) // (labels.shape[1] // case.latents[2])
        assert (labels // 3 == frame).all() == (frames == "each")
    assert counts["each"] == case.latents[2] * counts["together"] > counts["together"]


@pytest.mark.parametrize("correct", ["forecast", "published"])
def test_a_computed_token_is_what_its_module_makes_of_it(correct):
    """Not so in the published form: to the computed value it adds what the forecast says has changed since."""
    case, outs = CASES["wan-t2v"], []
    model = case.build()
    ffn = model.blocks[2].ffn
    ffn.net[2].register_forward_hook(lambda _, args, out: outs.append(("fresh", out.clone())))
    ffn.register_forward_hook(lambda _, args, out: outs.append(("all", out.clone())))
    with c4d.cached(model, f"clusca:interval=4,clusters=2,share=0,warmup=2,correct={correct}") as session:
        case.loop(model, 4, session.begin, guided=False)
    fresh, everything = (next(x for kind, x in reversed(outs) if kind == wanted) for wanted in ("fresh", "all"))
    assert fresh.shape[1] == 2
    hits = (everything[:, :, None] - fresh[:, None]).abs().amax(-1).amin(1) <= 1e-5
    assert hits.all() == (correct == "forecast")


def test_one_request_leaves_no_trace_in_the_next():
    case = CASES["dit"]
    for text in TEXTS:
        model = case.build()
        with c4d.cached(model, text) as session:
            first = case.loop(model, 6, session.begin)
            assert session.bytes() == 0
            same(first, case.loop(model, 6, session.begin))


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="inside the blocks, not blocks"):
        parse("toca:interval=3@blocks")
    with pytest.raises(ValueError, match="no place in it"):
        parse("toca:interval=3+foca")
    with pytest.raises(ValueError, match="ratio must be a number from 0"):
        parse("toca:interval=3,ratio=2")
    with pytest.raises(ValueError, match="unknown score 'entropy': known are norm, random, key, value"):
        parse("toca:interval=3,score=entropy")
    model = CASES["wan-t2v"].build()
    without = replace(spec_for(model), grid=None)
    with pytest.raises(ValueError, match="use bonus=0"):
        c4d.cached(model, "toca:interval=3,bonus=0.5", spec=without)
    with pytest.raises(ValueError, match="use frames=together"):
        c4d.cached(model, "clusca:interval=3,frames=each", spec=without)
    with pytest.raises(ValueError, match="unknown frames 'all': known are together, each"):
        parse("clusca:interval=3,frames=all")


def test_what_was_computed_stays_and_what_waited_is_next():
    """A token that a step computed and the next one not is reused as it was; with staleness the next takes others."""
    case, outs, rows = CASES["wan-t2v"], [], []
    model = case.build()
    model.blocks[1].ffn.register_forward_hook(lambda _, args, out: outs.append(out.clone()))
    with c4d.cached(model, "toca:interval=4,ratio=0.25,stale=1e6") as session:
        session.begin([900.0, 800.0, 700.0, 600.0])
        for step in range(3):
            case.run(model, rand(*case.latents, seed=step), 900.0 - 100.0 * step)
            rows.append(set(session._run.picked["mlp:blocks.1.ffn"][2][0].tolist()) if step else set())
    assert len(rows[1]) == len(rows[2]) == round(outs[0].shape[1] / 4) and not rows[1] & rows[2]
    others = sorted(set(range(outs[0].shape[1])) - rows[1] - rows[2])
    first, second = sorted(rows[1]), sorted(rows[2])
    assert torch.equal(outs[2][:, first], outs[1][:, first]) and not torch.equal(outs[1][:, first], outs[0][:, first])
    assert torch.equal(outs[2][:, others], outs[0][:, others])
    assert not torch.equal(outs[2][:, second], outs[0][:, second])


def test_later_forecasts_move_by_what_a_token_was_off():
    history = History(2, HistoryConfig(), load("cpu"))
    for time, seed in ((0.0, 1), (2.0, 2)):
        history.push(time, [rand(1, 4, 3, seed=seed)])

    def forecast(t):
        weights = Taylor(1).weights(history.times, t)
        return sum(weight * x for weight, x in zip(weights, history.features(0), strict=True))

    off, before, later = rand(1, 4, 3, seed=3), forecast(3.0), forecast(4.0)
    history.renew(0, before + off, before)
    assert torch.allclose(forecast(3.0), before + off, atol=1e-5)
    assert torch.allclose(forecast(4.0), later + off, atol=1e-5)


def test_branches_on_ranks_of_their_own_could_not_pick_alike():
    """Refused when the session begins; those that pick by chance draw the same numbers anywhere."""

    class Apart(SingleProcess):
        branches_apart = True

    model = CASES["wan-t2v"].build()
    with pytest.raises(RuntimeError, match="use cfg=1, or score=random"), c4d.cached(model, TEXTS[0], ranks=Apart()):
        pass
    for text in ("toca:interval=3,score=random", *TEXTS[1:]):
        with c4d.cached(model, text, ranks=Apart()) as session:
            CASES["wan-t2v"].loop(model, 3, session.begin)
