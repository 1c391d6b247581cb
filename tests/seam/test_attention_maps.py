"""Maps of attention: those of the whole map that the stock processor would make, of a model that does not notice."""

from __future__ import annotations

import copy
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import c4d
from c4d.core.attention import AttentionRuntime, Processor, watching
from c4d.inspection.layers import Shown
from c4d.inspection.mass import Groups, attention_mass
from c4d.inspection.tokens import Lying, Seen, measured
from c4d.models import SPECS
from tests.denoisers import lively
from tests.pipes import two_experts, wan_tiny
from tests.sampled import sampled
from tests.seam.test_described_attention import FAMILIES, VARIANTS
from tests.subjects import SUBJECTS
from tests.tiny import CASES, rand, text

WAN = CASES["wan-t2v"]


def whole(q, k, mask=None, scale=None):
    """[H, Sq, Sk] fp64 of q [Sq, H, D] and k [Sk, H, D]; 0 for a query that sees no key."""
    scores = torch.einsum("qhd,khd->hqk", q.double(), k.double()) * (scale or q.shape[-1] ** -0.5)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1).nan_to_num(0.0)


def grouped(probabilities, queries, keys):
    """[H, G, G'] of labels: sums over keys, means over queries."""
    rows = [probabilities[:, queries == g].mean(1) for g in range(int(queries.max()) + 1)]
    return torch.stack(
        [torch.stack([row[:, keys == g].sum(1) for g in range(int(keys.max()) + 1)], 1) for row in rows], 1
    )


# -- one attention


def test_the_mass_of_groups_is_that_of_the_whole_map():
    """Whatever the mask, the groups and the size of what is made at a time; tokens in no group count as keys."""
    q, k = rand(7, 3, 5, seed=1) * 3, rand(9, 3, 5, seed=2) * 3
    of_q, of_k = torch.tensor([0, 0, 1, -1, 1, 3, 0]), torch.tensor([1, 0, 0, 2, -1, 2, 1, 1, 0])
    pairs = torch.rand(3, 7, 9, generator=torch.Generator().manual_seed(0)) > 0.4
    pairs[:, 2] = False  # a query that sees nobody
    keys = torch.ones(1, 1, 9, dtype=torch.bool)
    keys[..., :4] = False  # at first all keys of a block are masked
    for mask in (None, keys, pairs, rand(1, 7, 9, seed=3), rand(3, 1, 9, seed=4)):
        expected = grouped(whole(q, k, mask), of_q, of_k)
        for chunk_bytes in (4 * 5, 4 * 64, 64 << 20):
            found = attention_mass(q, k, Groups(of_q, 4), Groups(of_k, 3), mask, chunk_bytes=chunk_bytes)
            torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0, equal_nan=True)
        assert found[:, 2].isnan().all()  # a group without tokens
    with pytest.raises(ValueError, match="19 bytes have no room for one query of one head, 20"):
        attention_mass(q, k, Groups(of_q, 4), Groups(of_k, 3), chunk_bytes=19)


def test_it_is_computed_in_full_precision_whatever_is_around_it():
    q, k, labels = rand(6, 2, 8, seed=1).bfloat16(), rand(6, 2, 8, seed=2).bfloat16(), torch.arange(6) // 2
    with torch.autocast("cpu", torch.bfloat16):
        found = attention_mass(q, k, Groups(labels, 3), Groups(labels, 3))
    torch.testing.assert_close(found.double(), grouped(whole(q, k), labels, labels), atol=1e-6, rtol=0)


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that anything makes, views of others left out."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and not func.is_view:
                self.bytes = max(self.bytes, x.nbytes)
        return out


