"""Mixed requests in one session over two pipelines: no picture is another's, and memory does not grow."""

from __future__ import annotations

import functools
import gc
import random

import pytest
import torch

import c4d
from tests.seam.test_shared import aborted, interrupted, sibling
from tests.subjects import SUBJECTS, built

ASKED = [dict(steps=5, **more) for more in ({}, {"prompt": "B"}, {"guidance": 1.0}, {"frames": 9}, {"size": (32, 48)})]


KIND = "modules"


@functools.cache
def alone(number):
    with c4d.cached(built("wan", copy=1), SUBJECTS["wan"].methods[KIND]):
        return SUBJECTS["wan"].ask(built("wan", copy=1), **ASKED[number])


@pytest.mark.slow
@pytest.mark.parametrize("requests", [40, pytest.param(500, marks=pytest.mark.nightly)])
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
