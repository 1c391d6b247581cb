"""Every method on every transformer: what it stores, forecasts and decides is what its definition says."""

from __future__ import annotations

import gc
import math
import weakref
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

import c4d
from c4d.core.caching.feature_forecasters import ByChannel, GuidanceWaves, ProbeAligned
from c4d.core.caching.forecasters import LearnedWeights, MeanVelocity, Nothing
from c4d.core.caching.profile import Calibrated
from c4d.core.methods import METHODS
from c4d.core.runtime.spectrum import evolved, leading, low_pass
from c4d.core.runtime.steps import NoiseLevel, noise_levels
from c4d.core.text.grammar import FORECASTERS, parse
from c4d.core.types import Action, RelativeL1, Signal, Step
from tests.methods import CHANNELS, EVERY, REUSING, SIGMAS, STEPS, calls_of, check_decisions
from tests.sampled import sampled
from tests.tiny import CASES, rand, signal_of


def test_every_method_is_here():
    assert {name.partition(",")[0] for name in REUSING} == set(METHODS)


def on(case, text):
    """The method for this model; skipped with the reason where it has none."""
    text = text.format(signal=signal_of(case.name))
    try:
        with c4d.cached(case.build(), text):
            return text
    except ValueError as error:
        assert str(error).startswith(text), error
        pytest.skip(str(error))


def named_run(case, model, x, call):
    with call:
        return case.run(model, x, 900.0)


# A profile is also made of how latents moved; Spectrum's ridge takes a little of everything, by its definition.
STILL = {kind: text for kind, text in EVERY.items() if kind not in ("profile", "spectrum")}


@pytest.mark.parametrize(("name", "kind"), sampled(CASES, STILL, nth=14))
def test_on_the_same_input_a_reused_pass_equals_a_computed_one(name, kind):
    """Whatever is forecast from equal features is equal; and each one does reuse."""
    case = CASES[name]
    text = on(case, EVERY[kind])
    model, x = case.build(), rand(*case.latents)
    with c4d.cached(model, text) as session:
        session.begin([700.0] * STEPS, SIGMAS)
        first, *others = (named_run(case, model, x, call) for _ in range(STEPS) for call in calls_of(model, text))
    assert session.report().reused > 0 or session.report().modules_reused > 0
    assert max((first - other).norm() for other in others) <= 2e-6 * first.norm()