def test_a_long_sequence_needs_no_more_memory():
    """2000 tokens beside text: no tensor is larger than it may be, where the whole map would have 8 million numbers."""
    tokens, text, chunk_bytes = 2000, 64, 256 << 10
    q, k = rand(tokens + text, 2, 8, seed=1), rand(tokens + text, 2, 8, seed=2)
    place = SimpleNamespace(
        crosses=False, spec=SPECS["HunyuanVideoTransformer3DModel"], stack=SimpleNamespace(joined=None)
    )
    lying = Lying(torch.arange(tokens) // 200, ((10, 10, 20),))
    with Largest() as largest:
        found = measured(place, Seen(q, k, None, False), lying, chunk_bytes)
    results = max(x.nbytes for x in found.values())
    labels = 8 * (tokens + text)
    assert chunk_bytes / 4 < largest.bytes <= chunk_bytes and max(results, labels) < chunk_bytes
    assert {name: x.shape for name, x in found.items()} == {
        "groups": (2, 10, 10), "text": (2, 10, 64), "from_text": (2, 64, 10)
    }  # fmt: skip
    sums = found["groups"].sum(-1) + found["text"].sum(-1)
    torch.testing.assert_close(sums, torch.ones(2, 10), atol=1e-5, rtol=0)
    with Largest() as largest:  # each key in a group of its own, which takes more than the scores
        attention_mass(
            q[:300],
            k,
            Groups(torch.zeros(300).long(), 1),
            Groups(torch.arange(len(k)), len(k)),
            chunk_bytes=chunk_bytes,
        )
    assert chunk_bytes / 4 < largest.bytes <= chunk_bytes


def test_keys_of_earlier_calls_are_grouped_by_frame_as_they_are_kept():
    """As in a rollout with a cache of keys: two frames attend to three; other groups of such keys nobody knows."""
    q, k = rand(8, 2, 6, seed=1), rand(12, 2, 6, seed=2)
    place = SimpleNamespace(
        name="blocks.0.attn1", crosses=False, spec=SPECS["WanTransformer3DModel"],
        stack=SimpleNamespace(joined=None), cls=SimpleNamespace(kind="self-attention"),
    )  # fmt: skip
    seen, grid = Seen(q, k, None, False), ((2, 2, 2),)
    (found,) = measured(place, seen, Lying(torch.arange(8) // 4, grid), 1 << 20).values()
    expected = grouped(whole(q, k), torch.arange(8) // 4, torch.arange(12) // 4)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"blocks.0.attn1 of WanTransformer3DModel attends with 8 queries to 12 keys"):
        measured(place, seen, Lying(torch.arange(8) % 2, grid), 1 << 20)


# -- a model


class Stock(TorchFunctionMode):
    """What comes to torch's attention inside some modules: q and k of the first sample [S, H, D], mask and scale."""

    def __init__(self, modules):
        super().__init__()
        self.found = {name: [] for name in modules}
        self._name, self._handles = None, []
        for name, module in modules.items():
            self._handles += [
                module.register_forward_pre_hook(lambda *_, name=name: setattr(self, "_name", name)),
                module.register_forward_hook(lambda *_: setattr(self, "_name", None)),
            ]

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention and self._name:
            kept = kwargs or {}
            q, k = [*args, *(kept.get(name) for name in ("query", "key")[len(args) :])][:2]
            mask = args[3] if len(args) > 3 else kept.get("attn_mask")
            mask = None if mask is None else mask[(None,) * (4 - mask.ndim)][0]
            self.found[self._name].append((q[0].transpose(0, 1), k[0].transpose(0, 1), mask, kept.get("scale")))
        return func(*args, **(kwargs or {}))

    def __exit__(self, *exc):
        for handle in self._handles:
            handle.remove()
        return super().__exit__(*exc)


# Of a model: frames, tokens of a frame, and whether the stock processor has the text first (None: no text beside them).
KNOWN = {
    "wan-t2v": (2, 64, None),
    "wan-i2v": (2, 64, None),
    "hunyuan-t2v": (2, 16, False),
    "hunyuan-image-two-texts": (1, 20, False),
    "flux": (1, 20, True),
    "qwen": (1, 20, True),
    "qwen-masked": (1, 20, True),
    "dit": (1, 16, None),
}
OTHERS = {
    "SD3Transformer2DModel": (1, 16, False),
    "AuraFlowTransformer2DModel": (1, 16, True),
    "CogView 4": (1, 16, True),
    "PixArt": (1, 16, None),
    "Lumina-Next, proportional attention": (1, 16, None),
    "Cosmos 2.5, a given image": (3, None, None),
    "Mochi, prompts of two lengths": (2, 16, False),
    "HunyuanVideo15Transformer3DModel": (3, 16, False),
    "PRX": (1, 16, True),
}


def forward(name):
    """A model, and a call of it."""
    if name in KNOWN:
        case, model = CASES[name], CASES[name].build()
        return model, lambda: case.run(model, rand(*case.latents, seed=3), 500.0)
    entry = {**FAMILIES, **VARIANTS}[name]
    model = lively(entry)
    return model, lambda: entry.forward(model)


def told(layer, part, error):
    return f"{layer}, {part}: {error}"


def expected(q, k, mask, scale, frames, tokens, text_first):
    """Of an attention of the stock processor: arrays by name, of frames of so many tokens."""
    tokens = tokens or len(q) // frames
    probabilities, n = whole(q, k, mask, scale), frames * tokens
    labels = torch.arange(n) // tokens
    seen = torch.ones(len(k), dtype=torch.bool)
    if mask is not None and mask.dtype == torch.bool:
        seen = mask.flatten(0, 1).any(0).expand(len(k))
    if text_first is None or len(k) == n:
        if len(q) == len(k):
            return {"groups": grouped(probabilities, labels, labels)}
        return {"text": grouped(probabilities, labels, torch.where(seen, seen.cumsum(0) - 1, -1))}
    extra = len(k) - n
    image = slice(extra, None) if text_first else slice(n)
    said = slice(extra) if text_first else slice(n, None)
    words = torch.where(seen[said], seen[said].cumsum(0) - 1, -1)
    rows = probabilities[:, image] if len(q) > n else probabilities
    found = {"groups": grouped(rows[:, :, image], labels, labels), "text": grouped(rows[:, :, said], labels, words)}
    if len(q) > n:
        found["from_text"] = grouped(probabilities[:, said][:, :, image], words, labels)
    return found


@pytest.mark.parametrize("name", [*KNOWN, *OTHERS])
def test_maps_are_those_of_what_the_model_computes(name):
    """Self-attention, attention to text and to given images, and to both at once; under masks of all kinds."""
    model, call = forward(name)
    frames, tokens, text_first = {**KNOWN, **OTHERS}[name]
    with c4d.attention_maps(model) as maps:
        maps.begin([2.0])
        call()
    with Stock({layer: model.get_submodule(layer) for layer in maps.layers}) as stock:
        call()
    assert any(stock.found.values())
    for layer, calls in stock.found.items():
        own, found = {}, maps[layer].arrays()
        if name.startswith("Mochi"):
            calls = calls[:1]  # it attends sample by sample
        for each in sorted(calls, key=lambda call: name == "wan-i2v" and len(call[1]) == 5):  # to the image last
            made = expected(*each, frames, tokens, text_first)
            own.update({"given": made["text"]} if "text" in own else made)
        assert found.keys() == own.keys(), layer
        for part, x in found.items():
            torch.testing.assert_close(x.double(), own[part], atol=2e-6, rtol=0, msg=partial(told, layer, part))
        if {"groups", "text"} & found.keys():
            rows = sum(x.sum(-1) for part, x in found.items() if part in ("groups", "text"))
            torch.testing.assert_close(rows, torch.ones_like(rows), atol=1e-5, rtol=0)


GRIDS = {name: entry for name, entry in FAMILIES.items() if SPECS[entry.name].grid is not None}


@pytest.mark.parametrize("name", sampled(GRIDS, nth=4, complete=False))
def test_the_model_does_not_notice(name):
    """Its output is bit for bit the same, and afterwards it is what it was."""
    model, call = forward(name)
    plain, before = tree_leaves(call()), state(model)
    with c4d.attention_maps(model) as maps:
        maps.begin([2.0, 1.0])
        made = tree_leaves(call())
        assert not any(isinstance(getattr(m, "processor", None), Shown) for m in copy.deepcopy(model).modules())
        assert maps.maps() and any(isinstance(getattr(m, "processor", None), Shown) for m in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(plain, made, strict=True) if isinstance(a, torch.Tensor))
    assert state(model) == before


def state(model):
    """Every module's class, processor, hooks and attributes."""
    return [
        (path, type(m), id(getattr(m, "processor", None)), len(m._forward_pre_hooks), len(m._forward_hooks), {*vars(m)})
        for path, m in model.named_modules()
    ]


# -- beside the rest of c4d


@pytest.mark.parametrize("name", ["wan-t2v", "hunyuan-t2v"])
def test_beside_a_kernel_by_name_maps_are_the_same(name):
    """Whose result is what it is without maps, and who still says that every attention goes through it."""
    case, model = CASES[name], CASES[name].build()
    with c4d.attention_maps(model, steps=[0]) as alone:
        alone.begin([4.0, 3.0])
        case.run(model, rand(*case.latents, seed=3), 4.0)
    with c4d.attention(model, "sdpa") as attention:
        plain = case.run(model, rand(*case.latents, seed=3), 4.0)
        with c4d.attention_maps(model, steps=[0]) as maps:
            maps.begin([4.0, 3.0])
            assert torch.equal(case.run(model, rand(*case.latents, seed=3), 4.0), plain)
            assert not any(isinstance(getattr(m, "processor", None), Shown) for m in model.modules())
        assert all("another processor" not in line for line in attention.lines())
        assert all(work.watch is None for fitting in attention.fittings for work in fitting.works)
    for made, other in zip(maps.maps(), alone.maps(), strict=True):
        assert made.arrays().keys() == other.arrays().keys()
        for part, x in made.arrays().items():
            torch.testing.assert_close(x, other.arrays()[part], atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("method", "layer", "made", "left"),
    [
        ("taylorseer-lite:interval=2", "blocks.0.attn1", (0, 2), [1, 3]),
        ("taylorseer-lite:interval=2@blocks", "blocks.0.attn2", (0, 2), [1, 3]),
        ("fora:interval=2", "blocks.1.attn1", (0, 2), [1, 3]),
        ("first-block:threshold=1e9,last=0", "blocks.0.attn1", (0, 1, 2, 3), []),
        ("first-block:threshold=1e9,last=0", "blocks.1.attn1", (0,), [1, 2, 3]),
    ],
)
def test_a_step_that_is_forecast_has_no_map_and_says_so(method, layer, made, left):
    model = WAN.build()
    with c4d.cached(model, method) as session:
        plain = WAN.loop(model, 4, session.begin)
    with c4d.cached(model, method) as session, c4d.attention_maps(model, keep="steps") as maps:
        assert all(map(torch.equal, WAN.loop(model, 4, session.begin), plain))
    assert maps[layer].steps == made and [step for name, step in maps.missing if name == layer] == left
    (line,) = [line for line in maps.lines() if line.startswith(layer)]
    assert (f"{session.method.name} did not compute it" in line) == bool(left)
    for step in left:
        with pytest.raises(KeyError, match=f"{layer} has no map of step {step}: .* did not compute it"):
            maps[layer, step]


def test_a_step_that_computes_some_tokens_has_no_map_and_says_so():
    """And a method that reads scores of the same attention sees what it saw."""
    model, text = WAN.build(), "toca:interval=2,ratio=0.25,score=attention"
    with c4d.attention(model):
        with c4d.cached(model, text) as session:
            plain = WAN.loop(model, 4, session.begin)
        with c4d.cached(model, text) as session, c4d.attention_maps(model, "*.attn2") as maps:
            assert all(map(torch.equal, WAN.loop(model, 4, session.begin), plain))
        with c4d.cached(model, text) as session, c4d.attention_maps(model, "*.attn1") as own:
            assert all(map(torch.equal, WAN.loop(model, 4, session.begin), plain))
    assert maps["blocks.0.attn2"].steps == (0, 2)
    assert maps.missing["blocks.0.attn2", 1] == f"{session.method.name} computed some of its tokens"
    assert own["blocks.0.attn1"].steps == (0, 2)


def test_of_a_batch_the_asked_sample_of_the_asked_branch_is_shown():
    """Both branches in one batch, of which the first half is the conditional one; each alone gives the same map."""
    model, one = CASES["dit"].build(), rand(2, 4, 8, 8, seed=3)
    classes, time = torch.tensor([1, 5, 7, 9]), torch.tensor([900] * 4)

    def map_of(latents, classes, **how):
        with c4d.attention_maps(model, 0, groups="rows", **how) as maps:
            maps.begin([900.0])
            model(latents, timestep=time[: len(latents)], class_labels=classes)
        return maps.maps()[0].groups

    both = torch.cat((one, one))
    for branch, sample, row in (("cond", 0, 0), ("cond", 1, 1), ("uncond", 0, 2), ("uncond", 1, 3)):
        alone = map_of(both[row : row + 1], classes[row : row + 1])
        found = map_of(both, classes, branch=branch, sample=sample)
        torch.testing.assert_close(found, alone, atol=1e-6, rtol=0)
    assert not torch.allclose(map_of(both, classes), map_of(both, classes, branch="uncond"), atol=1e-4)
    with pytest.raises(ValueError, match="sample=2 of a batch of 2: give 0 to 1"):
        map_of(both, classes, sample=2)


def test_of_a_batch_each_sample_has_its_own_mask():
    case, model = CASES["hunyuan-t2v"], CASES["hunyuan-t2v"].build()
    more = dict(pooled_projections=rand(2, 8, seed=2), guidance=torch.tensor([6000.0] * 2))
    words = text(12, 5)

    def map_of(rows, sample):
        given = {name: x[rows] for name, x in {**words, **more}.items()}
        with c4d.attention_maps(model, 0, sample=sample) as maps:
            maps.begin([9.0])
            model(rand(2, *case.latents[1:], seed=3)[rows], torch.tensor([9.0] * 2)[rows], **given)
        return maps.maps()[0]

    for row, length in enumerate((12, 5)):
        found, alone = map_of(slice(None), row), map_of(slice(row, row + 1), 0)
        assert found.text.shape[-1] == length
        torch.testing.assert_close(found.arrays(), alone.arrays(), atol=2e-6, rtol=0)


def test_several_look_at_the_same_attention():
    """Who looked before goes on looking afterwards; maps of both branches are made in one run."""
    seen, model = [], WAN.build()
    work = AttentionRuntime(c4d.Reference(), "auto")
    looks = [lambda *_, name=name: seen.append(name) for name in "ab"]
    q = rand(1, 4, 2, 8)
    with watching(work, looks[0]):
        with watching(work, looks[1]):
            work.attend(q, q, q, None)
        work.attend(q, q, q, None)
    work.attend(q, q, q, None)
    assert seen == ["a", "b", "a"]
    with c4d.attention_maps(model, 0) as cond, c4d.attention_maps(model, 0, branch="uncond") as uncond:
        WAN.loop(model, 2, cond.begin)
    assert [(each.branch, each.steps) for each in (*cond.maps(), *uncond.maps())] == [
        *[("cond", (0, 1))] * 2, *[("uncond", (0, 1))] * 2
    ]  # fmt: skip
    assert not torch.equal(cond["blocks.0.attn1"].groups, uncond["blocks.0.attn1"].groups)


def test_a_rollout_shows_each_block_over_the_frames_that_are_kept():
    pipe, sent = wan_tiny(), []
    rollout = c4d.rollout(pipe, block=2, steps=(1000, 500), window=4, height=32, width=32, text=16)

    def clip():
        return torch.cat(list(rollout("a dot", frames=21, generator=torch.Generator().manual_seed(0))), 1)

    with c4d.attention(pipe):
        plain = clip()
        with c4d.attention_maps(pipe, "blocks.0.attn1", keep=sent.append):
            assert torch.equal(clip(), plain)
    assert [(each.run, each.steps, each.groups.shape[1:]) for each in sent] == [
        (run, (step,), (2, 2 if run == 0 else 4)) for run in range(3) for step in range(2)
    ]
    for each in sent:
        torch.testing.assert_close(each.groups.sum(-1), torch.ones(each.groups.shape[:2]), atol=1e-5, rtol=0)
    with c4d.attention_maps(pipe, 0), pytest.raises(RuntimeError, match=r"c4d.attention_maps is entered last"):
        clip()


def test_samples_that_decide_for_themselves_are_told_apart():
    """Rows that are not computed are not in what an attention gets; a map is of the sample's own row or none."""
    model, case = WAN.build(), WAN
    still, moving, found = rand(*case.latents, seed=3), rand(*case.latents, seed=4), {}
    for rows, sample in (((0, 1, 2), 0), ((0, 1, 2), 1), ((1,), 0)):
        with (
            c4d.cached(model, "first-block:threshold=0.1,last=0,max_skips=9") as session,
            c4d.attention_maps(model, "blocks.3.attn1", sample=sample, keep="steps") as maps,
        ):
            session.begin([900.0, 800.0, 700.0])
            for k in range(3):
                moved = moving + 0.5 * k * rand(*case.latents, seed=5)
                x = torch.cat([(still, moved, 2 * moved)[row] for row in rows])
                words = case.inputs()["encoder_hidden_states"].expand(len(x), -1, -1)
                model(x, timestep=torch.full((len(x),), 900.0 - 100 * k), encoder_hidden_states=words)
        found[len(rows), sample] = maps
    assert session.report().timelines == {"0": "CCC"} and found[3, 0]["blocks.3.attn1"].steps == (0,)
    assert {*found[3, 0].missing.values()} == {f"{session.method.name} did not compute sample 0"}
    for step in range(3):
        one, other = (found[key]["blocks.3.attn1", step].groups for key in ((3, 1), (1, 0)))
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_a_pipeline_with_two_experts_has_the_maps_of_both():
    pipe, more = two_experts()
    pipe.set_progress_bar_config(disable=True)
    asked = dict(SUBJECTS["wan"].request(steps=6), output_type="latent", return_dict=False, **more)
    plain = pipe(**asked, generator=torch.Generator().manual_seed(3))[0]
    with c4d.attention_maps(pipe, "*.0.attn1", keep="steps", branch="uncond") as maps:
        assert torch.equal(pipe(**asked, generator=torch.Generator().manual_seed(3))[0], plain)
    first, second = (maps[f"{name}.blocks.0.attn1"] for name in ("transformer", "transformer_2"))
    assert first.steps + second.steps == tuple(range(6)) and first.steps and second.steps
    assert not maps.missing and first.branch == "uncond"
    assert "progress_bar" not in vars(pipe)


# -- what is looked at


def test_layers_and_steps_that_are_not_chosen_cost_nothing():
    """Queries are made once more where a map is made, and nowhere else."""
    model, counts = WAN.build(), dict.fromkeys(("blocks.0.attn1", "blocks.3.attn2"), 0)
    for name in counts:
        model.get_submodule(name).to_q.register_forward_hook(
            lambda *_, name=name: counts.update({name: counts[name] + 1})
        )
    with c4d.attention_maps(model, 3, [1]) as maps:
        WAN.loop(model, 4, maps.begin)
    assert counts == {"blocks.0.attn1": 8, "blocks.3.attn2": 9}  # of four steps and two branches
    assert [each.steps for each in maps.maps()] == [(1,), (1,)] and maps.layers == ("blocks.3.attn1", "blocks.3.attn2")


@pytest.mark.parametrize(
    ("steps", "made"), [(None, (0, 1, 2, 3)), (2, (2,)), ([0, -1], (0, 3)), (lambda step: step.index > 1, (2, 3))]
)
def test_steps_are_numbers_or_a_question(steps, made):
    model = WAN.build()
    with c4d.attention_maps(model, "blocks.0.attn1", steps) as maps:
        WAN.loop(model, 4, maps.begin)
    assert maps["blocks.0.attn1"].steps == made and maps.lines()[0].startswith("blocks.0.attn1: steps ")


def test_groups_are_sides_of_the_grid_or_what_is_said_of_each_token():
    model, x = WAN.build(), rand(*WAN.latents, seed=3)
    labels = torch.arange(128) % 3 - 1  # a third of them is in no group

    def groups_of(groups, **how):
        with c4d.attention_maps(model, "blocks.1.attn1", groups=groups, **how) as maps:
            maps.begin([9.0])
            WAN.run(model, x, 9.0)
        return maps["blocks.1.attn1"].groups

    each = groups_of(torch.arange(128))
    frame, row, column = (i.flatten() for i in torch.meshgrid(*map(torch.arange, (2, 8, 8)), indexing="ij"))
    for groups, of in (
        ("frames", frame), ("rows", row), ("columns", column), (labels, labels),
        (lambda grid: torch.arange(grid[0][0] * 64) // 32, torch.arange(128) // 32),
    ):  # fmt: skip
        torch.testing.assert_close(groups_of(groups).double(), grouped(each.double(), of, of), atol=1e-6, rtol=0)
    torch.testing.assert_close(groups_of("frames", heads="mean")[0], groups_of("frames").mean(0))
    torch.testing.assert_close(groups_of("frames", chunk_bytes=1 << 12), groups_of("frames"), atol=1e-6, rtol=0)


def test_maps_are_kept_as_a_mean_or_go_where_they_are_sent():
    model, sent = WAN.build(), []
    with c4d.attention_maps(model, 0, keep="steps") as maps:
        for _ in range(2):  # the second run takes the place of the first
            WAN.loop(model, 3, maps.begin)
    with c4d.attention_maps(model, 0, keep=sent.append) as streamed:
        WAN.loop(model, 3, streamed.begin)
    assert [(each.layer, each.steps) for each in sent] == [
        (f"blocks.0.{name}", (step,)) for step in range(3) for name in ("attn1", "attn2")
    ]
    for i, name in enumerate(maps.layers):
        part = ("groups", "text")[i]
        own = [getattr(each, part) for each in sent[i::2]]
        torch.testing.assert_close(getattr(maps[name], part), torch.stack(own).mean(0), atol=1e-6, rtol=0)
        assert torch.equal(getattr(maps[name, 1], part), own[1]) and maps[name].run == 1
    assert streamed.maps() == [] and {each.run for each in sent} == {0}
    assert streamed.lines() == [f"blocks.0.{name}: steps 0 to 2" for name in ("attn1", "attn2")]
    with maps:  # again
        WAN.loop(model, 2, maps.begin)
    assert {each.steps for each in maps.maps()} == {(0, 1), (0,), (1,)}
    with pytest.raises(KeyError, match="every map went to the function keep="):
        streamed["blocks.0.attn1"]
    with pytest.raises(ValueError, match="no maps are kept"):
        streamed.save("maps.npz")


def test_maps_of_other_shapes_have_no_mean():
    model, case = WAN.build(), WAN
    with c4d.attention_maps(model, "*.0.attn2") as maps:
        maps.begin([9.0, 8.0])
        case.run(model, rand(*case.latents), 9.0)
        with pytest.raises(ValueError, match=r"blocks.0.attn2 has \{'text': \[2, 2, 3\]\} at step 1 and had .* 12\]"):
            model(rand(*case.latents), torch.tensor([8.0]), encoder_hidden_states=rand(1, 3, 16))


def test_a_forward_that_raises_leaves_no_map():
    model = WAN.build()
    with c4d.attention_maps(model, 0) as maps:
        maps.begin([9.0, 8.0])
        handle = model.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            WAN.run(model, rand(*WAN.latents), 9.0)
        handle.remove()
        assert maps.maps() == [] and not maps.missing
        maps.begin([9.0])
        WAN.run(model, rand(*WAN.latents), 9.0)
    assert maps["blocks.0.attn1"].steps == (0,)


def test_files(tmp_path):
    pytest.importorskip("matplotlib")
    model = WAN.build()
    with c4d.attention_maps(model, 0, keep="steps") as maps:
        WAN.loop(model, 2, maps.begin)
    maps.save(tmp_path / "maps.npz")
    with np.load(tmp_path / "maps.npz") as found:
        assert {*found} == {
            f"blocks.0.{name}{step}/{what}"
            for name, part in (("attn1", "groups"), ("attn2", "text"))
            for step in ("", "@0", "@1")
            for what in (part, "steps")
        }
        assert np.array_equal(found["blocks.0.attn2/text"], maps["blocks.0.attn2"].text)
        assert found["blocks.0.attn1/steps"].tolist() == [0, 1]
    maps.plot(tmp_path / "all.png")
    maps.plot(tmp_path / "heads.png", "blocks.0.attn1")
    assert {path.name for path in tmp_path.iterdir()} == {"maps.npz", "all.png", "heads.png"}
    with pytest.raises(FileNotFoundError):
        maps.save(tmp_path / "nowhere" / "maps.npz")
    with pytest.raises(
        KeyError, match=r"no layer 'blocks.1.attn1' is looked at: those are blocks.0.attn1, blocks.0.attn2"
    ):
        maps.plot(tmp_path / "other.png", "blocks.1.attn1")


# -- what cannot be


@pytest.mark.parametrize(
    ("how", "error"),
    [
        (dict(layers=4), "no attention of WanTransformer3DModel is meant by the layer 4: .* blocks 0 to 3"),
        (
            dict(layers="blocks.0"),
            "the layer 'blocks.0': known are 'blocks.0.attn1' to 'blocks.3.attn2', .*'\\*.attn1'",
        ),
        (dict(layers=[]), "layers is empty"),
        (dict(groups="cubes"), "unknown groups 'cubes': known are frames, rows, columns"),
        (dict(keep="all"), "unknown keep 'all': known are mean, steps"),
        (dict(heads="max"), "unknown heads 'max': known are each, mean"),
    ],
)
def test_what_there_is_not_is_named(how, error):
    with pytest.raises(ValueError, match=error):
        c4d.attention_maps(WAN.build(), **how)


@pytest.mark.parametrize(
    ("groups", "error"),
    [
        (torch.arange(100), "attends with 128 queries to 128 keys, and 100 tokens are grouped"),
        (torch.ones(128), "groups are torch.float32"),
        (-torch.ones(128, dtype=torch.int64), "give a whole number from 0 for each token"),
    ],
)
def test_groups_of_other_tokens_are_refused(groups, error):
    model = WAN.build()
    with c4d.attention_maps(model, "blocks.0.attn1", groups=groups) as maps:
        maps.begin([9.0])
        with pytest.raises(ValueError, match=error):
            WAN.run(model, rand(*WAN.latents), 9.0)


def test_a_model_whose_tokens_nobody_placed_needs_labels():
    entry = FAMILIES["LTXVideoTransformer3DModel"]
    model = entry.build()
    for groups in ("frames", torch.arange(entry.latents[1]) // 4):
        with c4d.attention_maps(model, "*.attn1", groups=groups) as maps:
            maps.begin([2.0])
            if isinstance(groups, str):
                with pytest.raises(ValueError, match="LTXVideoTransformer3DModel does not say how its tokens lie"):
                    entry.forward(model)
            else:
                entry.forward(model)
                assert maps.maps()[0].groups.shape[1] == groups.max() + 1


def test_tokens_on_other_ranks_and_compiled_blocks_and_other_processors_are_refused():
    model = WAN.build()
    with c4d.attention(model) as attention:
        for work in attention.fittings[0].works:
            work.spread = lambda *_: None
        with pytest.raises(RuntimeError, match=r"blocks.0.attn1 are spread over ranks \(c4d.sharded\)"):
            c4d.attention_maps(model).__enter__()
    with c4d.attention_maps(model, 0) as maps:
        maps.begin([9.0])
        with pytest.raises(RuntimeError, match=r"c4d.attention_maps is entered last"):
            c4d.attention(model)
        with pytest.raises(RuntimeError, match="already being made"):
            maps.__enter__()
        WAN.run(model, rand(*WAN.latents), 9.0)
    model.blocks[1]._compiled_call_impl = model.blocks[1].forward  # as its compile() leaves it
    with pytest.raises(RuntimeError, match=r"blocks.1.attn1 of WanTransformer3DModel is compiled"):
        c4d.attention_maps(model).__enter__()

    class Strange:
        def __call__(self, attn, x, *args):
            return x

    model.blocks[0].attn1.processor = Strange()
    with pytest.raises(ValueError, match=r"blocks.0.attn1 of WanTransformer3DModel has the processor Strange"):
        c4d.attention_maps(model, 0).__enter__()
    assert not any(isinstance(getattr(m, "processor", None), Processor) for m in model.modules())
    bare = c4d.ModelSpec("WanTransformer3DModel")
    with pytest.raises(ValueError, match="describes no attention"):
        c4d.attention_maps(model, spec=bare)
    with pytest.raises(TypeError, match="object has no transformer"):
        c4d.attention_maps(object())
    with pytest.raises(TypeError, match=r"a step is 0.5"):
        c4d.attention_maps(model, steps=[0.5])
    with pytest.raises(TypeError, match=r"a layer is 0.5"):
        c4d.attention_maps(model, [0.5])
