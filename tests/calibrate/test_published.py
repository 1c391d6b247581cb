"""Calibrations of published methods: planted relations are found, noise is refused, methods do what is written."""

from __future__ import annotations

import json
import math
import random
from functools import partial
from itertools import pairwise

import pytest
import torch

import c4d
from bench.clips import pipeline, unmeasured
from bench.learned import Learned
from c4d.calibrate.calibration import Fitted
from c4d.calibrate.collect import collected, file_of, kept
from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.polynomials import explained, least_squares, monotone
from c4d.calibrate.published import CALIBRATIONS
from c4d.calibrate.published.dpcache import costs
from c4d.calibrate.published.l2p import gram, weights
from c4d.calibrate.recording import recording
from c4d.core.caching.calibrated import CalibrationData
from c4d.core.caching.curves import Curve, curve_of, of_ratios
from c4d.core.caching.profile import ProfileError
from c4d.core.integration.transformers import signature
from c4d.core.methods.easycache import EasyCachePolicy
from c4d.core.methods.magcache import MagCachePolicy
from c4d.core.text.grammar import MethodError, parse
from c4d.core.types import Action, RelativeL1, Signal, Step
from c4d.models import spec_for
from tests import pipes
from tests.subjects import SUBJECTS

T = 6
STEPS = 14
CALL = {"height": 32, "width": 32, "num_frames": 5, "max_sequence_length": 8, "guidance_scale": 3.0}
PROMPTS = ["a red circle", "a blue square"]
PLANTED = (30.0, -4.0, 1.5, 0.2, 0.01)  # rises wherever it is sampled


def value(coefficients, x):
    return sum(c * x**k for k, c in enumerate(reversed(coefficients)))


def written(path, method, data, made_for=None):
    path.write_text(json.dumps(CalibrationData(method, data, made_for).to_dict()))
    return path


def planted(x):
    return value(PLANTED, x)


def pairs(count=40, seed=0, relation=planted):
    draw = random.Random(seed)
    xs = [0.02, 0.4, *(draw.uniform(0.02, 0.4) for _ in range(count - 2))][:count]
    return [(x, relation(x)) for x in xs]


def fitted(runs, text="input", **options):
    made = CALIBRATIONS["teacache"](signal=text, **options)
    return made.fit(made.of_differences(runs))


# -- polynomials


def test_the_powers_of_a_planted_polynomial():
    x, y = zip(*pairs(), strict=True)
    for fit in (least_squares(x, y), monotone(x, y)):
        assert fit.coefficients == pytest.approx(PLANTED, rel=1e-7, abs=1e-9)
        assert (fit.low, fit.high) == (min(x), max(x))
        assert explained(fit, x, y) == pytest.approx(1.0)


def test_a_monotone_fit_never_falls_and_is_never_negative():
    x = [i / 50 for i in range(51)]
    y = [math.sin(7 * each) - 0.3 for each in x]  # rises, falls, and is negative
    free, kept_up = least_squares(x, y), monotone(x, y)
    values = [kept_up(each / 1000) for each in range(1001)]
    assert all(b >= a - 1e-12 for a, b in pairwise(values)) and min(values) >= -1e-12
    assert min(map(free, x)) < 0 and explained(free, x, y) > explained(kept_up, x, y)


def test_the_monotone_fit_is_the_best_of_its_kind():
    """No other rises of the Bernstein coefficients, near or far, leave a smaller error."""
    draw = random.Random(1)
    x = [i / 30 for i in range(31)]
    y = [max(0.0, each - 0.4) ** 0.5 + draw.gauss(0, 0.05) for each in x]
    best = sum((monotone(x, y)(a) - b) ** 2 for a, b in zip(x, y, strict=True))
    for _ in range(3000):
        heights, total = [], 0.0
        for _ in range(5):
            total += max(0.0, draw.gauss(0.1, 0.2))
            heights.append(total)
        bern = [sum(h * math.comb(4, k) * t**k * (1 - t) ** (4 - k) for k, h in enumerate(heights)) for t in x]
        assert sum((a - b) ** 2 for a, b in zip(bern, y, strict=True)) >= best


def test_a_polynomial_needs_as_many_changes_as_coefficients():
    with pytest.raises(ValueError, match="2 different changes, and a polynomial of degree 4 needs 5"):
        least_squares([0.1, 0.2, 0.1], [1.0, 2.0, 1.0])