@pytest.mark.whole
@pytest.mark.parametrize(("name", "kind"), sampled(CASES, EVERY, nth=14, shift=3))
def test_decisions_are_those_of_the_pure_policy_and_a_second_run_equals_the_first(name, kind):
    """The policy alone, given what each forward measured, decides the same; blocks run where it says."""
    case = CASES[name]
    text = on(case, EVERY[kind])
    model = case.build()
    with c4d.cached(model, text) as session:
        first = case.loop(model, STEPS, lambda timesteps: session.begin(timesteps, SIGMAS))
        second = case.loop(model, STEPS, lambda timesteps: session.begin(timesteps, SIGMAS))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    check_decisions(session.trace, text)
    runs = [[e._replace(run=0, seconds=0.0) for e in session.trace if e.run == run] for run in (0, 1)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize(("warmup", "interval"), [(1, 5), (3, 6), (2, 4), (3, 2), (5, 3), (1, 1)])
def test_taylorseer_is_the_published_table_of_differences(order, warmup, interval):
    """A feature that is known at every step; differences form from step E - 1 on, order 2 one full step later."""
    feature = lambda s: math.sin(0.31 * s) + 0.02 * s * s  # noqa: E731
    model = Known(feature)
    table, last, expected = [], None, []
    for step in range(40):
        if step < warmup or step - last >= interval:
            new = [feature(step)]
            for previous in table[:order] if step > warmup - 2 else ():
                new.append((new[-1] - previous) / (step - last))
            table, last = new, step
        expected.append(math.fsum(d * (step - last) ** i / math.factorial(i) for i, d in enumerate(table)))
    method = f"taylorseer-lite:interval={interval},order={order},warmup={warmup}@blocks"
    assert model.run(method, 40) == pytest.approx(expected, rel=1e-9, abs=1e-9)


class Known(nn.Module):
    """A transformer of one number: its stack adds feature(step) to an input of 0, its output is that."""

    def __init__(self, feature):
        super().__init__()
        self.layers, self.final = nn.ModuleList([nn.Identity()]), nn.Identity()
        self.feature = feature
        self.layers[0].forward = lambda hidden_states: hidden_states + self.feature(self.step)

    def forward(self, hidden_states):
        for block in self.layers:
            hidden_states = block(hidden_states)
        return self.final(hidden_states)

    def run(self, method, steps, sigmas=None):
        spec, outs = c4d.ModelSpec("Known", stacks=(c4d.Stack("layers"),), exit="final"), []
        with c4d.cached(self, method, spec=spec) as session:
            session.begin(range(steps), sigmas)
            for self.step in range(steps):
                outs.append(self(torch.zeros(1, 1, dtype=torch.float64)).item())
        self.timeline = session.report().timelines["0"]
        return outs


def test_over_sigma_a_line_in_sigma_is_exact_and_over_steps_it_is_not():
    sigmas = [(1.0 - s / 20) ** 2 for s in range(20)]
    model = Known(lambda s: 3.0 - 2.0 * sigmas[s])
    expected = [3.0 - 2.0 * sigma for sigma in sigmas]
    method = "schedule:computed=0/1/2/6/11+taylor:order=1"
    assert model.run(f"{method},over=sigma", 20, sigmas) == pytest.approx(expected, abs=1e-12)
    assert max(abs(a - b) for a, b in zip(model.run(method, 20, sigmas), expected, strict=True)) > 0.1


@pytest.mark.parametrize(
    "name", ["FlowMatchHeunDiscreteScheduler", "FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"]
)
def test_over_the_sigmas_of_a_scheduler(name):
    """Heun's has each noise level twice; two features of one level have no slope."""
    import diffusers

    case = CASES["wan-t2v"]
    model, scheduler = case.build(), getattr(diffusers, name)()
    with c4d.cached(
        model, "taylorseer-lite:interval=3,warmup=3+newton:order=2,over=sigma@blocks", scheduler=scheduler
    ) as session:
        scheduler.set_timesteps(6)
        x = rand(*case.latents)
        for t in scheduler.timesteps:
            x = scheduler.step(case.run(model, x, float(t)), t, x, return_dict=False)[0]
    assert session.report().reused and torch.isfinite(x).all()


@pytest.mark.parametrize(
    "name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler", "DDIMScheduler"]
)
def test_noise_falls_from_step_to_step(name):
    """Schedulers that are not of flow count noise over signal, at the end below 1 like flow."""
    import diffusers

    scheduler = getattr(diffusers, name)()
    scheduler.set_timesteps(12)
    found = noise_levels(scheduler)
    assert all(a.noise > b.noise and a.signal < b.signal for a, b in pairwise(found))
    assert all(level.noise**2 + level.signal**2 == pytest.approx(1.0) for level in found)


def test_timesteps_given_by_position_count_too():
    """DDIM has no step_index: where a run starts is found by the timestep of its first forward."""
    from diffusers import DDIMScheduler

    case = CASES["wan-t2v"]
    model, scheduler = case.build(), DDIMScheduler()
    lines = []
    for positional in (False, True):
        with c4d.cached(model, "pab:attn=2", scheduler=scheduler) as session:
            scheduler.set_timesteps(10)
            for t in scheduler.timesteps[6:]:
                x, step, text = rand(*case.latents), t[None].float(), case.inputs()["encoder_hidden_states"]
                model(x, step, text) if positional else model(x, timestep=step, encoder_hidden_states=text)
        lines.append([(*e.step[:2], e.step.timestep, e.actions) for e in session.trace])
    assert lines[0] == lines[1] and lines[0][0][:3] == (0, 4, 300.0)


