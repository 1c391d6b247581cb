"""The closed-loop fit: on planted systems, on real samplers, in lockstep, and what it refuses."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.fit import MANY, Fit, Normal, robust
from c4d.calibrate.lockstep import Lockstep, Samplings
from c4d.calibrate.reference import record, reopen
from c4d.calibrate.search import RIDGES, Allowance, Journal, Search, score, stretched, suited
from c4d.calibrate.store import Store

STEPS = 12
SHAPE = (1, 4, 6, 6)
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
SAMPLERS = {
    "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "unipc": lambda: UniPCMultistepScheduler(**FLOW),
    "dpm++": lambda: DPMSolverMultistepScheduler(**FLOW),
    "ddim": lambda: DDIMScheduler(clip_sample=False),
    "scaled": lambda: EulerDiscreteScheduler(),
}


class Curved(torch.nn.Module):
    """A smooth field that is not linear in the latents nor in time, of one's own for each sampling."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(9)) / 2

    def forward(self, hidden_states, timestep):
        self.calls += 1
        t = float(timestep) / 1000
        return torch.tanh(torch.einsum("ij,bjhw->bihw", self.mix, hidden_states)) * (1 + t) + torch.sin(
            3 * t * hidden_states
        )


def samplings(model, scheduler, count=3, steps=STEPS, batch=1):
    def generate(i):
        scheduler.set_timesteps(steps)
        x = torch.cat(
            [torch.randn(SHAPE, generator=torch.Generator().manual_seed(batch * i + k)) for k in range(batch)]
        )
        x = x * getattr(scheduler, "init_noise_sigma", 1.0)
        for t in scheduler.timesteps:
            given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(model(given, t), t, x, return_dict=False)[0]
        return x

    return Samplings([model], scheduler, generate, count, [lambda args, kwargs: args[0]])


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_held_at_each_step_samplings_give_what_they_give_alone(sampler):
    model, scheduler = Curved(), SAMPLERS[sampler]()
    before = dict(vars(scheduler))
    job = samplings(model, scheduler)
    alone = [job.generate(i) for i in range(3)]
    scheduler.__dict__.clear()
    scheduler.__dict__.update(before)
    with Lockstep(job) as passing:
        while (arrivals := passing.arrive()) is not None:
            ends = passing.answer([a.output for a in arrivals])
    assert all(torch.equal(a, b) for a, b in zip(alone, ends, strict=True))
    assert vars(scheduler) == before and "forward" not in vars(model)
    assert threading.active_count() == 1 or not any(t.name == "_main" for t in threading.enumerate())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_fit_comes_closer_than_no_fit_and_computes_what_it_says(sampler):
    model, scheduler = Curved(), SAMPLERS[sampler]()
    job = samplings(model, scheduler)
    reference = record(job)
    assert reference.latents and reference.steps == STEPS
    fit, computed = Fit(job, reference), frozenset((0, 1, 2, 5, 9))
    model.calls = 0
    track = fit.follow(computed)
    assert model.calls == 3 * 2  # the first three steps are the reference's
    reused = fit.follow(computed, weights=lambda i, anchors: [0.0] * (len(anchors) - 1) + [1.0, 0.0, 0.0])
    assert fit.errors(track).max() < 0.9 * fit.errors(reused).max()
    again = fit.follow(computed, weights=fit.of_plan(fit.plan(track)))
    for one, other in zip(track.samples[-1], again.samples[-1], strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sampler", ["unipc", "euler"])
def test_what_computed_steps_hand_on_is_corrected(sampler):
    """From the first one behind a step that was not computed on, and it comes closer."""
    job = samplings(Curved(), SAMPLERS[sampler]())
    fit, computed = Fit(job, record(job), ridge=1e-4), frozenset((0, 1, 2, 5, 9, 11))
    track, plain = fit.follow(computed), fit.but(corrects_from=1.0).follow(computed)
    assert set(track.weights) - set(plain.weights) == {5, 9, 11}
    assert set(fit.but(corrects_from=0.5).follow(computed).weights) - set(plain.weights) == {9, 11}
    assert fit.errors(track).mean() < 0.8 * fit.errors(plain).mean()
    assert torch.equal(track.raw[5][0], plain.raw[5][0]) and not torch.equal(track.outputs[5][0], track.raw[5][0])
    plan = fit.plan(track)
    assert [level for level, _ in plan.corrected] == [fit.reference.levels[i] for i in (5, 9, 11)]
    again = fit.follow(computed, weights=fit.of_plan(plan))
    for one, other in zip(track.samples[-1], again.samples[-1], strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)


class Planted(torch.nn.Module):
    """Outputs of a table at the computed steps; at the others a combination of the last three, and of the latents."""

    def __init__(self, computed, weights, scheduler):
        super().__init__()
        self.computed, self.w, self.scheduler, self.past = computed, weights, scheduler, []

    def forward(self, hidden_states, timestep):
        index = self.scheduler.timesteps.tolist().index(float(timestep))
        if index in self.computed:
            out = torch.randn(SHAPE, generator=torch.Generator().manual_seed(100 + index))
            self.past = [*self.past, (out, hidden_states.clone())][-3:] if index else [(out, hidden_states.clone())]
            return out
        parts = [*(v for v, _ in self.past), hidden_states, self.past[-1][1]]
        return sum(w * part for w, part in zip(self.w[index], parts, strict=True))


def test_a_planted_linear_system_is_recovered():
    computed, make = frozenset((0, 1, 2, 5, 8)), torch.Generator().manual_seed(4)
    planted = {i: torch.randn(5, generator=make).tolist() for i in range(STEPS) if i not in computed}
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    job = samplings(Planted(computed, planted, scheduler), scheduler, count=1)
    reference = record(job)
    track = Fit(job, reference, ridge=1e-12).follow(computed)
    # Not the weights: between computed steps the latents are themselves made of the others, and others are as good.
    for one, other in zip(track.outputs, reference.track.outputs, strict=True):
        assert torch.allclose(one[0], other[0], rtol=1e-3, atol=1e-3)
    assert torch.allclose(track.samples[-1][0], reference.track.samples[-1][0], rtol=1e-3, atol=1e-3)
    elsewhere = Fit(job, reference, ridge=1e-12, corrects_from=1.0).follow(frozenset((0, 1, 2, 6, 8)))
    assert not torch.allclose(elsewhere.samples[-1][0], reference.track.samples[-1][0], rtol=1e-2, atol=1e-2)


def test_a_step_that_hardly_uses_its_output_asks_for_nothing_wild():
    """The last step of DDIM as DiT has it: to its own noise level."""
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False)
    job = samplings(Curved(), scheduler)
    fit = Fit(job, record(job))
    track = fit.follow(frozenset((0, 1, 2, 5, 9)))
    assert max(abs(w) for w in track.weights[STEPS - 1]) < 20, track.weights[STEPS - 1]


