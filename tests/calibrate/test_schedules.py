"""Schedules that are chosen on a model: MeanCache's by its graph, BudCache's by a search."""

from __future__ import annotations

import json
import math
import random
from functools import partial
from itertools import combinations, pairwise

import pytest
import torch
from torch import nn

import c4d
from c4d.calibrate.collect import collected, file_of
from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.pipeline import last_latents
from c4d.calibrate.published import CALIBRATIONS
from c4d.calibrate.published import meancache as graph
from c4d.core.caching.calibrated import CalibrationData
from c4d.core.integration.transformers import signature
from c4d.core.methods.budcache import budcache
from c4d.core.text.grammar import MethodError, parse
from tests import pipes

STEPS = 6
CALL = {
    "height": 32, "width": 32, "num_frames": 5, "max_sequence_length": 8, "guidance_scale": 3.0,
    "num_inference_steps": STEPS,
}  # fmt: skip
PROMPT = "a red circle"


@pytest.fixture(scope="module")
def pipe():
    made = pipes.text_to_video()[0]
    made.set_progress_bar_config(disable=True)
    return made


def collect(pipe, name, options, prompts=(PROMPT,), **more):
    made = CALIBRATIONS[name](**options)
    records, about = collected(pipe, made, partial(c4d.cached, pipe), prompts=prompts, **{**CALL, **more})
    return made, records, about


def written(path, name, data, made_for=None):
    path.write_text(json.dumps(CalibrationData(name, data, made_for).to_dict(), allow_nan=False))
    return path


# -- MeanCache