@pytest.mark.parametrize("method", ["taylorseer-lite:interval=2", "dmd:interval=2", "taylorseer:interval=2@attn,mlp"])
def test_features_kept_in_bf16_come_back_as_they_came(method):
    case = CASES["wan-t2v"]
    model, x = case.build(), rand(*case.latents)
    with c4d.cached(model, method, history_dtype=torch.bfloat16) as session:
        session.begin(range(6))
        assert all(case.run(model, x, 900.0 - s).dtype == torch.float32 for s in range(6))
    assert session.report().reused or session.report().modules_reused


def test_another_form_of_the_answer_begins_anew():
    case = CASES["wan-t2v"]
    model, x = case.build(), rand(*case.latents)
    with c4d.cached(model, "taylorseer-lite:interval=9") as session:
        session.begin(range(4))
        case.run(model, x, 900.0)
        model(x, timestep=torch.tensor([800.0]), **case.inputs(), return_dict=True).sample  # noqa: B018 - is there
    assert session.report().timelines == {"0": "CC"}


def test_what_frequencies_need_is_counted_and_goes_with_the_run():
    case = CASES["wan-t2v"]
    model, x, held = case.build(), rand(*case.latents), []
    with c4d.cached(model, "freqca:interval=2,warmup=1") as session:
        session.begin(range(4))
        for s in range(4):
            case.run(model, x, 900.0 - s)
            held.append(session.bytes())
    feature = 128 * 24 * 4
    assert held[0] == feature and held[1] == feature + 4 * 128 * len(low_pass(((2, 8, 8),), 0.1)) and held[3] == 0


def test_over_sigma_needs_sigmas():
    with pytest.raises(RuntimeError, match=r"session.begin\(timesteps, sigmas=…\)"):
        Known(float).run("schedule:computed=0/1+taylor:over=sigma", 4)


def test_dynamic_modes_are_exact_on_a_sum_of_exponentials_where_taylor_is_not():
    """Two decaying modes and a rotating pair, four in all, from five even features."""
    waves = rand(4, 60, seed=3).double()

    def feature(s):
        turn = 0.97**s
        amounts = [0.9**s, 1.02**s, turn * math.cos(0.2 * s), turn * math.sin(0.2 * s)]
        return sum(a * wave for a, wave in zip(amounts, waves, strict=True)).view(1, 6, 10)

    def far(forecaster):
        model = Known(feature)
        spec = c4d.ModelSpec("Known", stacks=(c4d.Stack("layers"),), exit="final")
        with c4d.cached(model, f"schedule:computed=0/2/4/6/8{forecaster}", spec=spec) as session:
            session.begin(range(13))
            errors = []
            for model.step in range(13):
                out = model(torch.zeros(1, 6, 10, dtype=torch.float64))
                errors.append(((out - feature(model.step)).norm() / feature(model.step).norm()).item())
        assert session.report().timelines == {"0": "CrCrCrCrCrrrr"}
        return max(errors[9:]), session.report().host_reads

    (modes, reads), (taylor, none) = far("+dmd:window=5"), far("+taylor:order=2")
    assert modes < 1e-4 < 1e-2 < taylor and (reads, none) == (2, 0)  # at steps 7 and 9: four and five features


def test_dynamic_modes_fit_each_stream_apart():
    """Before a tail the text is forecast by its own modes, not by the image's."""
    case, wanted = CASES["flux"], []
    model = case.build()
    method = "first-block:threshold=1e9,last=0,warmup=4,last_blocks=1+dmd:window=4"
    x = rand(*case.latents)
    with c4d.cached(model, method) as session:
        session.begin(range(6))
        for step in range(6):
            case.run(model, (1 - 0.02 * step) * x, 900.0 - 50 * step)
            if step == 4:
                (branch,) = session._run.branches.values()
                (history,) = branch.histories.values()
                wanted = [torch.stack(history.features(i)).flatten(1).double() for i in range(2)]
                made = [grams[0] for _, grams in sorted(history.gram.items())]
    assert session.report().timelines == {"0": "CCCCrr"}
    for features, gram in zip(wanted, made, strict=True):
        torch.testing.assert_close(gram, features @ features.T, atol=1e-6, rtol=1e-6)