# -- TeaCache, of recorded differences


@pytest.mark.parametrize("shape", ["monotone", "least-squares"])
def test_a_planted_relation_is_found(shape):
    made = fitted({"a": pairs(seed=1), "b": pairs(seed=2)}, shape=shape)
    assert made.data["coefficients"] == pytest.approx(PLANTED, rel=1e-6, abs=1e-8)
    assert made.data["signal"] == "input" and made.figures["held_out_r2"] == pytest.approx(1.0)
    low, high = made.data["range"]
    assert 0.02 <= low < high <= 0.4
    assert made.figures["made_of"] | {"target": ""} == {
        "prompts": 2, "learned": 1, "held_out": 1, "held_out_are": "other prompts", "pairs": 80, "left_out": 0,
        "target": "",
    }  # fmt: skip


def test_noise_is_refused_with_its_figures():
    draw = random.Random(0)
    noise = {name: pairs(seed=name, relation=lambda x: draw.random()) for name in ("a", "b", "c")}
    with pytest.raises(CalibrationError, match=r"R\^2 of the monotone fit .* input -?0\.\d\d; below 0\.3 .*least="):
        fitted(noise)


def test_steps_that_are_no_number_are_left_out():
    broken = [*pairs(seed=1), (math.nan, 0.2), (0.1, math.inf)]
    made = fitted({"a": broken, "b": [*pairs(seed=2), (0.3, math.nan)]})
    assert made.data["coefficients"] == pytest.approx(PLANTED, rel=1e-6, abs=1e-8)
    assert made.figures["made_of"]["left_out"] == 3 and any("3 left out that are no numbers" in x for x in made.lines)


def test_one_run_or_two_steps_are_too_few():
    with pytest.raises(CalibrationError, match="one sampling leaves none to judge"):
        fitted({"a": pairs()})
    with pytest.raises(CalibrationError, match=r"input none \(it shows 1 different changes, .* needs 5\)"):
        fitted({"a": pairs(1), "b": pairs(1)})


def test_of_what_signal_differences_are_has_to_be_said():
    with pytest.raises(CalibrationError, match=r"teacache:signal=.*known: time_embedding"):
        CALIBRATIONS["teacache"]().of_differences({"a": pairs()})
    with pytest.raises(CalibrationError, match="DPCache is not made of recorded differences"):
        CALIBRATIONS["dpcache"]().of_differences({"a": pairs()})


def test_thresholds_compute_what_they_say():
    """Replayed by the policy of the method that reads the file."""
    runs = {"a": pairs(seed=1), "b": pairs(seed=2)}
    made = fitted(runs)
    assert len(made.figures["thresholds"]) >= 3
    for told in made.figures["thresholds"]:
        computed = []
        for run in runs.values():
            acc = None
            for i, (x, _) in enumerate([(0.0, 0.0), *run]):  # the first step has no change
                low, high = made.data["range"]
                grown = value(made.data["coefficients"], max(x, low)) if x <= high else math.inf
                acc = None if acc is None or i == len(run) else acc + grown
                if acc is None or acc >= told["threshold"]:
                    acc = 0.0
                    computed.append(i)
        assert len(computed) / 82 == pytest.approx(told["computed"], abs=0.026)


# -- a model


@pytest.fixture(scope="module")
def pipe():
    made = pipes.text_to_video()[0]
    made.set_progress_bar_config(disable=True)
    return made


def collect(pipe, name, **more):
    options = {"prompts": PROMPTS, "num_inference_steps": STEPS, **CALL, **more}
    given = options.pop("options", {})
    made = CALIBRATIONS[name](**given)
    records, about = collected(pipe, made, partial(c4d.cached, pipe), **options)
    return made, records, about


