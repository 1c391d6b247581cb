"""batch=each: a sample gets what it gets alone, whoever is in its batch; a step computes the samples that need it."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.utils import _pytree as pytree

import c4d
from c4d.backends import load
from c4d.core.runtime.outputs import copies_of, of_rows, of_samples
from c4d.core.text.grammar import parse
from c4d.models import SPECS, spec_for
from c4d.pipelines import load_pipeline
from tests.denoisers import ENTRIES, rand
from tests.sampled import sampled
from tests.subjects import SUBJECTS
from tests.tiny import CASES, text

STEPS = 6
TIMES = [1000.0 * (1 - k / STEPS) for k in range(STEPS)]
MOVES = (0.01, 0.3)  # by how much the two samples change in a step
EXACT = 5e-5


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


class Pair:
    """A model, and the arguments of a forward of two samples that change differently, or of one of them."""

    def __init__(self, build, arguments, latents):
        self.model, self.arguments = build(), arguments
        self.starts = [rand(*latents, seed=3), rand(*latents, seed=4)]

    def given(self, k, samples):
        moved = rand(*self.starts[0].shape, seed=5)
        each = [self.arguments(x + step * k * moved, 500.0) for x, step in zip(self.starts, MOVES, strict=True)]
        return both(*each) if len(samples) == 2 else each[samples[0]]

    def run(self, method=None, samples=(0, 1)):
        """Every step's output by sample, and the session."""
        if method is None:
            return [self.step(k, samples) for k in range(STEPS)], None
        with c4d.cached(self.model, method) as session:
            session.begin(TIMES, [t / 1000.0 for t in TIMES])
            outs = [self.step(k, samples) for k in range(STEPS)]
        return outs, session

    def step(self, k, samples):
        out = self.model(**self.given(k, samples), return_dict=False)
        return [of_rows(out, [i], len(samples)) for i in range(len(samples))]


def both(one, other):
    """The arguments of a batch of two, from those of each: what has a batch of one is joined."""

    def of(a, b):
        if isinstance(a, list):
            tensors = all(isinstance(x, torch.Tensor) and x.shape[0] == 1 for x in a)
            return [torch.cat(pair) for pair in zip(a, b, strict=True)] if tensors else [*a, *b]
        return torch.cat((a, b)) if isinstance(a, torch.Tensor) and a.ndim and a.shape[0] == 1 else a

    return {name: pytree.tree_map(of, x, other[name], is_leaf=lambda y: isinstance(y, list)) for name, x in one.items()}


def error(one, other):
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs if isinstance(a, torch.Tensor))


def case_pair(case):
    def arguments(x, t):
        timestep = torch.full((x.shape[0],), t * case.unit, dtype=x.dtype if case.alike else None)
        return dict(hidden_states=x, timestep=timestep, **case.inputs())

    return case.build, arguments, case.latents


ONE = {"MiniMaxH3Transformer3DModel", "WanAnimate2Transformer3DModel"}  # a sequence is one request, a cache is given
PAIRS = {
    **{name: case_pair(case) for name, case in CASES.items() if not (case.per_token or name == "dit")},
    **{
        entry.name: (entry.build, entry.arguments, entry.latents)
        for entry in ENTRIES
        if entry.name in SPECS and SPECS[entry.name].stacks and entry.name not in ONE
    },
}
METHODS = {
    "first block": "first-block:threshold={},batch=each,last=0",
    "latents": "easycache:threshold={},warmup=2,batch=each",
    "probe": "dicache:threshold={},batch=each",
    "inside": "teacache:threshold={},coefficients=1/0,signal=input,batch=each,last=0",
}
NO_ROWS = {"ErnieImageTransformer2DModel", "LatteTransformer3DModel"}


@functools.cache
def made(name):
    """The two samples, if its example is one of which a batch can be made."""
    pair = Pair(*PAIRS[name])
    try:
        together, _ = pair.run()
    except (RuntimeError, ValueError) as refusal:
        return str(refusal)
    alone = [pair.run(samples=(i,))[0] for i in range(2)]
    apart = max(error(together[k][i], alone[i][k][0]) for k in range(STEPS) for i in range(2))
    return pair if apart < EXACT else f"its samples differ by {apart} in a batch"


@pytest.mark.parametrize(("name", "kind"), sampled(PAIRS, METHODS, nth=13, complete=False))
def test_each_gets_what_it_gets_alone(name, kind):
    pair = made(name)
    if isinstance(pair, str):
        pytest.skip(f"no batch of two is made of this example: {pair}")
    spec = spec_for(pair.model)
    if kind == "latents" and not spec.like_latents:
        pytest.skip("EasyCache does not fit it")
    if kind != "latents" and spec.transformer in NO_ROWS:
        with pytest.raises(
            ValueError, match="samples cannot decide apart there: use batch=mean, or the method @output"
        ):
            pair.run(METHODS[kind].format(0.1))
        _, session = pair.run(METHODS[kind].format(0.1).replace(",batch=each", ""))
        assert session.report().timelines.keys() == {"0"}
        return
    for threshold in (0.03, 0.3, 0.01, 0.1, 0.003, 1.0):
        method = METHODS[kind].format(threshold)
        together, session = pair.run(method)
        lines = session.report().timelines
        if mixed(lines):
            break
    else:
        assert all(change.delta == 0 for entry in session.trace for change in entry.seen.values()), lines
        pytest.skip("its first block adds nothing")
    for i in range(2):
        alone, single = pair.run(method, samples=(i,))
        assert single.report().timelines["0"] == lines[f"0#{i}"]
        assert max(error(together[k][i], alone[k][0]) for k in range(STEPS)) < EXACT


