"""Two pipelines in one process, two threads, and what an interrupted pass or a thread leaves in a session."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch

import c4d
from c4d.backends.reference import Reference
from c4d.core.integration.hooks import ForwardPatch, Hooks, Layer
from c4d.pipelines.phases import Stopwatch
from tests.subjects import SUBJECTS, at_step, broken, built, like_alone, raising_at
from tests.tiny import CASES, rand

# -- two pipelines

PAIRS = pytest.mark.parametrize(
    ("one", "two"),
    [
        (("wan", "stack"), ("hunyuan", "head")),
        (("hunyuan", "signal"), ("wan", "modules")),
        (("wan-tiny", "head"), ("wan-experts", "stack")),
        (("wan", "output"), ("wan", "signal")),
    ],
    ids="{0[0]}-{0[1]}".format,
)


@PAIRS
def test_a_generation_inside_another(one, two):
    """The second pipeline's whole generation happens between two steps of the first one's."""
    pipes = built(one[0]), built(two[0], copy=2)
    methods = [SUBJECTS[name].methods[kind] for name, kind in (one, two)]
    with c4d.cached(pipes[0], methods[0]) as outer, c4d.cached(pipes[1], methods[1]) as inner:
        results = []
        ask = at_step(3, lambda _: results.append(SUBJECTS[two[0]].ask(pipes[1])))
        out = SUBJECTS[one[0]].ask(pipes[0], callback_on_step_end=ask)
        like_alone(outer, out, *one)
        like_alone(inner, results[0], *two)


def each_step(act):
    def callback(pipe, i, t, tensors):
        act()
        return tensors

    return callback


@pytest.mark.parametrize("in_step", [True, False], ids=["step by step", "freely"])
@PAIRS
def test_two_threads_with_a_pipeline_each(one, two, in_step):
    """``in_step`` lets neither begin a step before the other has ended its own."""
    meet, sessions, results = threading.Barrier(2, timeout=60), {}, {}

    def work(who, pipe):
        name, kind = who
        callback = each_step(meet.wait) if in_step else None
        try:
            with c4d.cached(pipe, SUBJECTS[name].methods[kind]) as session:
                for k in range(3):
                    result = SUBJECTS[name].ask(pipe, callback_on_step_end=callback)
                    results[who, k], sessions[who] = result, session
        except BaseException:
            meet.abort()  # the other one need not wait
            raise

    threads = [
        threading.Thread(target=work, args=args) for args in ((one, built(one[0])), (two, built(two[0], copy=2)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for who in (one, two):
        assert sessions[who].report().runs == 3
        for k in range(3):
            like_alone(sessions[who], results[who, k], *who)


# -- what an abort or a thread leaves in the session itself


def test_an_interrupt_from_the_keyboard_ends_its_pass():
    """It is no Exception, and torch calls forward hooks after nothing but those."""
    subject, pipe = SUBJECTS["wan"], built("wan", copy=3)
    with c4d.cached(pipe, subject.methods["stack"]) as session:
        broken(subject, pipe, KeyboardInterrupt, blocks=True)
        like_alone(session, subject.ask(pipe), "wan", "stack")
        broken(subject, pipe, KeyboardInterrupt, blocks=True)
        assert session.current is None and session.bytes() == 0  # the end of the loop finds it
        with pytest.raises(KeyboardInterrupt):  # without one, the end of the session
            handle = raising_at(pipe.transformer.blocks[-1], 0, KeyboardInterrupt)
            subject.loop(pipe)
        handle.remove()
        assert session.current is not None
    assert session.current is None and session.bytes() == 0


def test_a_thread_that_comes_between_two_passes_of_another_is_an_error():
    """Its passes would be taken for the next step of the run that it interrupts, and answered from that run's past."""
    subject, pipe, errors = SUBJECTS["wan"], built("wan", copy=3), []

    def intrude(_):
        def other():
            try:
                with torch.no_grad(), pipe.transformer.cache_context("cond"):
                    pipe.transformer(rand(*subject.latents, seed=9), timestep=torch.tensor([500]), **subject.inputs(5))
            except RuntimeError as error:
                errors.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    with c4d.cached(pipe, subject.methods["stack"]) as session:
        out = subject.ask(pipe, callback_on_step_end=at_step(3, intrude))
        like_alone(session, out, "wan", "stack")
    assert len(errors) == 1 and "one pipeline per thread" in errors[0]