def test_changes_are_those_of_the_tensors_themselves(pipe):
    """Measured again with plain hooks of torch."""
    seen = {"blocks": [], "output": [], "latents": [], "temb": []}
    transformer, starts = pipe.transformer, []

    def returned(module, args, kwargs, out):
        seen["output"].append(out[0])
        seen["latents"].append(kwargs["hidden_states"])

    handles = [
        transformer.blocks[0].register_forward_pre_hook(lambda m, args: starts.append(args[0].clone())),
        transformer.norm_out.register_forward_pre_hook(lambda m, args: seen["blocks"].append(args[0] - starts.pop())),
        transformer.condition_embedder.register_forward_hook(lambda m, args, out: seen["temb"].append(out[0].clone())),
        transformer.register_forward_hook(returned, with_kwargs=True),
    ]
    signals = frozenset({Signal.INPUT, Signal.TIME_EMBEDDING})
    with recording(pipe, partial(c4d.cached, pipe), signals, noise=True, features=True) as run:
        pipe(PROMPTS[0], num_inference_steps=5, output_type="latent", generator=torch.manual_seed(0), **CALL)
    for handle in handles:
        handle.remove()
    branches = {row["branch"] for row in run.rows}
    assert branches == {"cond", "uncond"} and len(run.rows) == 10
    for place, row in enumerate(run.rows):
        assert row["begins"] is (place < 2) and row["total"] == 5
        if row["begins"]:
            continue
        now, before = ({k: v[place - back] for k, v in seen.items()} for back in (0, 2))
        change = {k: ((now[k] - before[k]).abs().sum() / before[k].abs().sum()).item() for k in now}
        assert row["residual"] == pytest.approx(change["blocks"], rel=1e-4)
        assert row["output"] == pytest.approx(change["output"], rel=1e-4)
        assert row["changes"]["input"] == pytest.approx(change["latents"], rel=1e-4)
        assert row["changes"]["time_embedding"] == pytest.approx(change["temb"], rel=1e-4)
        growth = (now["blocks"].norm(dim=-1) / before["blocks"].norm(dim=-1)).mean().item()
        assert row["growth"] == pytest.approx(growth, rel=1e-4)
        rate = (now["output"] - before["output"]).abs().sum() / (now["latents"] - before["latents"]).abs().sum()
        assert row["rate"] == pytest.approx(rate.item(), rel=1e-4)
    assert [row["level"] for row in run.rows[::2]] == sorted((row["level"] for row in run.rows[::2]), reverse=True)
    assert {branch: len(steps) for branch, steps in run.hidden.items()} == {"cond": 5, "uncond": 5}


