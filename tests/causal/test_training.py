"""tools.train_causal on tiny random models and planted cases: what each stage learns from, and what comes out."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch

import c4d
from c4d.bundled import adherence, evaluation_set, roll_out
from c4d.causal.decoder import StreamingDecoder
from c4d.causal.memory import KVCache
from tests.pipes import text_to_video
from tools.train_causal import running
from tools.train_causal.__main__ import main, run
from tools.train_causal.distil import critic_loss, matching_loss
from tools.train_causal.ode import _at, _of_blocks
from tools.train_causal.settings import Settings
from tools.train_causal.student import Student, trained_copy, trained_state
from tools.train_causal.teacher import Teacher, velocity

SMALL = {
    "clips": 3,
    "trajectory_batch": 2,
    "trajectory_steps": 4,
    "ode_steps": 2,
    "ode_batch": 2,
    "distil_steps": 2,
    "distil_batch": 2,
    "critic_updates": 1,
    "judge_clips": 2,
}
PROMPTS = ["a red circle moving left on a black background", "a blue square moving up on a white background"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline with a small random transformer, and prompts for it."""
    where = tmp_path_factory.mktemp("teacher")
    text_to_video()[0].save_pretrained(where / "pipe")
    (where / "prompts.txt").write_text("\n".join(PROMPTS) + "\n\n")
    return where


@pytest.fixture(scope="module")
def model():
    return text_to_video()[0].transformer


def asked(folder, **more):
    return Settings(teacher=str(folder / "pipe"), prompts=str(folder / "prompts.txt"), **{**SMALL, **more})


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("lora", [0, 2])
def test_every_stage(folder, lora, tmp_path, monkeypatch, capsys):
    from diffusers import WanPipeline

    monkeypatch.setattr(running, "EVERY", 1)
    settings, stages = asked(folder, lora=lora), ("trajectories", "ode", "self-forcing", "teacher-forcing", "export")
    run(tmp_path, settings, stages)
    said = capsys.readouterr().out
    for stage in ("ode 2", "self-forcing 2", "teacher-forcing 2"):
        assert f"{stage} " in said
    kept = {stage: torch.load(tmp_path / f"{stage}.pt")["content"] for stage in stages[:-1]}
    data = kept["trajectories"]
    assert data["latents"].shape == (3, 5, 8, 4, 8, 8) and data["prompts"] == PROMPTS
    assert torch.allclose(data["levels"], torch.tensor([1, 0.9, 0.75, 0.5]), atol=1e-3)
    names = set(kept["ode"])
    assert all(("lora" in name) == bool(lora) for name in names)
    for one, other in (("ode", "self-forcing"), ("self-forcing", "teacher-forcing")):
        assert any(not torch.equal(kept[one][name], kept[other][name]) for name in names)

    pipe = WanPipeline.from_pretrained(tmp_path / "pipe-self-forcing")
    rollout = c4d.rollout(pipe)
    assert (rollout.config.window, rollout.config.steps) == (3, (1000, 750, 500, 250))
    wanted, seeds = evaluation_set("held_out", 2)
    video = roll_out(rollout, wanted, seeds)
    assert video.shape == (2, 3, 13, 32, 32) and adherence(video, wanted).clips == 2
    # Adapters are part of the weights now.
    student = Student(text_to_video()[0].transformer, settings, kept["self-forcing"]).transformer
    x, text, level = noise(1, 8, 2, 4, 4), noise(1, 5, 64, seed=1), torch.full((1,), 0.5)
    assert torch.allclose(velocity(pipe.transformer, x, level, text), velocity(student, x, level, text), atol=1e-5)

    run(tmp_path, settings, ("ode",))
    assert "ode: finished before, kept" in capsys.readouterr().out
    with pytest.raises(ValueError, match="reads clips of wan-tiny's prompts alone"):
        run(tmp_path, settings, ("judge",))
    (tmp_path / "ode.pt").unlink()
    run(tmp_path, settings, ("ode",))
    assert "ode.now: goes on from update 2" in capsys.readouterr().out