def test_noise_in_the_steps_is_refused():
    model = Curved()
    with pytest.raises(CalibrationError, match="adds noise of its own"):
        record(samplings(model, FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True)))
    assert "forward" not in vars(model)


def test_a_step_that_is_not_affine_is_refused():
    with pytest.raises(CalibrationError, match="not affine"):
        record(samplings(Curved(), DDIMScheduler(clip_sample=True, clip_sample_range=0.5)))


def test_an_unknown_prediction_is_refused():
    with pytest.raises(CalibrationError, match="predicts 'sample'"):
        record(samplings(Curved(), DDIMScheduler(prediction_type="sample", clip_sample=False)))


def test_samplings_of_different_lengths_are_refused():
    model, scheduler = Curved(), FlowMatchEulerDiscreteScheduler(shift=3.0)
    short, long = samplings(model, scheduler, steps=6), samplings(model, scheduler)
    job = replace(long, generate=lambda i: (long if i else short).generate(i))
    with pytest.raises(CalibrationError, match="of 3 samplings 2 make step 6"):
        record(job)


def test_what_a_sampling_raises_is_raised_and_nothing_is_left():
    model, scheduler = Curved(), FlowMatchEulerDiscreteScheduler(shift=3.0)
    job = samplings(model, scheduler)

    def generate(i):
        if i == 2:
            raise KeyError("mine")
        return samplings(model, scheduler).generate(i)

    with pytest.raises(KeyError, match="mine"):
        record(replace(job, generate=generate))
    assert "step" not in vars(scheduler) and "forward" not in vars(model)
    assert not [t for t in threading.enumerate() if t.daemon and "_main" in t.name]