class Scripted(nn.Module):
    """Returns what it is told to, whatever it is given."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs, self.at = outputs, nn.Parameter(torch.zeros(()))

    def forward(self, hidden_states, timestep):
        return (self.outputs[timestep.long()].clone(),)


def levels(total):
    """Of a shifted schedule: uneven."""
    return [3 * u / (1 + 2 * u) for u in (1 - i / total for i in range(total))]


def gram(outputs):
    x = outputs.flatten(1).double()
    return (x @ x.T / x.shape[1]).tolist()


def fitted(outputs, peak=4.0):
    record = {"steps": len(outputs), "gram": gram(outputs), "levels": levels(len(outputs))}
    return CALIBRATIONS["meancache"](peak).fit([record])


@pytest.mark.parametrize("start, end, order", [(0, 4, 1), (2, 7, 3), (3, 9, 6), (5, 9, 2), (1, 2, 4)])
def test_an_error_is_what_the_method_misses(start, end, order):
    """Measured on the outputs that the method gives: where the gap ends, by these and by the true ones."""
    total = 9
    v = torch.randn(total, 1, 4, 3, generator=torch.Generator().manual_seed(0))
    s = levels(total)
    computed = [*range(start + 1), *range(end, total)]
    orders = [order if step == start else 1 for step in computed]
    model, made = Scripted(v), []
    with c4d.cached(model, c4d.methods.meancache(tuple(computed), tuple(orders))) as session:
        session.begin([1000 * x for x in s], s)
        made = [model(torch.zeros(1, 4, 3), torch.tensor(float(i)))[0] for i in range(total)]
    ends = [*s, 0.0]
    off = sum((ends[i + 1] - ends[i]) * (v[i] - made[i]) for i in range(start, end))
    weights = graph.missed(s)[graph.Gap(start, end, order)]
    found = math.sqrt(max(0.0, weights @ torch.tensor(gram(v), dtype=torch.float64) @ weights))
    assert found == pytest.approx(off.pow(2).mean().sqrt().item(), rel=1e-4, abs=1e-6)
    assert found > 0 or end == start + 1


def test_planted_jumps_are_where_steps_are_computed(tmp_path):
    """Outputs that stay but for two jumps, and then rise in a line, where a higher k misses less."""
    total = 12
    v = torch.tensor([1.0] * 4 + [-2.0] * 3 + [5.0 + 0.5 * i for i in range(5)]).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    done = fitted(v)
    costs, orders = done.data["costs"], done.data["orders"]
    assert max(costs[0][4], costs[4][7]) < 1e-30 < 1e-9 < costs[0][5]
    assert orders[9][12] > 1 and costs[9][12] < costs[8][12]
    rule = parse(f"meancache:budget=5,path={written(tmp_path / 'm.json', 'meancache', done.data)}").rules[0]
    assert {0, 4, 7} < rule.policy.computed and rule.policy.steps == total
    assert dict(rule.forecast.orders).keys() == rule.policy.computed


@pytest.mark.parametrize("budget", [2, 4, 6])
def test_a_budget_takes_the_path_of_least_cost(tmp_path, budget):
    draw, total = random.Random(budget), 8
    costs = [[draw.random() for _ in range(total + 1)] for _ in range(total)]
    orders = [[draw.randint(1, 6) for _ in range(total + 1)] for _ in range(total)]
    path = written(tmp_path / "m.json", "meancache", {"steps": total, "costs": costs, "orders": orders})
    rule = parse(f"meancache:path={path},budget={budget}").rules[0]
    every = [[0, *more] for more in combinations(range(1, total), budget - 1)]
    best = min(every, key=lambda steps: sum(costs[i][j] for i, j in pairwise([*steps, total])))
    assert rule.policy.computed == set(best)
    assert dict(rule.forecast.orders) == {i: orders[i][j] for i, j in pairwise([*best, total])}


def test_a_peak_is_the_power_of_each_error():
    noise = torch.randn(10, 1, 3, 3, generator=torch.Generator().manual_seed(3))
    low, high = (fitted(noise, peak).data["costs"] for peak in (1.0, 8.0))
    assert high[2][6] == pytest.approx(low[2][6] ** 8, rel=1e-4) and 0.0 < low[2][6] < 1.0


def test_meancache_of_samplings(pipe, tmp_path):
    """The guided outputs count, and the file is used on that model; samplings of other noise levels are refused."""
    made, records, about = collect(pipe, "meancache", {}, samples=2)
    seen = []
    handle = pipe.transformer.register_forward_hook(lambda m, args, out: seen.append(out[0].flatten().double()))
    generator = torch.Generator().manual_seed(0)
    pipe([PROMPT], generator=[generator], output_type="latent", **CALL)
    handle.remove()
    cond, uncond = (torch.stack(seen[i::2]) for i in (0, 1))
    guided = uncond + CALL["guidance_scale"] * (cond - uncond)
    wanted = guided @ guided.T / seen[0].numel()
    torch.testing.assert_close(torch.tensor(records[0]["gram"], dtype=torch.float64), wanted, rtol=1e-5, atol=1e-6)
    assert records[0]["levels"] == sorted(records[0]["levels"], reverse=True) and len(records[0]["levels"]) == STEPS
    done, path = made.fit(records), tmp_path / "m.json"
    path.write_text(json.dumps(file_of("meancache", done, signature(pipe.transformer), about).to_dict()))
    with c4d.cached(pipe, f"meancache:path={path},{made.use(done)}") as session:
        pipe(PROMPT, output_type="latent", **CALL)
    assert session.report().timelines["cond"].count("C") == 2
    records[1]["levels"][1] += 0.01
    with pytest.raises(CalibrationError, match="other noise levels"):
        made.fit(records)
    records[1]["gram"][0][0] = math.nan
    records[1]["levels"] = records[0]["levels"]
    with pytest.raises(CalibrationError, match="are no numbers"):
        made.fit(records)


def test_two_experts_have_no_graph():
    two, more = pipes.two_experts()
    two.set_progress_bar_config(disable=True)
    with pytest.raises(CalibrationError, match="two experts, and the forecasts of each begin anew"):
        collect(two, "meancache", {}, samples=1, **more)


# -- BudCache


def sampled(pipe, steps=None):
    def make():
        generator = torch.Generator().manual_seed(0)
        pipe([PROMPT], generator=[generator], output_type="latent", **CALL)

    if steps is None:
        return last_latents(pipe, make)
    with c4d.cached(pipe, budcache(computed=steps)):
        return last_latents(pipe, make)


@pytest.fixture(scope="module")
def losses(pipe):
    """Of every set of three steps."""
    plain = sampled(pipe)
    every = [(0, *more) for more in combinations(range(1, STEPS), 2)]
    return {steps: (sampled(pipe, steps) - plain).double().pow(2).mean().item() for steps in every}


def test_the_search_finds_the_best_of_all_sets(pipe, losses, tmp_path):
    made, (record,), about = collect(pipe, "budcache", {"budget": 3})
    assert record["tried"] == len(losses) and record["whole"] and about["samples"] == 1
    best = min(losses, key=losses.__getitem__)
    assert tuple(record["computed"]) == best and record["loss"] == pytest.approx(losses[best], rel=1e-5)
    assert record["even"] == pytest.approx(losses[0, 2, 4], rel=1e-5) and record["loss"] < max(losses.values())
    done, path = made.fit([record]), tmp_path / "b.json"
    assert "of even steps" in done.lines[1]
    path.write_text(json.dumps(file_of("budcache", done, signature(pipe.transformer), about).to_dict()))
    assert parse(f"budcache:path={path}").rules[0].policy.inner.computed == set(best)
    with c4d.cached(pipe, f"budcache:path={path}") as session:
        pipe(PROMPT, output_type="latent", **CALL)
    assert session.report().timelines["cond"].count("C") == 3


def test_an_interrupted_search_goes_on(pipe, losses, tmp_path, monkeypatch):
    """With the same result, and no set is sampled twice."""
    runs, inner = [], pipe.scheduler.set_timesteps
    monkeypatch.setattr(pipe.scheduler, "set_timesteps", lambda *a, **k: (runs.append(1), inner(*a, **k))[1])
    whole = collect(pipe, "budcache", {"budget": 3})[1]
    assert len(runs) == 1 + len(losses)
    runs.clear()

    def stops(line):
        if line.startswith("set") and len(runs) > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(pipe, "budcache", {"budget": 3}, work=tmp_path, told=stops)
    before, told = len(runs), []
    assert 1 < before < 1 + len(losses)
    again = collect(pipe, "budcache", {"budget": 3}, work=tmp_path, told=told.append)[1]
    assert again == json.loads(json.dumps(whole)) and len(runs) - before == 1 + len(losses) - (before - 1)
    before = len(runs)
    assert collect(pipe, "budcache", {"budget": 3}, work=tmp_path)[1] == again and len(runs) == before
    collect(pipe, "budcache", {"budget": 2}, work=tmp_path)
    assert len(runs) > before, "of another budget there are other sets"


def test_time_ends_a_search(pipe, losses):
    made, (record,), _ = collect(pipe, "budcache", {"budget": 3, "minutes": 1e-9})
    assert record["tried"] == 1 and not record["whole"] and record["computed"] == [0, 2, 4]
    assert "time was up" in made.fit([record]).lines[1]


@pytest.mark.parametrize(
    "name, options, more, says",
    [
        ("budcache", {"budget": 3}, {"prompts": (PROMPT, "a")}, "BudCache is made of one sampling, not of 2"),
        ("budcache", {"budget": 3}, {"samples": 4}, "one sampling, not of 4: give one prompt"),
        ("budcache", {"budget": STEPS}, {}, f"2 to {STEPS - 1} of {STEPS} steps to compute, not {STEPS}"),
    ],
)
def test_what_cannot_be_searched(pipe, name, options, more, says):
    with pytest.raises(CalibrationError, match=says):
        collect(pipe, name, options, **more)


@pytest.mark.parametrize(
    "text, says",
    [
        ("budcache", "either computed= .with steps=. or path="),
        ("budcache:computed=0/1,path=x", "either computed="),
        ("budcache:path=x,steps=4", "path has the steps of a run: leave steps=4 out"),
        ("meancache", "needs computed= with orders=, or path= with budget="),
        ("meancache:path=x", "path and budget go together"),
        ("meancache:computed=0,orders=1,budget=4", "path and budget go together"),
        ("meancache:computed=0,orders=1,path=x,budget=4", "and the steps of a run: leave those out"),
        ("meancache:path={path},budget=9", "no 9 of 3 steps leave gaps"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, text, says):
    data = {"steps": 3, "costs": [[0.0] * 4] * 3, "orders": [[1] * 4] * 3}
    path = written(tmp_path / "m.json", "meancache", data)
    with pytest.raises(MethodError, match=says):
        parse(text.format(path=path))


@pytest.mark.parametrize(
    "name, options, says",
    [
        ("budcache", {"budget": 1}, "budget must be a whole number of at least 2"),
        ("budcache", {"budget": 3, "minutes": 0.0}, "minutes must be above 0"),
        ("meancache", {"peak": 0.0}, "peak must be above 0"),
    ],
)
def test_calibrations_that_make_no_sense(name, options, says):
    with pytest.raises(ValueError, match=says):
        CALIBRATIONS[name](**options)
