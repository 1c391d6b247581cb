"""HyCa's calibration: planted channels find their solvers, sums and figures are what they say."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

import c4d
from c4d.calibrate.collect import collected
from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.published import CALIBRATIONS
from c4d.calibrate.published.hyca import adjusted_rand, clustered, errors, indicators, motion
from c4d.calibrate.recording import Run
from c4d.core.caching.feature_forecasters import SOLVERS
from c4d.core.caching.policies import Interval
from tests import pipes

STEPS, EACH = 33, 3
NAMES = ("reuse", "taylor-1", "taylor-2", "adams-bashforth-2", "bdf-2")
PLANTED = {  # of a channel, over the steps
    "constant": lambda t: 5.0,
    "linear": lambda t: 3.0 * t,
    "fast": lambda t: 8.0 * math.cos(math.pi * t / 4),
    "slow": lambda t: 600.0 * math.cos(math.pi * t / 24),
}
KINDS = [kind for kind in PLANTED for _ in range(EACH)]


def planted(tokens=4, scale=1.0):
    """branch -> [1, tokens, D] a step: ``EACH`` channels of each kind, of more or less the same size."""
    sizes = torch.tensor([1.0, 1.25, 1.5]).repeat(len(PLANTED)) * scale
    steps = [torch.tensor([PLANTED[kind](t) for kind in KINDS]) * sizes for t in range(STEPS)]
    return {branch: [x.expand(1, tokens, -1) for x in steps] for branch in ("cond", "uncond")}


def fitted(*runs, **options):
    made = CALIBRATIONS["hyca"](interval=4, **options)
    return made.fit([{"steps": STEPS, **made.reduce(Run(hidden=hidden))} for hidden in runs])


REUSED = [t for t in range(5, STEPS) if t % 4]  # by an interval of 4, with two features before it


def off(kind, name, t):
    """The squared error of a solver on a planted channel, of size 1, at a step; by the definition."""
    f, past = PLANTED[kind], [float(s) for s in range(0, t, 4)][-SOLVERS[name].num_features :]
    return (sum(w * f(s) for w, s in zip(SOLVERS[name].weights(past, float(t)), past, strict=True)) - f(t)) ** 2


def share(kind, name):
    """The same over all steps, each as a part of what all channels are off by if they are reused."""
    return sum(off(kind, name, t) / sum(off(each, "reuse", t) for each in PLANTED) for t in REUSED) / EACH


def test_planted_channels_find_the_solver_of_least_error():
    found = fitted(planted())
    chosen = [found.data["solvers"][i] for i in found.data["channels"]]
    best = {kind: min(NAMES, key=lambda name: round(share(kind, name), 9)) for kind in PLANTED}
    assert chosen == [best[kind] for kind in KINDS]
    assert (best["constant"], best["linear"], best["fast"]) == ("reuse", "taylor-1", "reuse")
    assert best["slow"] not in ("reuse", "taylor-1")
    assert [each["channels"] for each in found.figures["clusters"]] == [EACH] * 4


def test_sums_are_those_of_the_definition():
    h, sizes = planted()["cond"], torch.tensor([1.0, 1.25, 1.5]).double()
    moved = motion(h)
    for i, kind in enumerate(PLANTED):
        f = list(map(PLANTED[kind], range(STEPS)))
        first = sum(abs(b - a) for a, b in pairwise(f))
        second = sum(abs(c - 2 * b + a) for a, b, c in zip(f, f[1:], f[2:], strict=False))
        here = moved[:, EACH * i : EACH * (i + 1)]
        torch.testing.assert_close(
            here, 4 * torch.outer(torch.tensor([first, second]).double(), sizes), atol=1e-3, rtol=1e-5
        )
        found = errors(h, Interval(4), NAMES)[:, :, EACH * i]
        wanted = torch.tensor([[off(kind, name, t) for name in NAMES] for t in REUSED]).double()
        torch.testing.assert_close(found, 4 * wanted, atol=1e-3, rtol=1e-4)


def test_a_warm_up_drops_the_features_that_the_method_drops():
    """With a warm-up of 3 the first feature that counts is that of step 1."""
    h = [torch.tensor([[[1e6 if t == 0 else 3.0 * t]]]) for t in range(9)]
    assert errors(h, Interval(3, 3), ["taylor-2"]).sum() < 1e-6
    assert errors(h, Interval(3, 1), ["taylor-2"]).sum() > 1e6


def test_figures_are_of_samplings_that_did_not_choose():
    one, other = planted(), planted(scale=2.0)
    found = fitted(one, other).figures
    assert found["rand"] == {"mean": 1.0, "least": 1.0} and found["samples"] == 2
    best, reuse = (sum(min(share(kind, n) for n in names) for kind in PLANTED) for names in (NAMES, ("reuse",)))
    assert found["error"]["chosen"] == pytest.approx((best / reuse) ** 0.5, rel=1e-4)
    assert found["error"]["reuse"] == 1.0 and found["error"]["chosen"] < min(found["error"][n] for n in NAMES)
    assert fitted(one).figures["rand"] is None
    turned = {branch: [x.flip(-1) for x in steps] for branch, steps in planted(scale=0.1).items()}
    against = fitted(one, turned).figures  # solvers that are chosen for the first one are the wrong ones for the other
    assert against["error"]["chosen"] > 1.0


def test_more_features_more_candidates():
    assert CALIBRATIONS["hyca"](order=1).solvers == ["reuse", "taylor-1"]
    assert CALIBRATIONS["hyca"](order=3).solvers == ["reuse", "taylor-1", "taylor-2", "taylor-3", *NAMES[3:]]


def test_what_nothing_can_be_chosen_by():
    made = CALIBRATIONS["hyca"](interval=40)
    with pytest.raises(CalibrationError, match=r"of the 33 steps .*Interval\(interval=40.*nothing to choose"):
        made.fit([{"steps": STEPS, **made.reduce(Run(hidden=planted()))}])
    hidden = planted()
    hidden["cond"][7] = hidden["cond"][7] * math.nan
    with pytest.raises(CalibrationError, match="not finite"):
        fitted(hidden)


def test_k_means_finds_what_lies_together():
    made = torch.Generator().manual_seed(3)
    middles = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]], dtype=torch.float64)
    mine = torch.randint(4, (60,), generator=made)
    points = middles[mine] + torch.rand(60, 2, generator=made, dtype=torch.float64)
    assert adjusted_rand(clustered(points, 4), mine) == 1.0
    assert torch.equal(clustered(points, 4), clustered(points, 4))
    assert torch.isfinite(indicators(torch.zeros(2, 5, dtype=torch.float64))).all()


@pytest.mark.parametrize(
    ("a", "b", "index"),
    [
        ([0, 0, 1, 2], [2, 2, 0, 1], 1.0),
        ([0, 0, 1, 2], [0, 0, 1, 1], 4 / 7),
        ([0, 0, 1, 1], [0, 1, 0, 1], -0.5),
        ([0, 0, 0, 0], [0, 1, 2, 3], 0.0),
        ([0, 0, 0], [0, 0, 0], 1.0),
    ],
)
def test_the_adjusted_rand_index(a, b, index):
    """Worked out by hand: pairs that are together in both, less those by chance."""
    assert adjusted_rand(torch.tensor(a), torch.tensor(b)) == pytest.approx(index)


def test_records_of_other_options_are_not_taken(tmp_path):
    """What is kept of a sampling depends on the interval and the candidates, not on the number of clusters."""
    pipe = pipes.text_to_video()[0]
    pipe.set_progress_bar_config(disable=True)
    call = {"height": 32, "width": 32, "num_frames": 5, "max_sequence_length": 8, "num_inference_steps": 4}

    def told(**options):
        lines = []
        made = CALIBRATIONS["hyca"](**options)
        collected(
            pipe, made, partial(c4d.cached, pipe), prompts=["a"], samples=1, work=tmp_path, told=lines.append, **call
        )
        return lines[0].rpartition(": ")[2]

    assert [told(interval=2), told(interval=2, clusters=3), told(interval=3), told(interval=2, order=1)] == [
        "4 steps recorded",
        "as it was kept",
        "4 steps recorded",
        "4 steps recorded",
    ]
