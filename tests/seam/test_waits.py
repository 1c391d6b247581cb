"""On a GPU (C4D_TEST_DEVICE=1): a cached loop waits for the device where its method says so, and nowhere else."""

from __future__ import annotations

import warnings

import pytest
import torch

import c4d
from tests.device import DEVICE
from tests.subjects import EVERY, SUBJECTS, built

pytestmark = pytest.mark.skipif(DEVICE.type != "cuda", reason="CUDA alone counts the waits of the host")


def waits(act):
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            act()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_waits(name, kind):
    subject, pipe = SUBJECTS[name], built(name)
    subject.ask(pipe)
    plain = waits(lambda: subject.ask(pipe))
    with c4d.cached(pipe, subject.methods[kind]) as session:
        subject.ask(pipe)
        before = len(session.trace)
        cached = waits(lambda: subject.ask(pipe))
        asked = len(session.trace) - before if kind in ("signal", "head") else 0
    more = [where for where in cached if where not in plain]
    assert len(cached) <= len(plain) + asked, (len(plain), len(cached), sorted(set(more)))