def test_numbers_that_are_not_finite_are_told():
    class Broken(Curved):
        def forward(self, hidden_states, timestep):
            return super().forward(hidden_states, timestep) * (float("nan") if float(timestep) < 500 else 1.0)

    job = samplings(Broken(), FlowMatchEulerDiscreteScheduler(shift=3.0))
    with pytest.raises(CalibrationError, match="not finite"):
        Fit(job, record(job)).follow(frozenset((0, 1, 2, 5)))


def test_batches_do_not_matter():
    fits = []
    for count, batch in ((4, 1), (2, 2), (1, 4)):
        job = samplings(Curved(), UniPCMultistepScheduler(**FLOW), count=count, batch=batch)
        fit = Fit(job, record(job))
        fits.append((fit, fit.follow(frozenset((0, 1, 2, 5, 9)), rows=[0, 2])))
    first, *others = fits
    for fit, track in others:
        assert fit.errors(track).tolist() == pytest.approx(first[0].errors(first[1]).tolist(), rel=1e-4)


def test_a_sample_unlike_the_others_does_not_decide():
    make = torch.Generator().manual_seed(5)
    wanted, odd = torch.tensor([1.5, -0.5, 0.2], dtype=torch.float64), torch.tensor([-4.0, 6.0, 0.0]).double()
    parts = torch.randn(MANY, 3, 200, generator=make, dtype=torch.float64)
    targets = torch.stack([x.T @ (odd if k == 4 else wanted) for k, x in enumerate(parts)])
    targets += 0.01 * torch.randn(targets.shape, generator=make, dtype=torch.float64)
    parts[4], targets[4] = 3 * parts[4], 3 * targets[4]  # the loudest, too
    normal = Normal(parts @ parts.mT, (parts @ targets[..., None])[..., 0], (targets**2).sum(1))
    start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert (robust(normal, start, 3, 1e-9) - wanted).norm() < 0.1
    few = Normal(*(each[:-1] for each in normal))
    assert (robust(few, start, 3, 1e-9) - wanted).norm() > 2, "of few samples none is called odd"
    assert robust(normal, start, 1, 1e-9)[1:].tolist() == [0.0, 0.0]


def test_only_the_chosen_samples_teach():
    several, one = (samplings(Curved(), UniPCMultistepScheduler(**FLOW), count=count) for count in (3, 1))
    fit, alone = Fit(several, record(several)), Fit(one, record(one))
    computed = frozenset((0, 1, 2, 5, 9))
    taught = fit.follow(computed, rows=[0]).weights
    assert taught == alone.follow(computed).weights != fit.follow(computed).weights


def test_what_schedules_have_in_common_is_computed_once():
    model = Curved()
    job = samplings(model, UniPCMultistepScheduler(**FLOW), count=1)
    fit = Fit(job, record(job))
    one = fit.follow(frozenset((0, 1, 2, 5, 9)))
    model.calls = 0
    other = fit.follow(frozenset((0, 1, 2, 5, 10)), known=[one])
    assert model.calls == 1
    plain = fit.follow(frozenset((0, 1, 2, 5, 10)))
    assert torch.equal(plain.samples[-1][0], other.samples[-1][0]) and plain.weights == other.weights
    assert 5 in plain.weights and torch.equal(plain.raw[5][0], other.raw[5][0])