def test_dynamic_modes_fit_each_sample_apart():
    a, b = rand(1, 8, 5, seed=1).double(), rand(1, 8, 5, seed=2).double()
    spec = c4d.ModelSpec("Known", stacks=(c4d.Stack("layers"),), exit="final")

    def last(*samples):
        model = Known(lambda s: torch.cat([0.8**s * x + 1.1**s * x.flip(1) for x in samples]))
        with c4d.cached(model, "schedule:computed=0/1/2/3+dmd:window=4", spec=spec) as session:
            session.begin(range(7))
            for model.step in range(7):
                out = model(torch.zeros(len(samples), 8, 5, dtype=torch.float64))
        return out

    torch.testing.assert_close(last(a, b), torch.cat((last(a), last(b))), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    "text", ["taylorseer-lite:interval=3", "schedule:computed=0/1/4+foca@output", REUSING["easycache"]]
)
def test_a_loop_may_change_its_latents_and_what_it_was_given_in_place(text):
    """What a session keeps of either is its own."""
    case = CASES["wan-t2v"]
    model = case.build()

    def loop(careful):
        outs, x = [], rand(*case.latents)
        with c4d.cached(model, text) as session:
            session.begin(range(STEPS))
            for step in range(STEPS):
                out = case.run(model, x, 900.0 - 50 * step)
                outs.append(out.clone())
                if careful:
                    x = x - 0.1 * out
                else:
                    x.sub_(out.mul_(0.1))
        assert session.report().reused
        return torch.stack(outs)

    torch.testing.assert_close(loop(careful=False), loop(careful=True), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", REUSING)
def test_a_pass_dies_at_its_end(kind):
    """And what it held with it, without waiting for a garbage collection."""
    case = CASES["wan-t2v"]
    model, x, passes = case.build(), rand(*case.latents), []
    with c4d.cached(model, REUSING[kind].format(signal="time_embedding")) as session:
        handle = model.norm_out.register_forward_pre_hook(lambda *_: passes.append(weakref.ref(session.current)))
        session.begin([700.0] * STEPS, SIGMAS)
        gc.disable()
        try:
            for _ in range(STEPS):
                for call in calls_of(model, session.method.name):
                    named_run(case, model, x, call)
            assert passes and not any(ref() for ref in passes)
        finally:
            gc.enable()
            handle.remove()


# -- frequencies


@pytest.mark.parametrize("box", [(8, 8), (4, 6, 5), (7,), (1, 6, 9)])
def test_low_pass_is_an_orthonormal_basis_of_slow_cosines(box):
    basis, S = low_pass((box,), 0.3), math.prod(box)
    assert basis.shape[1] == S and 0 < len(basis) < S
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis)), atol=1e-5, rtol=0)
    constant = torch.ones(S)
    torch.testing.assert_close(basis.T @ (basis @ constant), constant, atol=1e-5, rtol=0)
    fastest = torch.tensor([(-1.0) ** i for i in range(S)]).view(box).flatten()
    assert (basis @ fastest).norm() < 0.5 * fastest.norm()


def test_low_pass_of_two_images_keeps_them_apart():
    both = low_pass(((4, 4), (2, 6)), 0.3)
    first, second = both[:, :16], both[:, 16:]
    assert not ((first.abs().sum(1) > 0) & (second.abs().sum(1) > 0)).any()
    torch.testing.assert_close(first[first.abs().sum(1) > 0], low_pass(((4, 4),), 0.3))


