"""The teacher: a whole clip at once, with guidance. Stage trajectories."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import WanPipeline
from torch import Tensor

from c4d.pipelines.directory import locate

from .settings import Settings


class Teacher:
    """A text-to-video pipeline. ``transformer`` sees all frames of a clip; nothing here changes it.

    Latents are [B, C, F, H, W], noise levels [B] or [] from 1 down to 0, texts [B, S, D].
    """

    def __init__(self, settings: Settings, accelerator: Accelerator) -> None:
        model = settings.teacher
        self.pipe: Any = WanPipeline.from_pretrained(locate(model)[0])
        if getattr(self.pipe, "transformer_2", None) is not None:
            raise ValueError(f"teacher={model} has two transformers; a rollout drives one")
        self.pipe.to(accelerator.device)
        self.pipe.set_progress_bar_config(disable=True)
        self.transformer: Any = self.pipe.transformer.requires_grad_(False)
        self._settings = settings

    def shape(self, batch: int) -> tuple[int, ...]:
        """Of latents of a clip of the size that is asked for. Raises ValueError unless it is whole blocks."""
        pipe, settings = self.pipe, self._settings
        frames, blocks = 1 + (settings.frames - 1) // pipe.vae_scale_factor_temporal, settings.rollout.blocks
        if blocks.whole(frames) != frames:
            raise ValueError(f"frames={settings.frames} are {frames} of latents, no whole blocks of {blocks.size}")
        sides = (side // pipe.vae_scale_factor_spatial for side in (settings.height, settings.width))
        return (batch, self.transformer.config.in_channels, frames, *sides)

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """[B, S, D]."""
        with torch.no_grad():
            text: Tensor = self.pipe.encode_prompt(
                prompt=list(prompts),
                do_classifier_free_guidance=False,
                num_videos_per_prompt=1,
                max_sequence_length=self._settings.text,
                device=self.pipe._execution_device,
            )[0]
        return text

    @torch.no_grad()
    def velocity(self, x: Tensor, level: Tensor, text: Tensor, nothing: Tensor) -> Tensor:
        """Guided: that without a prompt, and from there ``guidance`` times as far as that with it."""
        two = torch.cat((text, nothing))
        cond, uncond = velocity(self.transformer, x.repeat(2, 1, 1, 1, 1), level.expand(len(x)).repeat(2), two).chunk(2)
        return uncond + self._settings.guidance * (cond - uncond)


def velocity(transformer: Any, x: Tensor, level: Tensor, text: Tensor) -> Tensor:
    """One forward, in fp32 whatever the model computes in; ``level`` [B], or [B, tokens]."""
    out: Tensor = transformer(
        hidden_states=x, timestep=1000 * level, encoder_hidden_states=text.to(x.dtype), return_dict=False
    )[0]
    return out.float()


@torch.no_grad()
def make_trajectories(settings: Settings, teacher: Teacher, accelerator: Accelerator) -> dict[str, Any]:
    """The pipeline's own sampling of random prompts, stopped at the student's noise levels on the way.

    Returns ``prompts`` (texts), ``chosen`` [clips], ``levels`` [L], those of the sampling that are nearest to the
    student's, and ``latents`` [clips, L + 1, C, F, H, W]: noisy at each of them, and clean at last.
    """
    generator = torch.Generator().manual_seed(1000 * settings.stage_seed("trajectories") + accelerator.process_index)
    prompts, scheduler = settings.lines(), teacher.pipe.scheduler
    few = settings.rollout.few
    assert few is not None
    chosen, latents, started = list[Tensor](), list[Tensor](), time.monotonic()
    share = -(-settings.clips // accelerator.num_processes)
    for start in range(0, share, settings.trajectory_batch):
        shape = teacher.shape(min(settings.trajectory_batch, share - start))
        rows = torch.randint(0, len(prompts), shape[:1], generator=generator)
        text = teacher.texts([prompts[i] for i in rows.tolist()])
        nothing = teacher.texts([""] * len(rows))
        scheduler.set_timesteps(settings.trajectory_steps, device=accelerator.device)
        sigmas = scheduler.sigmas.float().cpu()
        kept = [int((sigmas[:-1] - level).abs().argmin()) for level in few.levels]
        x = torch.randn(shape, generator=generator).to(accelerator.device)
        on_the_way = []
        for i, t in enumerate(scheduler.timesteps):
            if i in kept:
                on_the_way.append(x)
            x = scheduler.step(teacher.velocity(x, t / 1000, text, nothing), t, x, return_dict=False)[0]
        if len(on_the_way) < len(kept):
            raise ValueError(
                f"trajectory_steps={settings.trajectory_steps}; allowed are at least the student's {len(kept)}"
            )
        chosen.append(rows)
        latents.append(torch.stack([*on_the_way, x], 1).cpu())
        print(f"trajectories {start + len(rows)} {time.monotonic() - started:.0f} s", flush=True)
    return {
        "prompts": prompts,
        "chosen": _of_all(accelerator, torch.cat(chosen)),
        "levels": sigmas[kept],
        "latents": _of_all(accelerator, torch.cat(latents)),
    }


def _of_all(accelerator: Accelerator, rows: Tensor) -> Tensor:
    """Those of every process, one after the other."""
    gathered: Tensor = accelerator.gather(rows.to(accelerator.device))
    return gathered.cpu()