def search(path=None, trials=25, told=None):
    job = samplings(Curved(), UniPCMultistepScheduler(**FLOW), count=4)
    reference = record(job, None if path is None else Store(path / "reference"))
    searching = Search(Fit(job, reference), Journal(None if path is None else path / "scores.jsonl"), told=told)
    found = searching.run([stretched(range(STEPS), 4, STEPS)], Allowance(trials))
    return found, searching


def test_a_search_finds_better_schedules():
    found, searching = search(trials=60)
    scores = searching.journal
    assert len(found) == 4 and scores[found] < scores[stretched(range(STEPS), 4, STEPS)]


def test_an_interrupted_search_goes_on_to_the_same_schedule(tmp_path):
    undisturbed, _ = search()
    (tmp_path / "work").mkdir()

    def stop(*_):
        if len((tmp_path / "work/scores.jsonl").read_text().splitlines()) == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "work", told=stop)
    tried = []
    found, _ = search(tmp_path / "work", told=lambda computed, *_: tried.append(computed))
    assert found == undisturbed and 0 < len(tried) <= 15


def test_a_reference_is_found_again(tmp_path):
    job = samplings(Curved(), EulerDiscreteScheduler(), count=2)
    made = record(job, Store(tmp_path / "r"))
    kept = reopen(job, tmp_path / "r")
    assert kept is not None and kept.levels == made.levels and kept.coordinate is made.coordinate
    for name in ("samples", "inputs", "outputs"):
        for one, other in zip(getattr(made.track, name), getattr(kept.track, name), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)), name
    other = samplings(Curved(), EulerDiscreteScheduler(), count=2)
    begun = other.generate
    assert reopen(replace(other, generate=lambda i: begun(i + 5)), tmp_path / "r") is None
    assert reopen(replace(job, count=3), tmp_path / "r") is None
    (tmp_path / "r/reference.json").write_text("{")
    assert reopen(job, tmp_path / "r") is None


def test_the_ridge_is_the_one_that_suits_samples_which_it_was_not_fitted_to():
    """Alike samples want none at all; where half of them are of another kind, as much as there is."""

    class Two(Curved):
        def forward(self, hidden_states, timestep):
            out = super().forward(hidden_states, timestep)
            out[1::2] = -3.0 * torch.cos(5.0 * hidden_states[1::2] + float(timestep) / 100)
            return out

    chosen = []
    for model in (Curved(), Two()):
        job = samplings(model, UniPCMultistepScheduler(**FLOW), count=1, batch=6)
        fit = Fit(job, record(job))
        picked = suited(fit, frozenset((0, 1, 2, 5, 9))).ridge
        missed = {}
        for ridge in (fit.ridge, *RIDGES):
            own = fit.but(ridge=ridge)
            missed[ridge] = score(own.errors(own.follow(frozenset((0, 1, 2, 5, 9)), rows=(0, 2, 4)))[1::2])
        assert picked == min(missed, key=missed.get)
        chosen.append(picked)
    assert chosen[0] < chosen[1] == fit.ridge
    alone = samplings(Curved(), UniPCMultistepScheduler(**FLOW), count=1)
    fit = Fit(alone, record(alone))
    assert suited(fit, frozenset((0, 1, 2, 5, 9))) is fit


def test_samples_that_are_held_back_choose_among_the_best_schedules():
    """They neither teach a schedule's weights nor move its steps."""
    job = samplings(Curved(), UniPCMultistepScheduler(**FLOW), count=6)
    fit = Fit(job, record(job))
    searching = Search(fit, Journal())
    found = searching.run([stretched(range(STEPS), 4, STEPS)], Allowance(40))
    trail = searching._trail
    assert len(trail) > 2
    held = {}
    for computed in trail:
        errors = fit.errors(fit.follow(computed, rows=(0, 3)))  # of 0, 1, 3, 4, which are searched over
        assert searching.journal[computed].searched == pytest.approx(score(errors[[0, 1, 3, 4]]), abs=1e-4)
        held[computed] = score(errors[[2, 5]])
        assert searching.journal[computed].held == pytest.approx(held[computed], abs=1e-4)
    assert found == min(held, key=held.get)
