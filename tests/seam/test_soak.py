"""Mixed requests in one session over two pipelines: no picture is another's, and memory does not grow."""

from __future__ import annotations

import functools
import gc
import hashlib
import random
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

import c4d
from tests.seam.test_shared import aborted, interrupted, sibling
from tests.subjects import SUBJECTS, built

ROOT = Path(__file__).resolve().parents[2]
ASKED = [dict(steps=5, **more) for more in ({}, {"prompt": "B"}, {"guidance": 1.0}, {"frames": 9}, {"size": (32, 48)})]


KIND = "modules"


@functools.cache
def alone(number):
    with c4d.cached(built("wan", copy=1), SUBJECTS["wan"].methods[KIND]):
        return SUBJECTS["wan"].ask(built("wan", copy=1), **ASKED[number])


@pytest.mark.slow
@pytest.mark.parametrize("requests", [16, pytest.param(500, marks=pytest.mark.nightly)])
def test_many_requests_over_two_pipelines(requests):
    """The answers of a fresh session bit for bit; after the last one as many tensors are alive as after the tenth."""
    subject, pipe = SUBJECTS["wan"], built("wan")
    pipes, choice, held = [pipe, sibling(pipe)], random.Random(0), {}
    with c4d.cached(pipes, subject.methods[KIND]) as session:
        for request in range(1, requests + 1):
            chosen, number = choice.choice(pipes), choice.randrange(len(ASKED))
            what = choice.randrange(6)
            if what < 2:
                (aborted, interrupted)[what](subject, chosen)
            else:
                assert torch.equal(subject.ask(chosen, **ASKED[number]), alone(number))
            assert session.bytes() == 0 and session.current is None
            if request in (10, requests):  # what a scheduler keeps of its last request is of the same one
                assert all(torch.equal(subject.ask(each, **ASKED[i]), alone(i)) for each in pipes for i in range(5))
                held[request] = alive()
    assert held[requests] == held[10]


def alive():
    """Bytes of all tensors that Python knows."""
    gc.collect()
    storages = [x.untyped_storage() for x in gc.get_objects() if type(x) is torch.Tensor]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def digest(x):
    return hashlib.sha256(x.numpy().tobytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("requests", [16, pytest.param(2000, marks=pytest.mark.nightly)])
def test_a_server_with_one_enabled_pipeline(requests):
    """Sizes, steps, prompts and aborts mixed: the memory of the tenth request, the last picture of a fresh process."""
    subject, pipe, choice, held = SUBJECTS["wan"], SUBJECTS["wan"].build(), random.Random(1), {}
    process = psutil.Process()
    session = c4d.enable(pipe, cache=subject.methods[KIND], attention="auto")
    for request in range(1, requests + 1):
        what = choice.randrange(6)
        if what < 2:
            (aborted, interrupted)[what](subject, pipe)
        else:
            subject.ask(pipe, **{**choice.choice(ASKED), "steps": choice.randrange(3, 8)})
        assert session.bytes() == 0
        if request in (10, requests):
            last = subject.ask(pipe, **ASKED[0])
            held[request] = alive(), process.memory_info().rss
    assert held[requests][0] == held[10][0]
    assert held[requests][1] - held[10][1] < 32 * 2**20, "resident memory grows"
    assert len({entry.run for entry in session.trace}) <= 16
    c4d.disable(pipe)
    code = f"""
import torch, c4d
torch.set_num_threads(1)
torch.set_grad_enabled(False)
from tests.seam import test_soak as soak
subject = soak.SUBJECTS["wan"]
pipe = subject.build()
c4d.enable(pipe, cache={subject.methods[KIND]!r}, attention="auto")
print(soak.digest(subject.ask(pipe, **soak.ASKED[0])))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split()[-1:] == [digest(last)], done.stderr