def mixed(lines):
    return any({lines["0#0"][k], lines["0#1"][k]} == {"C", "r"} for k in range(STEPS))


def entered(pair, method, path):
    """How many samples went through the block at ``path`` in each forward."""
    found = []
    block = pair.model.get_submodule(path)
    handle = block.register_forward_pre_hook(
        lambda _, args, kwargs: found.append(len(args[0] if args else kwargs["hidden_states"])), with_kwargs=True
    )
    _, session = pair.run(method)
    handle.remove()
    return found, session


def computed(session):
    """How many samples each step computed."""
    return [sum(line[k] == "C" for line in session.report().timelines.values()) for k in range(STEPS)]


@pytest.mark.parametrize(
    ("name", "method", "path"),
    [
        ("wan-t2v", METHODS["first block"].format(0.1), "blocks.2"),
        ("flux", METHODS["inside"].format(0.1), "single_transformer_blocks.1"),
        ("qwen", METHODS["latents"].format(0.1), "transformer_blocks.3"),
    ],
)
def test_a_step_computes_the_samples_that_need_it(name, method, path):
    found, session = entered(made(name), method, path)
    assert 1 in computed(session) and 2 in computed(session)
    assert found == [n for n in computed(session) if n]


@pytest.mark.parametrize("name", ["wan-vace", "flux-controlnet", "qwen-edit"])
def test_where_something_joins_the_batch_between_the_blocks_they_run_on_all(name):
    pair = made(name)
    path = {"w": "blocks.2", "f": "transformer_blocks.1", "q": "transformer_blocks.2"}[name[0]]
    found, session = entered(pair, METHODS["first block"].format(0.1), path)
    assert 1 in computed(session) and set(found) == {2}


def test_more_first_blocks_and_last_ones():
    pair = made("wan-t2v")
    method = "first-block:threshold=0.1,first_blocks=2,last_blocks=1,batch=each,last=0"
    together, session = pair.run(method)
    lines = session.report().timelines
    assert mixed(lines)
    for i in range(2):
        alone, single = pair.run(method, samples=(i,))
        assert single.report().timelines["0"] == lines[f"0#{i}"]
        assert max(error(together[k][i], alone[k][0]) for k in range(STEPS)) < EXACT


def test_the_worst_decides_for_all():
    """As often as the sample that moves most would be computed alone; by the mean it is computed less often."""
    pair, line = made("wan-t2v"), {}
    for batch in ("mean", "worst", "each", ""):
        _, session = pair.run(f"first-block:threshold=0.05,last=0{f',batch={batch}' if batch else ''}")
        line[batch] = session.report().timelines
    assert line[""] == line["each"]
    assert line["mean"].keys() == {"0"} and line["worst"]["0#0"] == line["worst"]["0#1"] == line["each"]["0#1"]
    assert line["worst"]["0#0"].count("C") > line["mean"]["0"].count("C")


@pytest.mark.parametrize("batch", ["mean", "worst", "each"])
def test_one_sample_is_the_same_in_every_way(batch):
    pair = made("flux")
    plain, _ = pair.run("first-block:threshold=0.1", samples=(1,))
    found, session = pair.run(f"first-block:threshold=0.1,batch={batch}", samples=(1,))
    assert session.report().timelines.keys() == {"0"}
    assert all(torch.equal(a[0][0], b[0][0]) for a, b in zip(plain, found, strict=True))


@pytest.mark.parametrize("kind", METHODS)
def test_never_skipping_is_exact(kind):
    pair = made("hunyuan-t2v")
    plain, _ = pair.run()
    found, session = pair.run(METHODS[kind].format(1e-9))
    assert computed(session) == [2] * STEPS
    assert max(error(a, b) for a, b in zip(plain, found, strict=True)) == 0.0


def test_padded_text_of_other_lengths_in_the_batch():
    """c4d.attention knows how long each sample's text is, also where some of the samples are computed."""
    lengths = iter([9, 4, *[9, 4] * 200])

    def arguments(x, t):
        return {**PAIRS["hunyuan-image"][1](x, t), **text(next(lengths))}

    pair = Pair(PAIRS["hunyuan-image"][0], arguments, PAIRS["hunyuan-image"][2])
    plain, session = pair.run(METHODS["first block"].format(0.1))
    with c4d.attention(pair.model, "math"):
        found, _ = pair.run(METHODS["first block"].format(0.1))
    assert mixed(session.report().timelines)
    assert max(error(a, b) for a, b in zip(plain, found, strict=True)) < EXACT


