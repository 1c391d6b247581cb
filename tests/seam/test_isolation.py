"""No generation leaves a trace in the next: whatever came before it in a session, it is what a fresh session makes."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import c4d
from c4d.core.runtime.branches import Branches
from c4d.core.runtime.steps import RunError
from tests.sampled import sampled
from tests.subjects import EVERY, KINDS, SUBJECTS, Stop, Subject, at_step, broken, built, like_alone
from tests.tiny import rand

ROOT = Path(__file__).resolve().parent.parent.parent


# -- whatever came before


def stop(*_):
    raise Stop


def aborted(subject, pipe):
    with pytest.raises(Stop):
        subject.ask(pipe, prompt="B", callback_on_step_end=at_step(3, stop))


def interrupted(subject, pipe):
    subject.ask(pipe, prompt="B", callback_on_step_end=at_step(3, lambda p: setattr(p, "_interrupt", True)))


def in_double(subject, pipe):
    models = [m for m in (pipe.transformer, getattr(pipe, "transformer_2", None)) if m is not None]
    kept = [(p, p.data) for model in models for p in model.parameters()]
    for model in models:
        model.double()
    subject.ask(pipe, prompt="B")
    for model in models:
        model.float()
    for parameter, data in kept:
        parameter.data = data  # itself and not a cast back: how it lies in memory decides the last bits of a product


def half_a_step(subject, pipe, names=("cond", "uncond")):
    with pytest.raises(Stop):
        subject.loop(pipe, names=names, stop=9)


BEFORE: dict[str, Callable[[Subject, Any], Any]] = {
    "another prompt": lambda s, pipe: s.ask(pipe, prompt="B"),
    "fewer steps": lambda s, pipe: s.ask(pipe, prompt="B", steps=5),
    "more steps": lambda s, pipe: s.ask(pipe, prompt="B", steps=11),
    "another size": lambda s, pipe: s.ask(pipe, size=(32, 48), frames=9),
    "two videos": lambda s, pipe: s.ask(pipe, prompt="B", num_videos_per_prompt=2),
    "two prompts": lambda s, pipe: s.ask(pipe, prompt="B", prompts=2, steps=5),
    "another guidance": lambda s, pipe: s.ask(pipe, guidance=7.0),
    "no guidance": lambda s, pipe: s.ask(pipe, prompt="B", guidance=1.0),
    "another dtype": in_double,
    "aborted": aborted,
    "interrupted": interrupted,
    "broken in a forward": broken,
    "broken in a block": functools.partial(broken, blocks=True),
    "stopped between two calls": half_a_step,
    "uncond skipped": lambda s, pipe: s.loop(pipe, skip=(2, 5, 7)),
    "unnamed calls stopped between two": functools.partial(half_a_step, names=(None, None)),
}


@pytest.mark.parametrize(("name", "kind", "before"), sampled(EVERY, BEFORE, nth=10))
def test_no_trace_in_the_next_generation(name, kind, before):
    subject, pipe = SUBJECTS[name], built(name)
    with c4d.cached(pipe, subject.methods[kind]) as session:
        BEFORE[before](subject, pipe)
        assert session.trace
        like_alone(session, subject.ask(pipe), name, kind)


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_what_is_compared_computes_and_reuses(name, kind):
    """Else nothing above could fail: stored features are used, and thresholds are neither out of reach nor passed."""
    lines = timeline(name, kind)
    assert set(lines) == {"cond", "uncond"}
    for line in lines.values():
        assert "C" in line[1:] and "r" in line
        assert all(of_expert.startswith("C") for of_expert in line.split("|"))


def timeline(name, kind):
    with c4d.cached(built(name, copy=1), SUBJECTS[name].methods[kind]) as session:
        SUBJECTS[name].ask(built(name, copy=1))
    return session.report().timelines


def test_the_model_is_left_as_it_was():
    pipe, subject = built("wan"), SUBJECTS["wan"]
    plain = subject.ask(built("wan", copy=1))
    with c4d.cached(pipe, subject.methods["stack"]):
        aborted(subject, pipe)
    assert torch.equal(subject.ask(pipe), plain)


# -- two fresh processes


def digests(prompts, names):
    """Subject and kind -> what each of ``prompts`` made, asked for one after the other in one session."""
    made = {}
    for name in names:
        for kind, method in SUBJECTS[name].methods.items():
            with c4d.cached(built(name), method):
                results = [SUBJECTS[name].ask(built(name), prompt=prompt) for prompt in prompts]
            made[f"{name} {kind}"] = [hashlib.sha256(r.numpy().tobytes()).hexdigest() for r in results]
    return made


@pytest.mark.nightly  # make test asks one fresh process: test_soak.py
@pytest.mark.parametrize("names", [list(SUBJECTS)])
def test_two_prompts_in_a_row_equal_two_fresh_processes(names):
    """Each is a fork of one that has imported everything and built nothing."""
    code = f"""
import json, os, sys, torch
torch.set_num_threads(1)
torch.set_grad_enabled(False)
from tests.seam.test_isolation import digests
for prompt in "AB":
    if os.fork() == 0:
        print(json.dumps(digests(prompt, {names})), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"the process of prompt {{prompt}} failed")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    assert digests("AB", names) == {key: first[key] + second[key] for key in first}
    assert all(first[key] != second[key] for key in first)


