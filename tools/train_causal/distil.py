"""Stages self-forcing and teacher-forcing: distribution matching on what the student rolls out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from .running import Snapshots, Updates
from .settings import Settings
from .student import Student, trained_copy, trained_state
from .teacher import Teacher, velocity

LOWEST, HIGHEST = 0.02, 0.98  # noise levels before the shift at which distributions are compared (DMD, 2311.18828)


def train_distil(
    settings: Settings,
    teacher: Teacher,
    accelerator: Accelerator,
    data: dict[str, Any],
    trained: dict[str, Tensor],
    snapshot: Path,
    *,
    stage: str,
) -> dict[str, Tensor]:
    """Goes on from what stage ode ``trained`` -> what was trained of the student.

    Self-Forcing (arXiv 2506.08009, algorithm 1): of every block of a rollout a random step is the last one, the same
    for all blocks. What comes out is matched with the teacher's distribution (:func:`matching_loss`), by a critic that
    learns the student's own (:func:`critic_loss`). There the critic has new samples for each of its updates; here it
    has new noise on the samples of the student's latest rollout, which costs a third. In stage ``teacher-forcing``
    blocks look back at the teacher's clips in the place of the student's; all else is the same.
    """
    seed = 1000 * settings.stage_seed(stage)
    torch.manual_seed(seed)  # of adapters, which all processes begin with
    generator = torch.Generator().manual_seed(seed + accelerator.process_index)
    student = Student(teacher.transformer, settings, trained)
    critic = trained_copy(teacher.transformer, settings)
    learns = Updates(
        accelerator, student.transformer.parameters(), steps=settings.distil_steps, rate=settings.distil_rate, hold=0.5
    )
    follows = Updates(
        accelerator,
        critic.parameters(),
        steps=settings.distil_steps * settings.critic_updates,
        rate=settings.critic_rate,
        hold=0.9,
    )
    snapshots = Snapshots(accelerator, snapshot, [learns, follows], generator)
    with student.patch() as patch:
        while learns.done < learns.steps:
            rows = torch.randint(0, len(data["latents"]), (settings.distil_batch,), generator=generator)
            text = teacher.texts([data["prompts"][i] for i in data["chosen"][rows].tolist()])
            nothing = teacher.texts([""] * len(rows))
            clean = data["latents"][rows, -1].to(accelerator.device)
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            steps = 1 + int(torch.randint(0, len(student.levels), (1,), generator=generator))
            with accelerator.autocast():
                made = student.rollout(
                    patch, noise, text, generator, steps=steps, context=clean if stage == "teacher-forcing" else None
                )
                loss = matching_loss(settings, teacher, critic, made, text, nothing, generator)
            gradient = learns.step(loss)
            for _ in range(settings.critic_updates):
                with accelerator.autocast():
                    error = critic_loss(settings, critic, made.detach(), text, generator)
                follows.step(error)
            snapshots.note(stage, loss=loss.item(), gradient=gradient, critic=error.item())
    learns.use_average()
    return trained_state(student.transformer)


def matching_loss(
    settings: Settings,
    teacher: Teacher,
    critic: Any,
    made: Tensor,
    text: Tensor,
    nothing: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Whose gradient moves what was ``made`` from the student's distribution to the teacher's, guided.

    Both see it at one noise level, and say what is clean: the gradient is the difference of what the critic and the
    teacher say, over the mean distance of the latter from what was made (DMD, arXiv 2311.18828, section 3.2; DMD2,
    2405.14867).
    """
    with torch.no_grad():
        level = _levels(len(made), settings.shift, generator).to(made)
        noise = torch.randn(made.shape, generator=generator).to(made)
        at = level[:, None, None, None, None]
        noisy = made.lerp(noise, at)
        real = noisy - at * teacher.velocity(noisy, level, text, nothing)
        fake = noisy - at * velocity(critic, noisy, level, text)
        distance = (made - real).abs().mean((1, 2, 3, 4), keepdim=True).clamp_min(1e-6)
        towards = made - (fake - real) / distance
    return 0.5 * (made - towards).square().mean()


def critic_loss(settings: Settings, critic: Any, made: Tensor, text: Tensor, generator: torch.Generator) -> Tensor:
    """Flow matching on what the student makes."""
    level = _levels(len(made), settings.shift, generator).to(made)
    noise = torch.randn(made.shape, generator=generator).to(made)
    noisy = made.lerp(noise, level[:, None, None, None, None])
    return (velocity(critic, noisy, level, text) - (noise - made)).square().mean()


def _levels(n: int, shift: float, generator: torch.Generator) -> Tensor:
    """[n], uniform before the shift."""
    s = LOWEST + (HIGHEST - LOWEST) * torch.rand(n, generator=generator)
    return shift * s / (1 + (shift - 1) * s)
