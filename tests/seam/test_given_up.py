"""A request that is given up holds nothing once its exception was caught, whoever raised it and wherever."""

from __future__ import annotations

import pytest
import torch

import c4d
from tests.pipes import dit
from tests.subjects import SUBJECTS, Stop, at_step
from tests.tiny import CASES, rand

SUBJECT, METHOD = SUBJECTS["wan"], "taylorseer:interval=3"


def raising(error, at, real=None):
    """Raises at its call of that number; until then it does what ``real`` does."""
    calls = iter(range(1, at))

    def call(*args, **kwargs):
        if next(calls, None) is None:
            raise error
        return real(*args, **kwargs) if real else None

    return call


def in_callback(pipe, error):
    SUBJECT.ask(pipe, callback_on_step_end=at_step(4, raising(error, 1)))


def in_scheduler(pipe, error):
    pipe.scheduler.step = raising(error, 4, pipe.scheduler.step)
    SUBJECT.ask(pipe)


def in_block(pipe, error):
    pipe.transformer.blocks[1].register_forward_hook(raising(error, 3))
    SUBJECT.ask(pipe)


def in_decoder(pipe, error):
    pipe.vae.decode = raising(error, 1)
    pipe(**SUBJECT.request())


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, torch.OutOfMemoryError])
@pytest.mark.parametrize("where", [in_callback, in_scheduler, in_block, in_decoder])
def test_a_pipeline_that_raises_under_enable(where, error):
    pipe = SUBJECT.build()
    session, most = c4d.enable(pipe, cache=METHOD), []
    pipe.transformer.register_forward_hook(lambda *_: most.append(session.bytes()))
    with pytest.raises(error):
        where(pipe, error)
    assert max(most) > 0 and session.bytes() == 0
    c4d.disable(pipe)


def test_a_loop_over_the_bar_itself():
    """DiT's has no with block: Python ends it when the exception leaves its frame."""
    pipe = dit()[0]
    pipe.set_progress_bar_config(disable=True)
    session, most = c4d.enable(pipe, cache="taylorseer-lite:interval=3@blocks"), []
    pipe.transformer.register_forward_hook(lambda *_: most.append(session.bytes()))
    pipe.scheduler.step = raising(Stop, 4, pipe.scheduler.step)
    with pytest.raises(Stop):
        pipe(class_labels=[1], num_inference_steps=8)
    assert max(most) > 0 and session.bytes() == 0
    c4d.disable(pipe)


@pytest.mark.parametrize("entry", ["cached", "enable"])
def test_a_loop_of_ones_own_that_says_where_it_ends(entry):
    case = CASES["wan-t2v"]
    model, x = case.build(), rand(*case.latents)
    session = c4d.enable(model, cache=METHOD) if entry == "enable" else c4d.cached(model, METHOD).__enter__()
    with pytest.raises(Stop), session.begin([900.0] * 4):
        case.run(model, x, 900.0), case.run(model, x, 900.0)
        assert session.bytes() > 0
        raise Stop
    assert session.bytes() == 0
    session.begin([900.0] * 4)
    case.run(model, x, 900.0)
    assert session.bytes() > 0  # nobody said where this one ends
    first = session.begin([900.0] * 4)
    later = session.begin([900.0] * 4)
    with later:
        with first:
            case.run(model, x, 900.0)
        assert session.bytes() > 0  # the end of one is not that of the other
    assert session.bytes() == 0
    session.disable() if entry == "enable" else session.__exit__()