def test_the_name_of_a_call_belongs_to_its_thread():
    """A thread that is inside ``cache_context`` names neither another's calls nor what comes after both."""
    pipe = built("wan", copy=3)
    inside, leave = threading.Event(), threading.Event()

    def other():
        with pipe.transformer.cache_context("uncond"):
            inside.set()
            leave.wait(60)

    with c4d.cached(pipe, SUBJECTS["wan"].methods["stack"]) as session:
        thread = threading.Thread(target=other)
        with pipe.transformer.cache_context("cond"):
            thread.start()
            inside.wait(60)
            assert session.name == "cond"
        leave.set()
        thread.join()
        assert session.name is None


@pytest.mark.parametrize("step", [0, 3, 6])
def test_the_owner_of_a_run_whose_pipeline_another_thread_called_is_told(step):
    """During a pass the other is refused, but has exchanged the timesteps by then; between two it takes over."""
    subject, pipe, errors = SUBJECTS["wan"], built("wan", copy=3), []

    def intrude(_):
        def other():
            try:
                with torch.no_grad():
                    subject.ask(pipe, prompt="B")
            except RuntimeError as error:
                errors.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    def in_a_pass(*_):
        if not errors:
            intrude(None)

    with c4d.cached(pipe, subject.methods["stack"]) as session:
        with pytest.raises(RuntimeError, match="another thread"):
            handle = pipe.transformer.patch_embedding.register_forward_hook(in_a_pass) if step == 0 else None
            subject.ask(pipe, callback_on_step_end=at_step(step, intrude) if step else None)
        if handle is not None:
            handle.remove()
        like_alone(session, subject.ask(pipe), "wan", "stack")


def test_a_run_cannot_be_opened_in_a_session_that_is_left():
    pipe = built("wan", copy=3)
    with c4d.cached(pipe.transformer, "fora:interval=2") as session:
        session.begin([1.0])
    with pytest.raises(RuntimeError, match="inside its with block"):
        session.begin([1.0])


def test_hooks_stand_in_their_order_whoever_comes_first():
    """Layer by layer in front of the hooks of others, the cache behind them; first of what follows a forward, too."""
    model, said = torch.nn.Linear(1, 1), []

    class Owner:
        def __init__(self, name):
            self.name = name

        def enter(self, args, kwargs):
            said.append(self.name)

        def leave(self, args, output):
            said.append(f"-{self.name}")

    for layers in itertools.permutations([Layer.CACHE, Layer.ATTENTION, Layer.BRANCHES, Layer.SHARDING]):
        others = model.register_forward_pre_hook(lambda *_: said.append("others"))
        owners = [Owner(layer.name) for layer in layers]
        hooks = [Hooks(layer) for layer in layers]
        for owner, each in zip(owners, hooks, strict=True):
            each.before(model, owner.enter)
            if each._layer in (Layer.BRANCHES, Layer.SHARDING):
                each.after(model, owner.leave, first=True)
        model(torch.zeros(1))
        assert said == ["BRANCHES", "SHARDING", "ATTENTION", "others", "CACHE", "-BRANCHES", "-SHARDING"]
        others.remove()
        for each in hooks:
            each.remove()
        said.clear()
        model(torch.zeros(1))
        assert not said


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_forwards_on_a_module_either_may_go_first(order):
    class Owner:
        def __init__(self, name):
            self.current = name

    model, said, owners = torch.nn.Linear(1, 1), [], [Owner("inner"), Owner("outer")]

    def around(current, original, args, kwargs):
        said.append(current)
        return original(*args, **kwargs)

    patches = [ForwardPatch(owner, model, around) for owner in owners]
    model(torch.zeros(1))
    assert said == ["outer", "inner"]
    patches[order[0]].remove()
    model(torch.zeros(1))
    assert said[2:] == [owners[order[1]].current]
    patches[order[1]].remove()
    assert "forward" not in vars(model)


def timed(model):
    return Stopwatch(SimpleNamespace(transformer=model), Reference())


@pytest.mark.parametrize("watch", [c4d.attention, timed])
def test_a_model_goes_with_its_last_name(watch):
    """Gigabytes of weights do not wait for the garbage collector after a block that is left."""
    model = CASES["wan-t2v"].build()
    gone = weakref.ref(model)
    gc.collect()
    gc.disable()
    try:
        with watch(model):
            CASES["wan-t2v"].run(model, rand(*CASES["wan-t2v"].latents), 500.0)
        del model
        assert gone() is None
    finally:
        gc.enable()