def test_freqca_holds_the_slow_part_and_extrapolates_the_rest():
    """A slow wave that moves is held where it was; a fast one goes on along its line."""
    basis = low_pass(((6, 6),), 0.1)
    slow = basis.T @ torch.ones(len(basis), 1)
    fast = rand(36, 1)
    fast = fast - basis.T @ (basis @ fast)
    model = Known(lambda s: ((1.0 + s) * (slow + fast))[None].double())
    spec = c4d.ModelSpec(
        "Known", stacks=(c4d.Stack("layers"),), exit="final", grid=lambda transformer, named: ((6, 6),)
    )
    with c4d.cached(model, "freqca:interval=4,order=1,warmup=1,scale=0.7071067811865476", spec=spec) as session:
        session.begin(range(7))
        for model.step in range(7):
            out = model(torch.zeros(1, 36, 1, dtype=torch.float64))
    assert session.report().timelines == {"0": "CrrrCrr"}
    torch.testing.assert_close(out[0], (5.0 * slow + 7.0 * fast).double(), atol=1e-4, rtol=1e-4)


class Tokens(nn.Module):
    """Latents [B, C, H, W] whose tokens go through two blocks, row by row.

    ``boxed``: its latents are [B, H, W, C], its blocks have the tokens column by column, and its exit in a box.
    """

    def __init__(self, boxed):
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.final, self.boxed = nn.ModuleList(nn.Linear(4, 4) for _ in range(2)), nn.Identity(), boxed

    def forward(self, hidden_states, timestep):
        x = hidden_states.transpose(1, 2).flatten(1, 2) if self.boxed else hidden_states.flatten(2).mT
        for block in self.layers:
            x = x + block(x).tanh() * timestep
        if self.boxed:
            return self.final(x.unflatten(1, hidden_states.shape[2:0:-1]).transpose(1, 2))
        return self.final(x).mT.unflatten(2, hidden_states.shape[2:])

    def run(self, method):
        def grid(model, named):
            return (tuple(named["hidden_states"].shape[1:3] if self.boxed else named["hidden_states"].shape[2:]),)

        def at_exit(model, named, streams):
            return streams["hidden_states"].unflatten(1, named["hidden_states"].shape[2:0:-1]).transpose(1, 2)

        more = dict(at_exit=at_exit, channels=-1) if self.boxed else {}
        spec = c4d.ModelSpec("Tokens", stacks=(c4d.Stack("layers"),), exit="final", grid=grid, **more)
        outs = []
        with c4d.cached(self, method, spec=spec) as session:
            session.begin(range(8), [1.0 - i / 8 for i in range(8)])
            for i in range(8):
                x = (1 - 0.1 * i) * rand(2, 4, 5, 6) + 0.02 * i * rand(2, 4, 5, 6, seed=i)
                out = self(x.movedim(1, -1) if self.boxed else x, torch.tensor(1 - 0.1 * i))
                outs.append(out.movedim(-1, 1) if self.boxed else out)
        seen = [change.ratio for entry in session.trace for change in entry.seen.values()]
        return torch.stack(outs), torch.tensor(seen), " ".join(session.report().timelines.values())


