"""What the nodes of ComfyUI offer and refuse, and where a sampler stands; nothing of ComfyUI is needed."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from c4d.comfyui.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, CacheNode, ProfileNode
from c4d.comfyui.sampling import ENGINE, Cache, Sampling
from c4d.comfyui.steps import SamplerSteps, level_of, prediction_of
from c4d.core.importing import CannotImportError
from c4d.core.runtime.steps import RunError
from c4d.models.stand_in import at_output

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "integrations" / "comfyui"
SIGMAS = [1.0, 0.8, 0.5, 0.2, 0.0]


def follow(*sigmas):
    """(step, visit) of evaluations at these sigmas."""
    steps, found = SamplerSteps(SIGMAS, "flow"), []
    for sigma in sigmas:
        steps.evaluate(sigma)
        _, step = steps.tick("cond", None)
        found.append((step.index, steps.visit))
    return found


@pytest.mark.parametrize(
    ("sigmas", "places"),
    [
        pytest.param([1.0, 0.8, 0.5, 0.2], [(0, 0), (1, 0), (2, 0), (3, 0)], id="euler"),
        pytest.param([1.0, 0.800001, 0.499999, 0.2], [(0, 0), (1, 0), (2, 0), (3, 0)], id="rounded"),
        pytest.param(
            [1.0, 0.8, 0.8, 0.5, 0.5, 0.2, 0.2], [(0, 0), *((k, v) for k in (1, 2, 3) for v in (0, 1))], id="heun"
        ),
        pytest.param([1.0, 0.9, 0.8, 0.6, 0.5], [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)], id="dpm_2"),
        pytest.param([1.0, 0.9, 0.85, 0.8], [(0, 0), (0, 1), (0, 2), (1, 0)], id="three stages"),
        pytest.param([1.0, 0.8, 0.5, 0.2, 0.1], [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1)], id="after the last"),
    ],
)
def test_where_a_sampler_stands(sigmas, places):
    assert follow(*sigmas) == places


@pytest.mark.parametrize(
    "sigmas",
    [
        pytest.param([0.9], id="begins elsewhere"),
        pytest.param([1.0, 0.7], id="passes over a sigma"),
        pytest.param([1.0, 0.8, 0.9], id="goes back"),
        pytest.param([1.0, 0.5], id="leaves one out"),
        pytest.param([1.0, 0.98, 0.96, 0.94, 0.92], id="too many"),
    ],
)
def test_a_sampler_with_sigmas_of_its_own_is_refused(sigmas):
    with pytest.raises(RunError, match="asks for the model at sigma"):
        follow(*sigmas)


def test_levels():
    steps = SamplerSteps(SIGMAS, "flow")
    steps.evaluate(1.0)
    assert steps.levels(4) == (1.0, 0.8, 0.5, 0.2) and steps.noise() == (0.0, 1.0)
    for prediction in ("epsilon", "v"):
        signal, noise = level_of(3.0, prediction)
        assert math.isclose(signal**2 + noise**2, 1.0) and math.isclose(noise / signal, 3.0)
    unknown = SamplerSteps(SIGMAS, None)
    unknown.evaluate(1.0)
    assert unknown.noise_on_host() is None
    with pytest.raises(RunError, match="needs noise levels"):
        unknown.levels(4)


def test_what_a_model_predicts():
    """Told by the class that says what its output means, which may be one that is derived from another."""

    def kind(name, *bases):
        return type(name, bases, {"calculate_denoised": lambda self: None})

    eps, const = kind("EPS"), kind("CONST")
    known = {"flow": const, "epsilon": eps, "v": kind("V_PREDICTION", eps)}
    for prediction, cls in known.items():
        assert prediction_of(type("ModelSampling", (type("Schedule", (), {}), cls), {})()) == prediction
    assert prediction_of(kind("EDM", known["v"])()) is None and prediction_of(kind("IMG_TO_IMG_FLOW", const)()) is None
    assert prediction_of(SimpleNamespace()) is None
    scaled = eps()
    scaled.sigma_data = 0.5
    assert prediction_of(scaled) is None


def run(method, calls, latents=lambda k: torch.zeros(1, 4, 4, 4)):
    """What a run on ``SIGMAS`` returned and computed, by step; ``calls(step)`` are (options, what a forward gives)."""
    steps, returned, computed = SamplerSteps(SIGMAS, "flow"), [], []
    sampling = Sampling(at_output(method, ENGINE), steps, "Theirs")
    with sampling.session:
        for k, sigma in enumerate(SIGMAS[:-1]):
            returned.append([])
            computed.append([])

            def evaluation(x, timestep, model_options, k=k):
                for options, value in calls(k):

                    def forward(x, t, options, k=k, value=value):
                        computed[k].append(value)
                        return [torch.full_like(each, value) for each in x] if isinstance(x, list) else x * 0 + value

                    out = sampling.forward(forward, x, timestep, options)
                    returned[k].append(float((out[1] if isinstance(x, list) else out).mean()))

            sampling.evaluate(evaluation, latents(k), torch.tensor([sigma]), {})
    return returned, computed, dict(sampling.session.report().timelines)


REUSE = "taylorseer-lite:interval=2,order=0"


def test_windows_of_frames_are_branches_whatever_their_order():
    def calls(k):
        windows = [([0, 1], 10.0), ([2, 3], 20.0)]
        shuffled = windows if k % 2 == 0 else windows[::-1]
        given = [(SimpleNamespace(index_list=frames), value + k) for frames, value in shuffled]
        return [({"cond_or_uncond": [0], "uuids": ["a"], "context_window": window}, value) for window, value in given]

    returned, computed, _ = run(REUSE, calls)
    assert returned == [[10.0, 20.0], [20.0, 10.0], [12.0, 22.0], [22.0, 12.0]]
    assert computed == [[10.0, 20.0], [], [12.0, 22.0], []]


def test_calls_that_are_alike_are_told_apart_by_their_order():
    returned, _, timelines = run(
        REUSE, lambda k: [({"cond_or_uncond": [0], "uuids": ["a"]}, v + k) for v in (1.0, 50.0)]
    )
    assert returned == [[1.0, 50.0], [1.0, 50.0], [3.0, 52.0], [3.0, 52.0]]
    assert timelines == {"cond": "CrCr", "cond/2": "CrCr"}


def test_conditions_have_memories_of_their_own():
    """One that comes later begins with a computed forward, and so does a batch in another order."""

    def calls(k):
        together = {"cond_or_uncond": [1, 0], "uuids": ["b", "a"]}, 5.0 + k
        turned = {"cond_or_uncond": [0, 1], "uuids": ["a", "b"]}, 70.0 + k
        other = {"cond_or_uncond": [0], "uuids": ["c"]}, 90.0 + k
        return [[together], [together, other], [turned], [turned, other]][k]

    returned, _, timelines = run(REUSE, calls)
    assert returned == [[5.0], [5.0, 91.0], [72.0], [72.0, 93.0]]
    assert timelines == {"uncond+cond": "Cr", "cond": "CC", "cond+uncond": "Cr"}


def test_a_batch_is_computed_as_a_whole():
    """A sample that changes has another one computed with it, which alone would be skipped."""

    def still(k):
        return torch.full((1, 4, 4, 4), 1.0 + 0.001 * k)

    def both(k):
        return torch.cat([torch.full((1, 4, 4, 4), 3.0 * 100.0**k), still(k)])

    method, calls = (
        "easycache:threshold=0.05,warmup=2",
        lambda k: [({"cond_or_uncond": [0], "uuids": ["a"]}, 1 + 0.001 * k)],
    )
    assert set(run(method, calls, still)[2].values()) == {"CCrC"}
    _, computed, timelines = run(method, calls, both)
    assert [] not in computed and list(timelines.values()) == ["CCCC", "CCCC"]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("method", [REUSE, "easycache:threshold=9,warmup=2"])
def test_several_streams_are_latents_of_one_forward(method, batch):
    """As a model of video and sound has them: a list, which has nothing to do with the samples of a batch."""

    def latents(k):
        return [torch.full((batch, 4, 3, 4, 4), 1.0 + k), torch.full((batch, 8, 6), 2.0 + k)]

    call = {"cond_or_uncond": [0], "uuids": ["a"]}
    returned, computed, timelines = run(method, lambda k: [(call, 1.0 + k)], latents)
    assert [] in computed and list(timelines) == ["cond"]
    assert returned[0] == [1.0] and all(len(outputs) == 1 for outputs in returned)


def test_a_forward_that_nobody_evaluates_is_refused():
    steps = SamplerSteps(SIGMAS, "flow")
    sampling = Sampling(at_output(REUSE, ENGINE), steps, "Theirs")
    options = {"cond_or_uncond": [0], "uuids": ["a"]}
    with pytest.warns(RuntimeWarning), sampling.session:
        with pytest.raises(RuntimeError, match="belongs to no evaluation"):
            sampling.forward(lambda *_: None, torch.zeros(1, 4, 4, 4), torch.ones(1), options)
        with pytest.raises(RuntimeError, match="saw no forward of this model"):
            sampling.evaluate(lambda *_: None, torch.zeros(1, 4, 4, 4), torch.ones(1), {})
        with pytest.raises(RuntimeError, match="belongs to no evaluation"):
            sampling.forward(lambda *_: None, torch.zeros(1, 4, 4, 4), torch.ones(1), {})


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("nonsense", "unknown method 'nonsense'"),
        ("first-block:threshold=0.1", "caches at blocks; in ComfyUI c4d caches what a model returns"),
        ("fora:interval=3", "caches at attn, cross_attn, mlp, total"),
        ("cfg-skip:ratio=0.25", "caches at guidance"),
        ("taylorseer-lite:interval=2+cfg-skip:ratio=0.25", "caches at output, guidance"),
        ("easycache:threshold=0.1,warmup=2,batch=each", "use batch=worst"),
        ("teacache:threshold=0.2,coefficients=1/0,signal=time_embedding,warmup=3@output", "inside it: use @blocks"),
        ("profile:no-such-profile,computed=7", "no profile is named"),
    ],
)
def test_methods_that_cannot_be(method, said):
    assert said in CacheNode.VALIDATE_INPUTS(method)
    with pytest.raises(ValueError, match=re.escape(said)):
        Cache(method)


@pytest.mark.parametrize(
    "method",
    [None, "auto", "dmd:interval=2", "easycache:threshold=0.1,warmup=2,batch=mean", "seacache:threshold=1@output"],
)
def test_methods_that_can_be(method):
    assert CacheNode.VALIDATE_INPUTS(method) is True


def test_auto_goes_by_the_quality():
    with pytest.raises(ValueError, match="leave computed at 0"):
        ProfileNode().hung_on(None, "auto", "fast", 14)


def test_a_profile_that_was_made_anew_is_read_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mine = tmp_path / "c4d/profiles/mine.json"
    mine.parent.mkdir(parents=True)
    seen = []
    for made in (1, 1, 2):
        mine.touch()
        os.utime(mine, (made, made))
        seen.append(ProfileNode.IS_CHANGED(profile="mine", quality="fast", computed=0))
    assert seen[0] == seen[1] != seen[2] and ProfileNode.IS_CHANGED(profile="auto", quality="fast", computed=0) is None


def test_outside_of_comfyui():
    with pytest.raises(CannotImportError, match="comfy cannot be imported") as caught:
        Cache("auto").hung_on(None)
    assert "inside ComfyUI" in caught.value.way_out


def test_the_folder_offers_the_nodes():
    spec = importlib.util.spec_from_file_location("c4d_nodes", FOLDER / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.NODE_CLASS_MAPPINGS is NODE_CLASS_MAPPINGS
    assert set(module.NODE_DISPLAY_NAME_MAPPINGS) == set(NODE_CLASS_MAPPINGS) == set(NODE_DISPLAY_NAME_MAPPINGS)


def test_the_nodes_are_as_comfyui_wants_them():
    for node in NODE_CLASS_MAPPINGS.values():
        inputs = node.INPUT_TYPES()["required"]
        names = getattr(node, node.FUNCTION).__code__.co_varnames[1 : len(inputs) + 1]
        assert set(names) == set(inputs) and len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    assert "universal" in ProfileNode.INPUT_TYPES()["required"]["profile"][0]


def test_the_example_uses_the_nodes_as_they_are():
    (path,) = (FOLDER / "example_workflows").glob("*.json")
    graph = json.loads(path.read_text())
    ours = {number: node for number, node in graph.items() if node["class_type"] in NODE_CLASS_MAPPINGS}
    assert {node["class_type"] for node in ours.values()} >= {"C4DCache", "C4DReport"}
    for node in ours.values():
        assert set(node["inputs"]) == set(NODE_CLASS_MAPPINGS[node["class_type"]].INPUT_TYPES()["required"])
    for node in graph.values():
        for link in node["inputs"].values():
            if isinstance(link, list) and link[0] in ours:
                assert link[1] < len(NODE_CLASS_MAPPINGS[ours[link[0]]["class_type"]].RETURN_TYPES)
            assert not isinstance(link, list) or link[0] in graph
    (cache,) = (node for node in ours.values() if node["class_type"] == "C4DCache")
    assert CacheNode.VALIDATE_INPUTS(cache["inputs"]["method"]) is True
