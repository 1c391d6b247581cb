"""HyCa on a model: every channel of the hidden state is what its own solver makes of it."""

from __future__ import annotations

import json
import math

import pytest
import torch

import c4d
from c4d.core.caching.calibrated import CalibrationData
from c4d.core.integration.attach import check_fit
from c4d.core.text.grammar import MethodError, parse
from c4d.models import SPECS
from tests.tiny import CASES, rand

CASE, WIDTH, STEPS = CASES["wan-t2v"], 24, 9
MIXED = [("reuse", "taylor-1", "taylor-2", "adams-bashforth-2", "bdf-2")[d % 5] for d in range(WIDTH)]
ALONE = {
    "reuse": "taylorseer-lite:interval=3+reuse@blocks",
    "taylor-1": "taylorseer-lite:interval=3{}@blocks",
    "taylor-2": "taylorseer-lite:interval=3,order=2{}@blocks",
    "adams-bashforth-2": "taylorseer-lite:interval=3+adams-bashforth@blocks",
    "bdf-2": "taylorseer-lite:interval=3+bdf@blocks",
}


def written(folder, mine, **wrong):
    """The text of a method whose channels have these solvers."""
    names = sorted(set(mine))
    data = {"solvers": names, "channels": [names.index(name) for name in mine], **wrong}
    path = folder / "hyca.json"
    path.write_text(json.dumps(CalibrationData("hyca", data).to_dict()))
    return f"hyca:path={path},interval=3"


def run(text):
    """What the model returns for latents that nothing depends on, and the hidden state that leaves its blocks."""
    model, x, hidden, outs = CASE.build(), rand(*CASE.latents, seed=3), [], []
    with c4d.cached(model, text) as session:
        model.norm_out.register_forward_pre_hook(lambda module, args: hidden.append(args[0].clone()))
        session.begin(range(STEPS))
        for step in range(STEPS):
            outs.append(CASE.run(model, (1.0 - 0.05 * step) * x + 0.1 * math.sin(step), 900.0 - 70.0 * step))
    assert session.report().timelines["0"] == "CrrCrrCrr" or "warmup" in text
    return torch.stack(outs), torch.stack(hidden)


@pytest.mark.parametrize("more", ["", ",warmup=3"])
@pytest.mark.parametrize("name", ["taylor-1", "taylor-2"])
def test_one_solver_for_all_is_taylorseer(tmp_path, name, more):
    got, wanted = (run(text)[0] for text in (written(tmp_path, [name] * WIDTH) + more, ALONE[name].format(more)))
    assert torch.equal(got, wanted)


def test_every_channel_has_its_own_solver(tmp_path):
    _, got = run(written(tmp_path, MIXED))
    made = {name: run(text.format(""))[1] for name, text in ALONE.items()}
    assert len({tuple(x[7].flatten().tolist()) for x in made.values()}) == len(ALONE), "each makes something else"
    for d, name in enumerate(MIXED):
        torch.testing.assert_close(got[..., d], made[name][..., d], atol=1e-6, rtol=1e-6)


def test_it_keeps_no_more_features_than_its_solvers_need(tmp_path):
    count = {name: parse(written(tmp_path, [name, "reuse"])).rules[0].forecast.num_features for name in ALONE}
    assert count == dict(zip(ALONE, (1, 2, 3, 3, 3), strict=True))


def test_solvers_of_a_model_of_another_width_are_refused(tmp_path):
    with pytest.raises(ValueError, match="chosen for 23 channels, and this model has 24: c4d calibrate hyca"):
        run(written(tmp_path, MIXED[:-1]))


def test_a_model_with_two_streams_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is for the hidden state alone, .* return audio_hidden_states, too"):
        check_fit(parse(written(tmp_path, MIXED)), SPECS["LTX2VideoTransformer3DModel"])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"solvers": ["euler"]}, "unknown solver 'euler': known are reuse, taylor-1"),
        ({"channels": [0, 9]}, "a channel has solver 9, of 5 that are counted from 0"),
        ({"channels": [0, -1]}, "the channels of this calibration of hyca is broken"),
        ({"channels": [0, 0.5]}, "the channels of this calibration of hyca is broken"),
        ({"channels": []}, "the channels of this calibration of hyca is broken"),
        ({"solvers": 5}, "the solvers of this calibration of hyca is broken"),
    ],
)
def test_broken_files(tmp_path, wrong, says):
    with pytest.raises(MethodError, match=says):
        parse(written(tmp_path, MIXED, **wrong))