@pytest.mark.parametrize(
    "method",
    [
        "freqca:interval=2,warmup=1",
        "first-block:threshold=0.3",
        "taylorseer-lite:interval=2@blocks",
        "dmd:interval=2@blocks",
        "seacache:threshold=0.3",
    ],
)
def test_how_tokens_lie_at_the_exit_changes_nothing(method):
    (plain, seen, line), (boxed, same, again) = Tokens(False).run(method), Tokens(True).run(method)
    assert line == again and {"C", "r"} <= set(line)
    torch.testing.assert_close(boxed, plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(same, seen, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sigma", [0.95, 0.5, 0.05])
def test_the_spectrum_is_wieners_filter(sigma):
    """By Fourier transforms, as the paper has it; its mean gain is 1."""
    x = rand(2, 3, 5, 6, 8)
    gain = torch.ones(())
    for n in x.shape[2:]:
        f = torch.fft.fftfreq(n).abs()
        p = 1.0 / (f**3 + 1e-16)
        gain = gain[..., None] * ((1 - sigma) * p / ((1 - sigma) ** 2 * p + sigma**2 + 1e-16))
    wanted = torch.fft.ifftn(torch.fft.fftn(x, dim=(2, 3, 4)) * (gain / gain.mean()), dim=(2, 3, 4)).real
    torch.testing.assert_close(evolved(x, (), NoiseLevel(1.0 - sigma, sigma)), wanted, atol=1e-4, rtol=1e-4)
    tokens = x[:, :, 0].flatten(2).mT
    as_tokens = evolved(torch.cat((tokens, rand(2, 9, 3)), 1), (6, 8), NoiseLevel(1.0 - sigma, sigma))
    torch.testing.assert_close(as_tokens, evolved(x[:, :, 0], (), NoiseLevel(1.0 - sigma, sigma)))


def test_leading_channels():
    x = rand(1, 9, 2, 4)
    assert torch.equal(leading(x, (1, 4, 2, 4)), x[:, :4])
    with pytest.raises(ValueError, match=r"output \[1, 12, 2, 4\] is not like the latents \[1, 9, 2, 4\]; .*@blocks"):
        leading(x, (1, 12, 2, 4))


def grids(grid):
    case = CASES["wan-t2v"]
    spec = replace(c4d.models.spec_for(case.build()), grid=lambda transformer, named: grid)
    return case, spec


@pytest.mark.parametrize(
    "method, grid, says",
    [
        ("freqca:interval=2,warmup=1", ((2, 8, 9),), "grid has 144 places, and 128 tokens reach the exit"),
        ("freqca:interval=2,warmup=1", (4, 6), r"gives the grid \(4, 6\): it is one box or several"),
    ],
)
def test_a_grid_that_is_none_is_told(method, grid, says):
    case, spec = grids(grid)
    model, x = case.build(), rand(*case.latents)
    with c4d.cached(model, method, spec=spec) as session, pytest.raises(RuntimeError, match=says):
        session.begin([900.0] * 2)
        case.run(model, x, 900.0), case.run(model, x, 900.0)


def test_an_argument_that_is_not_there_is_told():
    case = CASES["wan-t2v"]
    model = case.build()
    spec = replace(c4d.models.spec_for(model), latents="x")
    says = "called without a tensor 'x' .got hidden_states, .*; its spec names the argument that is denoised"
    with c4d.cached(model, REUSING["easycache"], spec=spec) as session, pytest.raises(RuntimeError, match=says):
        session.begin([900.0])
        case.run(model, rand(*case.latents), 900.0)


def test_a_kind_of_site_that_is_none_is_told():
    with pytest.raises(ValueError, match="unknown kind of site 'attention' in 'blocks': known are attn"):
        c4d.Stack("blocks", sites={"attention": (c4d.Site("attn"),)})


# -- skipping


def test_easycache_is_its_definition():
    """k = |v - v'| / |x - x'| over the last two computed steps; skip while sum k |x_s - x_{s-1}| / |v| < threshold."""
    case, steps = CASES["wan-t2v"], 16
    model = case.build()
    xs = [rand(*case.latents, seed=s) * 0.05 + rand(*case.latents, seed=99) for s in range(steps)]
    size = lambda x: x.abs().sum().item()  # noqa: E731
    threshold, warmup = 0.35, 3

    def computed(i):
        return case.run(model, xs[i], 900.0 - 40.0 * i)

    outs, line, last, change, k, v = [], "", [], 0.0, None, None
    for i in range(steps):
        if i >= warmup and i < steps - 1:
            change += k * size(xs[i] - xs[i - 1]) / size(v)
            if change < threshold:
                outs.append(xs[i] + (v - xs[last[-1]]))
                line += "r"
                continue
        out = computed(i)
        if last:
            k = size(out - v) / size(xs[i] - xs[last[-1]])
        last, v, change = [*last, i], out, 0.0
        outs.append(out)
        line += "C"
    assert "rr" in line and line.count("C") > warmup + 2
    with c4d.cached(model, f"easycache:threshold={threshold},warmup={warmup}") as session:
        session.begin(range(steps))
        mine = [computed(i) for i in range(steps)]
    assert session.report().timelines == {"0": line}
    for a, b in zip(mine, outs, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


def test_meancache_is_its_definition():
    """As the paper has it: of the guided velocity, whose mean is that of the latents under Euler's method."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    case, steps, orders = CASES["wan-t2v"], 16, {0: 1, 1: 2, 4: 4, 7: 1, 9: 6, 15: 1}
    model, scheduler = case.build(), FlowMatchEulerDiscreteScheduler(shift=3.0)
    words = [rand(1, 12, 16, seed=seed) for seed in (1, 2)]

    def call(name, x, t):
        given = dict(encoder_hidden_states=words[name == "uncond"], return_dict=False)
        with model.cache_context(name):
            return model(x, timestep=torch.full((1,), float(t)), **given)[0]

    def loop(velocity):
        scheduler.set_timesteps(steps)
        x, outs = rand(*case.latents, seed=3), []
        for i, t in enumerate(scheduler.timesteps):
            outs.append(velocity(i, t, x))
            x = scheduler.step(outs[-1], t, x, return_dict=False)[0]
        return outs

    def guided(i, t, x):
        cond, uncond = call("cond", x, t), call("uncond", x, t)
        return uncond + 3.0 * (cond - uncond)

    v, xs, k = [], [], 1

    def plainly(i, t, x):
        nonlocal k
        s = scheduler.sigmas
        xs.append(x)
        if i in orders:
            k = orders[i]
            v.append(guided(i, t, x))
        else:
            far = s[i] - s[i - k]
            slope = (v[i - k] - (x - xs[i - k]) / far) / far
            v.append(v[-1] - slope * (s[i + 1] - s[i]) if k > 1 else v[-1])
        return v[-1]

    wanted = loop(plainly)
    text = f"meancache:computed={'/'.join(map(str, orders))},orders={'/'.join(map(str, orders.values()))}"
    with c4d.cached(model, text, scheduler=scheduler) as session:
        found = loop(guided)
    assert session.report().computed == 2 * len(orders)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert max((a - b).norm() / b.norm() for a, b in zip(found, loop(guided), strict=True)) > 1e-2


def test_easycache_takes_the_leading_channels_of_an_input_with_conditions():
    case = CASES["wan-i2v"]
    model, x = case.build(), rand(*case.latents)
    with c4d.cached(model, "easycache:threshold=1e9,warmup=2,last=0") as session:
        session.begin([900.0] * 3)
        outs = [case.run(model, x - s, 900.0 - s) for s in range(2)]
        moved = x - 0.75
        last = case.run(model, moved, 898.0)
    assert session.report().timelines == {"0": "CCr"}
    torch.testing.assert_close(last, outs[1] + 0.25)


def test_mlps_are_broadcast_in_the_leading_blocks():
    """FLUX's two lists are one chain; the MLPs of other blocks, and its single-stream ones, run on every step."""
    for name, first, mlps in (("wan-t2v", 2, 1), ("flux", 1, 2), ("flux", 9, 2)):
        case = CASES[name]
        model = case.build()
        blocks = len(model.blocks) if name == "wan-t2v" else len(model.transformer_blocks)
        with c4d.cached(model, f"pab:mlp=2,mlp_at=990,mlp_blocks={first}", spec=None) as session:
            session.begin([1000.0, 950.0, 900.0, 800.0])
            for t in (1000.0, 950.0, 900.0, 800.0):
                case.run(model, rand(*case.latents), t)
        held = min(first, blocks) * mlps
        assert session.report().modules_total == 4 * held and session.report().modules_reused == 2 * held
        assert [entry.did for entry in session.trace] == ["C", "C", "r", "r"]


MEASURED = "first-block:threshold=1e9,last=0,first_blocks={},last_blocks={}"
LISTED = "dbcache:Fn={},Bn={},scm=10,scm_policy=static"


@pytest.mark.parametrize("name", ["wan-t2v", "wan-vace", "hunyuan-t2v", "flux", "flux-controlnet"])
@pytest.mark.parametrize(
    ("method", "head", "tail"),
    [
        *((MEASURED, *ends) for ends in ((1, 0), (1, 1), (2, 1), (3, 1), (1, 3), (2, 2))),
        *((LISTED, *ends) for ends in ((1, 0), (1, 1), (2, 1), (1, 3), (0, 2))),
    ],
)
def test_head_and_tail_blocks_run_on_every_step(name, method, head, tail):
    """What a reused step puts in front of the tail is, stream by stream, what stood there less what the head gave."""
    case, method = CASES[name], method.format(head, tail)
    model = case.build()
    paths = [p for p in ("blocks", "transformer_blocks", "single_transformer_blocks") if hasattr(model, p)]
    chain = [block for path in paths for block in getattr(model, path)]
    if head + tail >= len(chain):
        with (
            pytest.raises(ValueError, match=r"leave none of the .* blocks"),
            c4d.cached(model, method),
        ):
            pass
        return
    seen = [[] for _ in chain]
    for block, calls in zip(chain, seen, strict=True):
        block.register_forward_hook(lambda module, args, out, calls=calls: calls.append(out))
        block.register_forward_pre_hook(
            lambda module, args, kwargs, calls=calls: calls.append((args, kwargs)), with_kwargs=True
        )
    x = rand(*case.latents)
    with c4d.cached(model, method) as session:
        session.begin([900.0, 800.0])
        case.run(model, x, 900.0), case.run(model, 1.1 * x, 800.0)
    assert session.report().timelines == {"0": "Cr"}
    ran = [len(calls) // 2 for calls in seen]
    assert ran == [2] * head + [1] * (len(chain) - head - tail) + [2] * tail
    side = len(getattr(model, "vace_blocks", ()))
    assert session.report().blocks_entered == sum(ran) + 2 * side
    if not tail:
        return
    entries, given = seen[-tail][0::2], seen[head - 1][1::2]
    if head == 0:  # what comes to the first block, which a reused forward never calls
        seen[0].clear()
        case.run(model, x, 900.0), case.run(model, 1.1 * x, 800.0)
        given = seen[0][0::2]

    def tensors(found):
        """By stream, of a block's arguments or of what it returned."""
        if isinstance(found, tuple) and found and isinstance(found[1], dict):
            args, kwargs = found
            takes = ("hidden_states", "encoder_hidden_states")
            return {**dict(zip(takes, args, strict=False)), **{k: v for k, v in kwargs.items() if k in takes}}
        if not isinstance(found, tuple):
            return {"hidden_states": found}
        return dict(
            zip(("encoder_hidden_states", "hidden_states")[:: 1 if name.startswith("flux") else -1], found, strict=True)
        )

    for stream in tensors(given[0]):
        before, now = (tensors(entries[i])[stream] for i in (0, 1))
        base, there = (tensors(given[i])[stream] for i in (0, 1))
        torch.testing.assert_close(now, there + (before - base), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("rule", "line"), [("clamped", "CrrCr"), ("published", "Crrrr")])
def test_teacache_outside_the_range_of_its_fit(rule, line):
    """-8 d^2 + 4 d - 0.05: below 0 under 0.0129 and from 0.487 on; nothing was fitted beyond."""
    policy = (
        parse(f"teacache:threshold=0.9,coefficients=-8/4/-0.05,signal=time_embedding,last=0,rule={rule}")
        .rules[0]
        .policy
    )

    state, said = policy.init(), ""
    for i, ratio in enumerate((0.0, 0.001, 0.25, 0.6, 0.002)):
        seen = {Signal.TIME_EMBEDDING: RelativeL1(ratio, 1.0)} if i else {}
        action, state = policy.decide(state, Step(i, 9, "cond"), seen)
        said += "C" if action is Action.COMPUTE else "r"
    assert said == line


def test_every_forecaster_is_tried():
    tried = {
        type(rule.forecast)
        for text in {**EVERY, **CHANNELS}.values()
        for rule in parse(text.format(signal="time_embedding")).rules
    }
    own = {
        ByChannel,
        LearnedWeights,
        Calibrated,
        GuidanceWaves,
        MeanVelocity,
        Nothing,
        ProbeAligned,
    }  # of one method each
    assert tried == {*FORECASTERS.values(), *own}