def test_what_a_command_is_asked_for_reaches_the_settings(folder, tmp_path, capsys):
    words = [str(tmp_path), "--teacher", str(folder / "pipe"), "--prompts", str(folder / "absent.txt")]
    with pytest.raises(SystemExit):
        main([*words, "--stage", "trajectories"])
    assert "absent.txt; allowed is a text file with one prompt a line" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words[:3], "--stage", "export"])
    assert "no student in" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--teacher", "absent/../x"])
    assert "give a bundled model (wan-tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"clips": 0}, "clips=0; allowed are 1 and more"),
        ({"lora": -1}, "lora=-1; allowed are 0 and more"),
        ({"ode_rate": 0.0}, "ode_rate=0.0; it has to be above 0"),
        ({"guidance": float("nan")}, "guidance=nan; it has to be above 0"),
        ({"steps": "250,1000"}, "allowed are timesteps from 1000 down to above 0, falling"),
        ({"window": 1, "block": 2}, "window is 1; it has to hold"),
    ],
)
def test_settings_that_cannot_be(given, said):
    with pytest.raises(ValueError, match=said):
        Settings(**given)


def test_a_clip_of_no_whole_blocks_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="frames=13 are 4 of latents, no whole blocks of 3"):
        run(tmp_path, asked(folder, block=3), ("trajectories",))


# -- what the student learns along its own rollout


def test_a_rollout_in_training_is_that_of_generation(folder):
    from diffusers import WanPipeline

    pipe = WanPipeline.from_pretrained(folder / "pipe")
    settings = asked(folder, steps="1000", block=1, window=2)
    student, text = Student(pipe.transformer, settings), torch.zeros(1, 16, 64)
    generator = torch.Generator().manual_seed(3)
    made = list(c4d.rollout(pipe, **vars(settings.rollout))(PROMPTS[0], frames=13, generator=generator))
    generator.manual_seed(3)
    start = torch.cat([torch.randn(1, 8, 1, 8, 8, generator=generator) for _ in range(4)], 2)
    text = pipe.encode_prompt(PROMPTS[0], do_classifier_free_guidance=False, max_sequence_length=16)[0]
    with student.patch() as patch, torch.no_grad():
        latents = student.rollout(patch, start, text, generator, steps=1)
    pixels = (StreamingDecoder(pipe.vae)(latents) / 2 + 0.5).clamp(0, 1).transpose(1, 2)
    assert torch.allclose(torch.cat(made, 1), pixels, atol=1e-4)


def test_gradients_reach_the_last_step_of_every_block_alone(model, monkeypatch):
    student = Student(model, Settings(**SMALL))
    calls = []

    def watched(transformer, x, level, text):
        calls.append((x.shape[2], float(level[0]), torch.is_grad_enabled()))
        return velocity(transformer, x, level, text)

    monkeypatch.setattr("tools.train_causal.student.velocity", watched)
    with student.patch() as patch:
        made = student.rollout(patch, noise(2, 8, 4, 4, 4), noise(2, 5, 64), torch.Generator(), steps=2)
    made.square().mean().backward()
    of_block = [(1, 1.0, False), (1, pytest.approx(0.9), True), (1, 0.0, False)]
    assert calls == of_block * 4
    assert all(p.grad is not None for p in student.transformer.parameters())


def test_teacher_forcing_looks_back_at_what_it_is_given(model):
    student, x, text = Student(model, Settings(**SMALL)), noise(1, 8, 4, 4, 4), noise(1, 5, 64)

    def rolled(context):
        with student.patch() as patch, torch.no_grad():
            return student.rollout(patch, x, text, torch.Generator().manual_seed(5), steps=2, context=context)

    own = rolled(None)
    assert torch.equal(own, rolled(own))
    other = rolled(own + 1)
    assert torch.equal(other[:, :, :1], own[:, :, :1])
    assert all(not torch.allclose(other[:, :, i], own[:, :, i], atol=1e-3) for i in (1, 2, 3))


# -- the ODE stage


def test_the_ode_stage_sees_what_a_rollout_sees(model):
    settings = Settings(**SMALL)
    student, text = Student(model, settings), noise(1, 5, 64)
    clip, last = noise(1, 8, 4, 4, 4), noise(1, 8, 1, 4, 4, seed=1)
    levels = torch.tensor([[0, 0, 0, 0.75]])
    with student.patch() as patch, torch.no_grad():
        at_once = student.clean_at_once(patch, torch.cat((clip[:, :, :3], last), 2), levels, text)[:, :, 3:]
        cache = KVCache(settings.rollout.blocks, 4)
        for i in range(3):
            patch.block(cache, i, i + 1)
            velocity(student.transformer, clip[:, :, i : i + 1], torch.zeros(1), text)
        patch.block(cache, 3, 4)
        step_by_step = last - 0.75 * velocity(student.transformer, last, torch.full((1,), 0.75), text)
    assert torch.allclose(at_once, step_by_step, atol=1e-4)


