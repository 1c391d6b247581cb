"""Attention through a backend, for every described family that brings an example."""

from __future__ import annotations

import pytest
import torch

import c4d
from c4d.core.attention import Processor
from c4d.models import SPECS
from tests.denoisers import ENTRIES, lively, rand

DESCRIBED = {entry.name: entry for entry in ENTRIES if entry.name in SPECS}
WITH_ATTENTION = [e for name, e in DESCRIBED.items() if any(stack.attention for stack in SPECS[name].stacks)]


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def processors(model):
    return {name: m.processor for name, m in model.named_modules() if hasattr(m, "processor")}


def error(got, want):
    return max(float((a.double() - b.double()).norm() / b.double().norm()) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("entry", WITH_ATTENTION, ids=lambda entry: entry.name)
def test_the_result_is_that_of_the_model_alone(entry):
    model, x = lively(entry), rand(*entry.latents, seed=3)
    before, plain = processors(model), entry.run(model, x, 700.0)
    with c4d.attention(model, "math") as session:
        inside = entry.run(model, x, 700.0)
        ours = [p for p in processors(model).values() if isinstance(p, Processor)]
    declared = sum(len(stack.attention) * len(model.get_submodule(stack.path)) for stack in SPECS[entry.name].stacks)
    assert len(ours) == declared and "through math" in session.lines()[0]
    assert processors(model) == before
    assert error(inside, plain) < 5e-6


@pytest.mark.parametrize("entry", WITH_ATTENTION, ids=lambda entry: entry.name)
def test_the_test_above_would_notice_norms(entry):
    """Fresh norms have weights of one, which hide what is wrong with them."""
    x = rand(*entry.latents, seed=3)
    if not any(".norm_q" in name for name, _ in entry.build().named_parameters()):
        pytest.skip("its attention has none")
    assert error(entry.run(entry.build(), x, 700.0), entry.run(lively(entry), x, 700.0)) > 1e-4