@pytest.mark.parametrize("method", ["seacache:threshold=0.3,batch=each", "first-block:threshold=0.35,batch=each"])
def test_a_clip_of_a_pipeline_is_the_same_whoever_is_in_its_batch(method):
    subject = SUBJECTS["wan-tiny"]
    pipe = subject.build()
    prompts = ["a red circle moving left on a black background", "a large blue square moving up on white"]

    def clips(*which):
        made = [torch.Generator().manual_seed(i) for i in which]
        asked = dict(height=32, width=32, num_frames=5, num_inference_steps=8, guidance_scale=4.0)
        words = dict(prompt=[prompts[i] for i in which], negative_prompt=["blurry"] * len(which))
        return pipe(**words, **asked, generator=made, output_type="latent").frames

    with c4d.cached(pipe, method) as session:
        together = clips(0, 1)
        lines = session.report().timelines
        alone = [clips(i) for i in range(2)]
    assert lines.keys() == {"cond#0", "cond#1", "uncond#0", "uncond#1"} and len(set(lines.values())) > 1
    assert all(error(together[i : i + 1], alone[i]) < 1e-3 for i in range(2))


@pytest.mark.parametrize(
    "method", ["first-block:threshold=0.2", "teacache:threshold=0.5,coefficients=1/0,signal=input"]
)
def test_branches_of_guidance_in_one_batch_are_one_sample(method):
    """DiT's batch has every picture twice, with its class and without."""
    pipe = load_pipeline("glyph-dit", backend=load("cpu"))
    pipe.set_progress_bar_config(disable=True)

    def pictures(*which):
        made = [torch.Generator().manual_seed(7 + 30 * i) for i in which]
        labels = [[3, 17][i] for i in which]
        return torch.as_tensor(pipe(labels, generator=made, num_inference_steps=10, output_type="np").images)

    with c4d.cached(pipe, f"{method},batch=each") as session:
        together = pictures(0, 1)
        lines = session.report().timelines
        alone = []
        for i in range(2):
            alone.append(pictures(i))
            assert session.report().timelines == {"0": lines[f"0#{i}"]}
    assert len(set(lines.values())) == 2
    assert all(error(together[i : i + 1], alone[i]) < 1e-3 for i in range(2))


def test_how_often_latents_stand_in_a_batch():
    one, other = rand(1, 3, 4, seed=1), rand(1, 3, 4, seed=2)
    for latents, copies in (
        (torch.cat([one, other]), 1),
        (torch.cat([one, one]), 2),
        (torch.cat([one, other, one, other]), 2),
        (torch.cat([one, other, other, one]), 1),
        (torch.cat([one] * 3), 3),
        ([one[0], other[0]] * 2, 2),
        ([one[0], other[0, :2]], 1),
        (one, 1),
    ):
        assert copies_of(latents) == copies


def test_samples_that_begin_with_the_same_noise_are_told_apart_in_the_second_step():
    pair = Pair(*PAIRS["wan-t2v"])
    pair.starts = [pair.starts[0], pair.starts[0]]
    _, session = pair.run(METHODS["first block"].format(0.1))
    lines = session.report().timelines
    assert lines.keys() == {"0", "0#0", "0#1"} and lines["0"] == "C"
    assert lines["0#0"][0] == lines["0#1"][0] == "C"


def test_what_each_remembers_is_freed():
    pair = made("wan-t2v")
    _, session = pair.run(METHODS["first block"].format(0.1))
    assert session.bytes() == 0 and session.report().peak_bytes > 0


def test_a_method_that_measures_nothing_takes_no_batch():
    for method in ("taylorseer-lite:interval=2,batch=each", "fora:interval=2,batch=worst"):
        with pytest.raises(ValueError, match="decides by the step alone, the same for every sample: leave batch out"):
            parse(method)
    with pytest.raises(ValueError, match="batch is 'all'; known are mean, worst, each"):
        parse("first-block:threshold=0.1,batch=all")
    with pytest.raises(ValueError, match="batch is given twice"):
        parse("first-block:threshold=0.1,batch=each,batch=mean")
    assert c4d.methods.first_block(threshold=0.1).batched("each").batch == "each"


def test_rows_and_samples():
    value = (
        torch.arange(6).view(2, 3),
        [torch.zeros(4), torch.ones(4)],
        {"a": [torch.ones(2, 2), torch.zeros(2, 2)]},
        3,
    )
    first, second = (of_rows(value, [i], 2) for i in range(2))
    assert torch.equal(first[0], torch.tensor([[0, 1, 2]])) and torch.equal(second[1][0], torch.ones(4))
    assert [x.shape for x in first[2]["a"]] == [(1, 2)] * 2
    again = of_samples([first[:2], second[:2]], [0, 1])
    assert torch.equal(again[0], value[0]) and len(again[1]) == 2
    tables = (torch.zeros(5, 4), torch.ones(5, 4))
    assert of_rows(tables, [0], 2) is not None and len(of_rows(tables, [0], 2)) == 2