def test_blocks_before_a_random_one_are_clean_and_do_not_count():
    settings = Settings(**{**SMALL, "block": 2, "window": 4})
    which, counts = _of_blocks(settings, (3, 5, 8, 6, 4, 4), 400, torch.Generator().manual_seed(0))
    assert torch.equal(which == 4, ~counts)  # the last of five is the clean one
    assert torch.equal(which[:, ::2], which[:, 1::2])  # a block has one level
    assert counts[:, -1].all() and 0.2 < counts[:, 0].float().mean() < 0.5
    assert set(which[counts].tolist()) == {0, 1, 2, 3}
    trajectories = torch.arange(400 * 5 * 6.0).view(400, 5, 1, 6, 1, 1).expand(-1, -1, 8, -1, 4, 4)
    picked = _at(trajectories, which)
    for clip, frame in ((0, 0), (7, 5), (399, 3)):
        assert torch.equal(picked[clip, :, frame], trajectories[clip, which[clip, frame], :, frame])


# -- distribution matching


class Says:
    """A model, or a teacher, that says of everything that ``clean`` is behind it."""

    def __init__(self, clean):
        self.clean = clean

    def velocity(self, x, level, text, nothing):
        return (x - self.clean) / level[:, None, None, None, None]

    def __call__(self, hidden_states, timestep, encoder_hidden_states, return_dict):
        return (self.velocity(hidden_states, timestep / 1000, None, None),)


def gradient_of(real, fake, made):
    made = made.clone().requires_grad_()
    text = torch.zeros(len(made), 1, 1)
    matching_loss(Settings(), Says(real), Says(fake), made, text, text, torch.Generator().manual_seed(0)).backward()
    return made.grad * made.numel()


def test_the_gradient_moves_samples_from_the_student_s_to_the_teacher_s():
    made = torch.stack((torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)))
    moved = gradient_of(real=1.0, fake=-1.0, made=made)
    expected = torch.tensor([-2 / 1.0, -2 / 0.5])  # the difference over the distance to what the teacher says
    assert torch.allclose(moved, expected.view(2, 1, 1, 1, 1).expand_as(moved), atol=1e-3)
    assert (gradient_of(real=-1.0, fake=1.0, made=made) > 0).all()
    assert torch.allclose(gradient_of(real=1.0, fake=1.0, made=made), torch.zeros(()), atol=1e-4)


def test_a_student_that_is_the_teacher_learns_nothing(model):
    """Without guidance; and with it, it does."""
    text, nothing, made = noise(2, 5, 64), noise(2, 5, 64, seed=2), noise(2, 8, 2, 4, 4, seed=1)
    norms = []
    for guidance in (1.0, 4.0):
        settings = Settings(guidance=guidance)
        teacher = SimpleNamespace(transformer=model, _settings=settings)
        teacher.velocity = partial(Teacher.velocity, teacher)
        x = made.clone().requires_grad_()
        matching_loss(settings, teacher, model, x, text, nothing, torch.Generator().manual_seed(0)).backward()
        norms.append(float(x.grad.norm()))
    assert norms[0] < 1e-5 * norms[1]


def test_the_critic_learns_what_the_student_makes(model):
    critic, made, text = trained_copy(model, Settings()), noise(4, 8, 2, 4, 4).abs(), noise(4, 5, 64)
    before = {name: p.clone() for name, p in trained_state(critic).items()}
    optimiser, losses = torch.optim.Adam(critic.parameters(), 3e-3), []
    for _ in range(30):
        optimiser.zero_grad()
        loss = critic_loss(Settings(), critic, made, text, torch.Generator().manual_seed(0))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert critic_loss(Settings(), Says(made), made, text, torch.Generator().manual_seed(0)) < 1e-9
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())  # the teacher stays as it was
