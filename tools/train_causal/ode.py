"""Stage ode: the student learns where the teacher's trajectories end, from blocks of them at random noise levels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from .running import Snapshots, Updates
from .settings import Settings
from .student import Student, trained_state
from .teacher import Teacher


def train_ode(
    settings: Settings, teacher: Teacher, accelerator: Accelerator, data: dict[str, Any], snapshot: Path
) -> dict[str, Tensor]:
    """-> what was trained of the student (:func:`trained_state`).

    Of each clip the blocks before a random one are clean, as a rollout sees them; that one and those after it have
    noise levels of the student's at random, each its own (CausVid, arXiv 2412.07772, section 4.3), and count.
    """
    seed = 1000 * settings.stage_seed("ode")
    torch.manual_seed(seed)  # of adapters, which all processes begin with
    generator = torch.Generator().manual_seed(seed + accelerator.process_index)
    student = Student(teacher.transformer, settings)
    run = Updates(
        accelerator, student.transformer.parameters(), steps=settings.ode_steps, rate=settings.ode_rate, hold=0.5
    )
    snapshots = Snapshots(accelerator, snapshot, [run], generator)
    with student.patch() as patch:
        while run.done < run.steps:
            rows = torch.randint(0, len(data["latents"]), (settings.ode_batch,), generator=generator)
            which, counts = _of_blocks(settings, data["latents"].shape, settings.ode_batch, generator)
            trajectories = data["latents"][rows]
            x = _at(trajectories, which).to(accelerator.device)
            levels = torch.cat((data["levels"], torch.zeros(1)))[which].to(accelerator.device)
            text = teacher.texts([data["prompts"][i] for i in data["chosen"][rows].tolist()])
            with accelerator.autocast():
                made = student.clean_at_once(patch, x, levels, text)
            error = (made - trajectories[:, -1].to(made)).square().mean((1, 3, 4))  # [B, F]
            counted = counts.to(error)
            loss = (error * counted).sum() / counted.sum()
            gradient = run.step(loss)
            snapshots.note("ode", loss=loss.item(), gradient=gradient)
    run.use_average()
    return trained_state(student.transformer)


def _of_blocks(
    settings: Settings, shape: tuple[int, ...], batch: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """[B, F] of each frame: which of the levels it has (the last: clean), and whether it counts."""
    levels, frames = shape[1] - 1, shape[3]
    spans = [span for span, _ in zip(settings.rollout.blocks.spans(), range(frames), strict=False) if span[0] < frames]
    sizes = torch.tensor([stop - start for start, stop in spans])
    which = torch.randint(0, levels, (batch, len(spans)), generator=generator)
    first = torch.randint(0, len(spans), (batch, 1), generator=generator)
    counts = torch.arange(len(spans)) >= first
    return torch.where(counts, which, levels).repeat_interleave(sizes, 1), counts.repeat_interleave(sizes, 1)


def _at(trajectories: Tensor, which: Tensor) -> Tensor:
    """[B, C, F, H, W] of trajectories [B, L, C, F, H, W], each frame at its own ``which`` [B, F] of the L."""
    index = which[:, None, None, :, None, None].expand(-1, 1, *trajectories.shape[2:])
    return trajectories.gather(1, index).squeeze(1)