# -- skipped forwards and unnamed ones, observed


@pytest.mark.parametrize(("name", "kind", "named"), sampled(EVERY, ["named", "unnamed"], nth=5, complete=False))
def test_a_skipped_pass_changes_nothing_for_the_other_branch(name, kind, named):
    """The latents move by cond alone here, so that cond must be the same bit for bit whenever uncond is left out."""
    subject, pipe, results = SUBJECTS[name], built(name), []
    names = ("cond", "uncond") if named == "named" else (None, None)
    with c4d.cached(pipe, subject.methods[kind]) as session:
        for skip in ((), (2, 3, 6), range(8)):
            out = subject.loop(pipe, names=names, skip=skip, guided=False)
            results.append((out, session.report().timelines))
    (every, lines), (some, skipped), (none, cond) = results
    assert torch.equal(every, some) and torch.equal(every, none)
    first, second = ("cond", "uncond") if names[0] else ("0", "1")
    assert lines[first] == skipped[first] == cond[first] and "r" in lines[first] and second not in cond
    assert len(lines[second]) == 8 and len(skipped[second]) == 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["wan", "hunyuan"])
def test_two_unnamed_calls_a_step_are_as_good_as_named_ones(name, kind):
    subject, pipe = SUBJECTS[name], built(name)
    with c4d.cached(pipe, subject.methods[kind]) as session:
        subject.ask(pipe)
        half_a_step(subject, pipe, names=(None, None))
        out = subject.loop(pipe, names=(None, None))
        report = session.report()
        assert torch.equal(out, subject.loop(pipe))
    assert list(report.timelines.values()) == list(session.report().timelines.values())
    assert set(report.timelines) == {"0", "1"}


def guided(subject, pipe, order, *, named, until=8, begin=0, text=lambda x: x):
    """A loop of one's own whose guidance lasts from step ``begin`` to ``until``; the predictions of cond alone."""
    pipe.scheduler.set_timesteps(8)
    inputs, x, outs = {"cond": subject.inputs(0), "uncond": subject.inputs(1)}, rand(*subject.latents, seed=3), []
    for i, t in enumerate(pipe.scheduler.timesteps):
        out = {}
        for name in order if begin <= i < until else ["cond"]:
            given = {key: text(value) for key, value in inputs[name].items()}
            with pipe.transformer.cache_context(name) if named else nullcontext():
                out[name] = pipe.transformer(x, timestep=t.expand(1), **given, return_dict=False)[0].clone()
        outs.append(out["cond"])
        x = pipe.scheduler.step(out["cond"], t, x, return_dict=False)[0]
    return torch.stack(outs)


LASTS = [dict(until=4), dict(begin=3), dict(begin=1, until=7), dict(begin=2, until=3)]


@pytest.mark.parametrize(
    ("name", "kind", "first", "second", "lasts"),
    sampled(EVERY, [("cond", "uncond"), ("uncond", "cond")], LASTS, nth=10, complete=False),
)
def test_a_call_without_a_name_is_told_by_its_text(name, kind, first, second, lasts):
    subject, pipe, order = SUBJECTS[name], built(name), (first, second)
    with c4d.cached(pipe, subject.methods[kind]) as session:
        expected = guided(subject, pipe, order, named=True, **lasts)
        lines = session.report().timelines
        if lasts.get("begin") == 1 and order[0] == "uncond":  # one step has not shown yet what stays the same
            with pytest.raises(RunError, match="a step has 2 calls without names, and the one before had 1"):
                guided(subject, pipe, order, named=False, **lasts)
            return
        assert torch.equal(guided(subject, pipe, order, named=False, **lasts), expected)
        assert sorted(session.report().timelines.values()) == sorted(lines.values())


def test_two_parts_of_one_tensor_are_two_texts():
    """As where a loop cuts the embeddings of both branches out of one batch."""
    branches, both = Branches(), torch.zeros(2, 5, 4)
    cond, uncond = ({"encoder_hidden_states": part} for part in both.chunk(2))
    assert [branches.place(0, cond), branches.place(0, uncond)] == ["0", "1"]
    assert [branches.place(1, cond), branches.place(1, uncond)] == ["0", "1"]
    assert [branches.place(2, uncond), branches.place(2, cond)] == ["1", "0"]
    assert [branches.place(3, uncond)] == ["1"]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_that_are_made_anew_tell_nothing(kind):
    """The order of the calls does, as long as every step has as many."""
    subject, pipe = SUBJECTS["wan"], built("wan")
    with c4d.cached(pipe, subject.methods[kind]):
        expected = guided(subject, pipe, ("uncond", "cond"), named=True)
        assert torch.equal(guided(subject, pipe, ("uncond", "cond"), named=False, text=torch.clone), expected)
        for lasts, now, before in ((dict(until=4), 1, 2), (dict(begin=3), 2, 1)):
            with pytest.raises(
                RunError, match=f"a step has {now} calls without names, and the one before had {before}"
            ):
                guided(subject, pipe, ("uncond", "cond"), named=False, text=torch.clone, **lasts)