def test_teacache_decides_by_its_calibration(pipe, tmp_path):
    made, records, about = collect(pipe, "teacache", options={"least": -9.0})
    done = made.fit(records)
    assert {"scheduler", "shift", "steps", "guidance_scale", "versions", "prompts", "seed", "samples"} <= set(about)
    assert "first_blocks" in done.figures["candidates"] and done.data["signal"] != "first_blocks"
    path = tmp_path / "tea.json"
    path.write_text(json.dumps(file_of("teacache", done, signature(pipe.transformer), about).to_dict()))
    threshold = done.figures["thresholds"][len(done.figures["thresholds"]) // 2]["threshold"]
    with c4d.cached(pipe, f"teacache:threshold={threshold},path={path}") as session:
        pipe("a green circle", num_inference_steps=STEPS, output_type="latent", **CALL)
    low, high = done.data["range"]
    acc, reused = {}, 0
    for entry in session.trace:
        change = entry.seen.get(Signal(done.data["signal"]))
        x = None if change is None else change.ratio
        grown = math.inf if x is None or x > high else max(0.0, value(done.data["coefficients"], max(x, low)))
        forced = entry.step.index in (0, STEPS - 1)
        total = math.inf if forced else acc.get(entry.step.branch, 0.0) + grown
        assert entry.computed is (total >= threshold), entry
        acc[entry.step.branch] = 0.0 if entry.computed else total
        reused += not entry.computed
    assert 0 < reused < 2 * (STEPS - 2)


@pytest.mark.parametrize(
    "name, options, more",
    [
        ("teacache", {"least": -9.0}, "threshold=0.2,"),
        ("magcache", {}, "threshold=0.2,max_skips=2,retention=0.1,"),
        ("easycache", {}, "threshold=1.0,warmup=2,"),
        ("dpcache", {}, "budget=7,"),
        ("hyca", {"interval": 4}, "interval=4,"),
        ("l2p", {"computed": (0, 1, 3, 6, 13)}, ""),
        ("meancache", {}, "budget=6,"),
    ],
)
def test_each_is_read_and_refused_on_another_model(pipe, tmp_path, name, options, more):
    made, records, about = collect(pipe, name, options=options)
    path, done = tmp_path / "made.json", made.fit(records)
    path.write_text(json.dumps(file_of(name, done, signature(pipe.transformer), about).to_dict(), allow_nan=False))
    text = f"{name}:{more}path={path}"
    with c4d.cached(pipe, text) as session:
        pipe("a green circle", num_inference_steps=STEPS, output_type="latent", **CALL)
    assert session.report().reused and session.report().computed
    other = SUBJECTS["flux"].build()
    with pytest.raises(ProfileError, match=r"made for WanTransformer3DModel, and this is Flux.*c4d calibrate"):
        c4d.cached(other, text).__enter__()
    with pytest.raises(MethodError, match=f"is a calibration of '{name}', not of"):
        parse(f"{'l2p' if name != 'l2p' else 'dpcache:budget=3,'}{':' if name != 'l2p' else ''}path={path}")


def test_an_interrupted_collection_goes_on(pipe, tmp_path):
    """What is made of the samplings is the same, and only those that were lacking are made."""
    whole = collect(pipe, "magcache", samples=3)[1]
    told, made = [], []

    def stops(line):
        told.append(line)
        if "sampling 2 of 3" in line and "recorded" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(pipe, "magcache", samples=3, work=tmp_path, told=stops)
    assert len(list(tmp_path.glob("*.json"))) == 2
    records = collect(pipe, "magcache", samples=3, work=tmp_path, told=made.append)[1]
    assert records == json.loads(json.dumps(whole))
    assert [line.rpartition(": ")[2] for line in made] == [
        "as it was kept",
        "as it was kept",
        f"{STEPS} steps recorded",
    ]
    made.clear()
    collect(pipe, "magcache", samples=3, work=tmp_path, told=made.append, seed=7)
    assert all("recorded" in line for line in made), "other noise is another sampling"
    (tmp_path / "half.json").write_text('{"rows": [')
    assert kept(tmp_path / "half.json") is None


def test_one_prompt_is_judged_on_other_noise(pipe):
    made, records, _ = collect(pipe, "teacache", prompts=PROMPTS[:1], options={"least": -9.0})
    told = made.fit(records).figures["made_of"]
    assert (told["prompts"], told["learned"], told["held_out"]) == (1, 3, 1)
    assert told["held_out_are"] == "the same prompt under other noise"


def test_two_steps_are_an_error(pipe):
    made, records, _ = collect(pipe, "teacache", num_inference_steps=2)
    with pytest.raises(CalibrationError, match="different changes, and a polynomial of degree 4 needs 5"):
        made.fit(records)


def test_a_model_that_returns_nan_is_left_out(pipe):
    def poisoned(module, args, output):
        calls.append(1)
        return output * math.nan if len(calls) == 9 else None

    calls = []
    handle = pipe.transformer.blocks[-1].register_forward_hook(poisoned)
    try:
        made, records, _ = collect(pipe, "magcache", samples=2)
    finally:
        handle.remove()
    bad = sum(row["growth"] is None for row in records[0]["rows"] if not row["begins"])
    done = made.fit(records)
    assert bad and done.figures["left_out"] >= bad and any("no numbers" in line for line in done.lines)
    json.dumps(records, allow_nan=False)


def test_two_experts(tmp_path):
    two, more = pipes.two_experts()
    two.set_progress_bar_config(disable=True)
    made, records, _ = collect(two, "magcache", samples=1, **more)
    curves = CalibrationData("magcache", made.fit(records).data).curves()
    assert {(curve.branch, curve.expert) for curve in curves} == {
        ("cond", 0), ("cond", 1), ("uncond", 0), ("uncond", 1)
    }  # fmt: skip
    with pytest.raises(CalibrationError, match="two experts"):
        collect(two, "dpcache", samples=1, **more)


# -- curves


def test_a_curve_over_noise_is_the_published_rule():
    """On the very steps that it was made of, MagCache decides as with the list of ratios."""
    draw = random.Random(3)
    ratios = [1.0, *(draw.uniform(0.93, 1.08) for _ in range(19))]
    rows = [
        {"branch": "cond", "expert": 0, "level": 1.0 - i / 20, "begins": i == 0, "growth": ratio if i else None}
        for i, ratio in enumerate(ratios)
    ]
    data = CALIBRATIONS["magcache"]().fit([{"prompt": "", "rows": rows}]).data
    levels = tuple(1.0 - i / 20 for i in range(20))
    by_noise = MagCachePolicy(0.12, 3, 0.1, CalibrationData("magcache", data).curves(), by_noise=True)
    by_step = MagCachePolicy(0.12, 3, 0.1, of_ratios(ratios))
    states, actions = [by_noise.init(), by_step.init()], []
    for i in range(20):
        step = Step(i, 20, "cond", levels=levels)
        for k, policy in enumerate((by_noise, by_step)):
            action, states[k] = policy.decide(states[k], step, {})
            actions.append(action)
    assert actions[::2] == actions[1::2] and {*actions} == {Action.COMPUTE, Action.REUSE}
    assert by_noise.by_noise and not by_step.by_noise and "0.12" in by_noise.idle(20, [])


def test_easycache_takes_the_calibrated_rate():
    levels = (1.0, 0.8, 0.6, 0.4, 0.2)
    seen = {
        Signal.INPUT: RelativeL1(0.1, 1.0),
        Signal.INPUT_SINCE: RelativeL1(0.1, 1.0),
        Signal.OUTPUT: RelativeL1(9, 1),
    }
    for rate, reuses in ((0.2, True), (90.0, False)):
        policy = EasyCachePolicy(0.05, 2, rates=(Curve("cond", 0, ((0.2, rate), (1.0, rate))),))
        state = policy.init()
        for i in range(4):
            action, state = policy.decide(state, Step(i, 5, "cond", levels=levels), {} if i == 0 else seen)
        assert (action is Action.REUSE) is reuses
    assert policy.by_noise and not EasyCachePolicy(0.05, 2).by_noise


def test_a_curve_between_and_beyond_its_points():
    curve = Curve("cond", 0, ((0.2, 1.0), (0.6, 3.0)))
    assert [curve.at(x) for x in (0.0, 0.2, 0.3, 0.6, 1.0)] == pytest.approx([1.0, 1.0, 1.5, 3.0, 3.0])
    other = Curve("uncond", 0, ((0.0, 0.0),))
    assert curve_of((curve, other), "uncond", 0) is other and curve_of((curve, other), "2", 0) is curve
    assert curve_of((curve,), "cond", 1) is None
    assert Curve.from_dict(curve.to_dict()) == curve


# -- files


@pytest.mark.parametrize(
    "found, says",
    [
        ("{", "is to be the calibration of teacache"),
        ("[]", "no calibration"),
        ('{"format": "c4d profile"}', r"its format is 'c4d profile'"),
        ('{"format": "c4d calibration", "version": 9}', "version 9"),
        ('{"format": "c4d calibration", "version": 1}', "broken: KeyError"),
    ],
)
def test_files_that_are_no_calibration(tmp_path, found, says):
    (tmp_path / "x.json").write_text(found)
    with pytest.raises(ProfileError, match=says):
        CalibrationData.load(tmp_path / "x.json", "teacache")


def test_broken_data_is_refused(tmp_path):
    good = {"signal": "input", "coefficients": [1.0, 0.0], "range": [0.1, 0.2]}
    for wrong, says in (
        ({"coefficients": ["x"]}, "coefficients"),
        ({"coefficients": []}, "coefficients"),
        ({"range": [0.1]}, "range"),
        ({"signal": "head"}, "unknown teacache signal 'head'"),
    ):
        path = written(tmp_path / "x.json", "teacache", {**good, **wrong})
        with pytest.raises(MethodError, match=says):
            parse(f"teacache:threshold=0.1,path={path}")
    path = written(tmp_path / "x.json", "teacache", good)
    with pytest.raises(MethodError, match="made for signal input; drop signal=spectrum"):
        parse(f"teacache:threshold=0.1,path={path},signal=spectrum")
    with pytest.raises(MethodError, match="coefficients and path are both given"):
        parse(f"teacache:threshold=0.1,path={path},coefficients=1/0")
    path = written(tmp_path / "x.json", "magcache", {"curves": [{"branch": "cond"}]})
    with pytest.raises(MethodError, match="the curves of this calibration of magcache are broken: KeyError"):
        parse(f"magcache:path={path},threshold=0.1,max_skips=2")


def test_outside_of_its_range_a_fit_says_what_it_may(tmp_path):
    """Below it a change counts as the smallest that was seen; beyond it the step is computed."""
    data = {"signal": "input", "coefficients": [1.0, 0.0], "range": [0.1, 0.2]}
    policy = parse(f"teacache:threshold=0.35,path={written(tmp_path / 'x.json', 'teacache', data)}").rules[0].policy

    def decided(*changes):
        state, actions = policy.init(), ""
        for i, x in enumerate((None, *changes)):
            seen = {} if x is None else {Signal.INPUT: RelativeL1(x, 1.0)}
            action, state = policy.decide(state, Step(i, 20, "cond"), seen)
            actions += "C" if action is Action.COMPUTE else "r"
        return actions

    assert decided(0.01, 0.01, 0.01, 0.01) == "CrrrC"
    assert decided(0.1, 0.1, 0.1, 0.1) == "CrrrC"
    assert decided(0.11, 0.21, 0.15) == "CrCr"


# -- DPCache and L2P


@pytest.fixture
def features():
    made = torch.Generator().manual_seed(0)
    return {branch: [torch.randn(2, 5, 3, generator=made) for _ in range(T)] for branch in ("cond", "uncond")}


def test_costs_are_sums_of_what_taylor_is_off_by(features):
    table = costs(features)
    for i, j, k in ((0, 1, 4), (1, 3, 6), (0, 4, 5), (2, 3, 4)):
        wanted = 0.0
        for h in features.values():
            for t in range(j + 1, k):
                wanted += (h[j] + (h[j] - h[i]) / (j - i) * (t - j) - h[t]).abs().mean().item()
        assert table[i][j][k] == pytest.approx(wanted, rel=1e-3)
    assert table[3][1][5] == 0.0  # no path goes there


def test_costs_and_products_of_samplings_are_those_of_their_batch(features):
    parts = [{branch: [h[i : i + 1] for h in steps] for branch, steps in features.items()} for i in (0, 1)]
    fit = CALIBRATIONS["dpcache"]().fit([{"steps": T, "costs": costs(part)} for part in parts])
    assert isinstance(fit, Fitted)
    torch.testing.assert_close(torch.tensor(fit.data["costs"]), torch.tensor(costs(features)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(sum(gram(part) for part in parts), gram(features))


def test_weights_are_those_of_least_squared_error(features):
    computed = [0, 1, 3]
    found = weights(gram(features), computed, 2)
    assert sorted(found) == ["2", "4", "5"]
    flat = {t: torch.cat([steps[t].flatten() for steps in features.values()]).double() for t in range(T)}
    for step, past in ((2, [0, 1]), (4, [1, 3]), (5, [1, 3])):
        wanted = torch.linalg.lstsq(torch.stack([flat[t] for t in past], 1), flat[step]).solution
        torch.testing.assert_close(torch.tensor(found[str(step)], dtype=torch.float64), wanted, atol=1e-6, rtol=1e-6)


def test_what_the_bench_learns_of_the_bundled_model(tmp_path):
    """Read by the methods; a run of another length is refused."""
    wan = pipeline()
    learned = Learned(wan, partial(unmeasured, wan, T), tmp_path)
    texts = {
        f"dpcache:path={learned.path('dpcache')},budget=4": 4,
        f"l2p:path={learned.path('l2p', (0, 1, 3), features=2)}": 3,
    }
    for text, count in texts.items():
        assert len(parse(text).rules[0].policy.computed) == count
        with c4d.cached(wan, text) as session:
            unmeasured(wan, T)
        assert session.report().timelines["cond"].count("C") == count
        with c4d.cached(wan, text), pytest.raises(ValueError, match=f"made for {T} steps, and the run has {T + 1}"):
            unmeasured(wan, T + 1)


@pytest.mark.parametrize("name", ["flux", "hunyuan"])
def test_other_families(name):
    """Whatever signals a model has are measured; embeddings in the place of prompts."""
    pipe = SUBJECTS[name].build()
    request = {**SUBJECTS[name].request(), "output_type": "latent"}
    made = CALIBRATIONS["teacache"]()
    signals = made.signals([spec_for(pipe.transformer)])
    with recording(pipe, partial(c4d.cached, pipe), signals, noise=False, features=False) as run:
        pipe(**request)
    assert Signal.MODULATED_INPUT in signals and Signal.FIRST_BLOCKS in signals
    assert all(set(row["changes"]) == {signal.value for signal in signals} for row in run.rows if not row["begins"])
    assert all(row["residual"] is not None for row in run.rows if not row["begins"])
