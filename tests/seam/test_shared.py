"""Several pipelines over one transformer: a forward belongs to the loop that it is made in."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

import c4d
from c4d.core.clock import RunError
from tests.subjects import EVERY, SUBJECTS, Stop, at_step, built, like_alone


def sibling(pipe):
    """Another pipeline over the same transformers."""
    config = {name: pipe.config[name] for name in ("boundary_ratio",) if name in pipe.config}
    other = type(pipe)(**{**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler)}, **config)
    other.set_progress_bar_config(disable=True)
    return other


def stop(*_):
    raise Stop


def aborted(subject, pipe):
    with pytest.raises(Stop):
        subject.ask(pipe, prompt="B", callback_on_step_end=at_step(4, stop))


def interrupted(subject, pipe):
    subject.ask(pipe, prompt="B", callback_on_step_end=at_step(4, lambda p: setattr(p, "_interrupt", True)))


def finished(subject, pipe):
    subject.ask(pipe, prompt="B")


BEFORE = [aborted, interrupted, finished]


@pytest.mark.parametrize("before", BEFORE, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_what_one_left_is_not_in_the_other(name, kind, before):
    subject, pipe = SUBJECTS[name], built(name)
    other = sibling(pipe)
    with c4d.cached([pipe, other], subject.methods[kind]) as session:
        before(subject, pipe)
        assert session.bytes() == 0
        like_alone(session, subject.ask(other), name, kind)
        assert session.bytes() == 0
        like_alone(session, subject.ask(pipe), name, kind)
    assert "progress_bar" not in vars(pipe) and "progress_bar" not in vars(other)


@pytest.mark.parametrize("before", BEFORE, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_a_pipeline_that_was_not_given_is_an_error_and_not_a_leak(name, kind, before):
    subject, pipe = SUBJECTS[name], built(name)
    other = sibling(pipe)
    with c4d.cached(pipe, subject.methods[kind]) as session:
        before(subject, pipe)
        passes = len(session.trace)
        with pytest.raises(RunError, match=r"belongs to no run.*c4d\.cached\(\[one, other\], method\)"):
            subject.ask(other)
        assert len(session.trace) == passes and session.bytes() == 0
        like_alone(session, subject.ask(pipe), name, kind)


def test_three_in_any_order():
    """Stopped and finished, two of them with one scheduler: each answer is that of a session alone."""
    subject, pipe = SUBJECTS["wan"], built("wan")
    pipes = [pipe, sibling(pipe), type(pipe)(**pipe.components)]
    pipes[2].set_progress_bar_config(disable=True)
    with c4d.cached(pipes, subject.methods["modules"]) as session:
        for order in itertools.permutations(range(3)):
            for k, i in enumerate(order):
                BEFORE[k](subject, pipes[i])
                like_alone(session, subject.ask(pipes[order[k - 1]]), "wan", "modules")


def test_one_inside_a_step_of_another():
    """Neither goes on from the other: the one that was left begins anew, and ends."""
    subject, pipe = SUBJECTS["wan"], built("wan")
    other = sibling(pipe)
    with c4d.cached([pipe, other], subject.methods["stack"]) as session:
        results = []
        subject.ask(pipe, prompt="B", callback_on_step_end=at_step(3, lambda _: results.append(subject.ask(other))))
        assert session.bytes() == 0
        like_alone(session, subject.ask(other), "wan", "stack")
        assert torch.equal(results[0], subject.ask(pipe))


def test_pipelines_that_do_not_share_are_refused():
    pipe = built("wan")
    for models, error, message in (
        ([pipe, built("wan", copy=2)], ValueError, "does not have the transformers"),
        ([pipe, pipe.transformer], ValueError, "does not have the transformers"),
        ([], TypeError, "no model to cache"),
    ):
        with pytest.raises(error, match=message):
            c4d.cached(models, "fora:interval=3")
