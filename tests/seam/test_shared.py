"""Several pipelines over one transformer: a forward belongs to the loop that it is made in."""

from __future__ import annotations

import copy
import itertools
import pickle
from contextlib import nullcontext

import pytest
import torch

import c4d
from c4d.core.runtime.progress_bar import ProgressBar
from c4d.core.runtime.steps import RunError
from tests.device import there
from tests.sampled import sampled
from tests.subjects import EVERY, KINDS, SUBJECTS, Stop, at_step, built, like_alone
from tests.tiny import rand


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


@pytest.mark.parametrize(("name", "kind", "before"), sampled(EVERY, BEFORE, nth=9, complete=False))
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


@pytest.mark.parametrize(("name", "kind", "before"), sampled(EVERY, BEFORE, nth=9, shift=3, complete=False))
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


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_a_pipeline_that_was_not_given_comes_first(name, kind):
    """Its first step could be one of the idle pipeline's; its second one cannot."""
    subject, pipe = SUBJECTS[name], SUBJECTS[name].build()
    other = sibling(pipe)
    with c4d.cached(pipe, subject.methods[kind]) as session:
        for _ in range(3):
            with pytest.raises(RunError, match=r"c4d\.cached\(\[one, other\], method\)"):
                subject.ask(other)
            assert all(entry.computed for entry in session.trace)
        like_alone(session, subject.ask(pipe), name, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_of_ones_own_that_was_stopped(kind):
    """Nobody says that it has ended; the timestep of what comes next does."""
    subject, pipe = SUBJECTS["wan"], built("wan")
    other = sibling(pipe)
    with c4d.cached(pipe, subject.methods[kind]) as session:
        with pytest.raises(Stop):
            subject.loop(pipe, stop=10)
        with pytest.raises(RunError, match=r"timestep is 999, and .* stands at .* does not drive this forward"):
            subject.ask(other)
        like_alone(session, subject.ask(pipe), "wan", kind)


@pytest.mark.parametrize("names", [("cond", "uncond"), (None, None)], ids=["named", "unnamed"])
def test_a_loop_that_never_steps_its_scheduler(names):
    subject, pipe = SUBJECTS["wan"], built("wan")
    pipe.scheduler.set_timesteps(8)
    with c4d.cached(pipe.transformer, "fora:interval=3", scheduler=pipe.scheduler) as session:
        with pytest.raises(RunError, match=r"does not drive this forward.*set_timesteps before it and step in it"):
            for t in pipe.scheduler.timesteps:
                for seed, name in enumerate(names):
                    with nullcontext() if name is None else pipe.transformer.cache_context(name):
                        pipe.transformer(
                            there(rand(*subject.latents)), timestep=t.expand(1), **there(subject.inputs(seed))
                        )
        assert len(session.trace) == 2


@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda pipe: pickle.loads(pickle.dumps(pipe))], ids=["copied", "pickled"]
)
def test_a_copy_of_a_pipeline_leaves_the_session_behind(how):
    subject, pipe = SUBJECTS["wan"], SUBJECTS["wan"].build()
    plain = subject.ask(pipe)
    with c4d.cached(pipe, subject.methods["stack"]) as session:
        assert torch.equal(subject.ask(how(pipe)), plain)
        assert not session.trace
        like_alone(session, subject.ask(pipe), "wan", "stack")


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_was_not_given_inside_a_step_of_another(kind):
    """Its forwards are made in the loop of the other, whose timesteps they do not have."""
    subject, pipe = SUBJECTS["wan"], built("wan")
    other = sibling(pipe)
    with c4d.cached(pipe, subject.methods[kind]) as session:
        with pytest.raises(RunError, match=r"timestep is 999, and .* does not drive this forward"):
            subject.ask(pipe, prompt="B", callback_on_step_end=at_step(3, lambda _: subject.ask(other)))
        assert session.bytes() == 0
        like_alone(session, subject.ask(pipe), "wan", kind)


class Told:
    """In a session's place, and in that of a pipeline with bars."""

    def __init__(self):
        self.said = []

    def begin_loop(self, loop):
        self.said.append("begin")

    def end_loop(self, loop):
        self.said.append("end")

    def progress_bar(self, timesteps):
        return iter(timesteps)


def test_a_progress_bar_that_somebody_set_comes_back():
    pipe = Told()
    pipe.progress_bar = own = lambda timesteps: iter(timesteps[:2])
    bar = ProgressBar(pipe, pipe, None)
    assert pipe.progress_bar is bar and list(bar([3, 2, 1])) == [3, 2]
    bar.remove()
    assert pipe.progress_bar is own


def test_a_loop_over_its_bar_that_is_left_early_has_ended():
    pipe = Told()
    bar = ProgressBar(pipe, pipe, object())
    steps = iter(bar([3, 2, 1]))
    assert next(steps) == 3 and pipe.said == ["begin"]
    steps.close()
    assert pipe.said == ["begin", "end"]
