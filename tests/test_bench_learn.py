"""Profiles hold what they say: costs of forecasts, weights of least error, and methods can read them."""

from __future__ import annotations

import json

import pytest
import torch

import c4d
from bench import learn
from bench.clips import pipeline
from c4d.core.text.grammar import parse
from tests.packages import ROOT
from tests.subjects import SUBJECTS
from tests.test_docs import code

T = 6


@pytest.fixture
def features():
    made = torch.Generator().manual_seed(0)
    return {branch: [torch.randn(2, 5, 3, generator=made) for _ in range(T)] for branch in ("cond", "uncond")}


def test_costs_are_sums_of_what_taylor_is_off_by(features):
    table = learn.costs(features)
    for i, j, k in ((0, 1, 4), (1, 3, 6), (0, 4, 5), (2, 3, 4)):
        wanted = 0.0
        for h in features.values():
            for t in range(j + 1, k):
                wanted += (h[j] + (h[j] - h[i]) / (j - i) * (t - j) - h[t]).abs().mean().item()
        assert table[i][j][k] == pytest.approx(wanted, rel=1e-3)
    assert table[3][1][5] == 0.0  # no path goes there


def test_weights_are_those_of_least_squared_error(features):
    computed = [0, 1, 3]
    found = learn.weights(features, computed, 2)
    assert sorted(found) == ["2", "4", "5"]
    flat = {t: torch.cat([steps[t].flatten() for steps in features.values()]).double() for t in range(T)}
    for step, past in ((2, [0, 1]), (4, [1, 3]), (5, [1, 3])):
        wanted = torch.linalg.lstsq(torch.stack([flat[t] for t in past], 1), flat[step]).solution
        torch.testing.assert_close(torch.tensor(found[str(step)], dtype=torch.float64), wanted, atol=1e-6, rtol=1e-6)


def test_profiles_of_the_bundled_model(tmp_path, monkeypatch):
    """Written by the command, read by the methods; a run of another length is refused."""
    for kind, more in (("dpcache", []), ("l2p", ["--computed", "0/1/3", "--features", "2"])):
        command = ["learn", kind, f"{tmp_path}/{kind}.json", "--steps", str(T), "--clips", "1", *more]
        monkeypatch.setattr("sys.argv", command)
        learn.main()
    assert json.loads((tmp_path / "l2p.json").read_text())["computed"] == [0, 1, 3]
    pipe = pipeline()
    texts = {f"dpcache:path={tmp_path}/dpcache.json,budget=4": 4, f"l2p:path={tmp_path}/l2p.json": 3}
    for text, count in texts.items():
        assert len(parse(text).rules[0].policy.computed) == count
        with c4d.cached(pipe, text) as session:
            learn.unmeasured(pipe, T)
        assert session.report().timelines["cond"].count("C") == count
        with c4d.cached(pipe, text), pytest.raises(ValueError, match=f"made for {T} steps, and the run has {T + 1}"):
            learn.unmeasured(pipe, T + 1)


def test_profiles_of_another_model_as_the_page_says(tmp_path, monkeypatch):
    """FLUX with given embeddings in the place of prompts."""
    (example,) = code(ROOT / "docs/methods.md")
    monkeypatch.chdir(tmp_path)
    pipe = SUBJECTS["flux"].build()
    kind, ask = type(pipe), {**SUBJECTS["flux"].request(), "output_type": "latent"}
    call = lambda self, prompts, **more: kind.__call__(self, **{**ask, **more})  # noqa: E731
    pipe.__class__ = type(kind.__name__, (kind,), {"__call__": call})
    exec(compile(example, "methods.md", "exec"), {"pipe": pipe, "prompts": None, "steps": 9})
    for method in ("dpcache:path=dpcache.json,budget=4", "l2p:path=l2p.json"):
        with c4d.cached(pipe, method) as session:
            pipe(None, num_inference_steps=9)
        assert session.report().reused
