"""A pipeline as a source of frames: :func:`c4d.rollout`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from c4d.causal.blocks import Blocks
from c4d.causal.decoder import check as check_decoder
from c4d.causal.decoder import encoded
from c4d.causal.patch import CausalPatch
from c4d.causal.samplers import FewSteps, ManySteps
from c4d.causal.stream import Clip, Setup, Stream

FILE = "rollout.json"  # beside model_index.json: what a model was trained for


@dataclass(frozen=True)
class RolloutConfig:
    """How a model rolls out; the defaults are those of Self-Forcing (arXiv 2506.08009).

    Frames are latent ones. ``block``: made together; ``alone``: the first one is a block of its own; ``window`` and
    ``sink``: :class:`Blocks`. ``steps``: the timesteps of a distilled model before the shift, or a number of steps of
    the pipeline's scheduler. ``shift``: of the former. ``guidance``: 1 calls the model once a step.
    ``context_noise``: the timestep at which finished frames are looked back at. ``fps``: frames a second; ``height``
    and ``width``: pixels of a frame; ``text``: tokens that a prompt is padded to.
    """

    block: int = 3
    alone: bool = False
    window: int | None = None
    sink: int = 0
    steps: tuple[float, ...] | int = (1000, 750, 500, 250)
    shift: float = 5.0
    guidance: float = 1.0
    context_noise: float = 0.0
    fps: float = 16
    height: int = 480
    width: int = 832
    text: int = 512

    def __post_init__(self) -> None:
        if not 0 <= self.context_noise < 1000:
            raise ValueError(f"context_noise is {self.context_noise}; allowed are timesteps from 0 to below 1000")
        if not self.guidance >= 1:
            raise ValueError(f"guidance is {self.guidance}; allowed are scales from 1 (no guidance)")
        if not self.fps > 0:
            raise ValueError(f"fps is {self.fps}; it has to be above 0")
        for part in ("blocks", "few"):  # which raise for what they are made of
            getattr(self, part)

    @property
    def blocks(self) -> Blocks:
        return Blocks(self.block, self.alone, self.window, self.sink)

    @property
    def few(self) -> FewSteps | None:
        """None for steps of the pipeline's scheduler."""
        return None if isinstance(self.steps, int) else FewSteps(self.steps, self.shift)

    def changed(self, **given: Any) -> RolloutConfig:
        """With what is given in its place. Raises ValueError for an unknown name."""
        known = [each.name for each in fields(self)]
        if strange := [name for name in given if name not in known]:
            raise ValueError(f"unknown setting {strange[0]!r} of a rollout: known are {', '.join(known)}")
        if isinstance(given.get("steps"), list):
            given["steps"] = tuple(given["steps"])
        return replace(self, **given)

    def save(self, folder: Path) -> None:
        """Writes it beside the ``model_index.json`` of a pipeline."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")


def settings_in(folder: Path) -> dict[str, Any]:
    """What the folder of a pipeline says of it, nothing where it does not."""
    file = folder / FILE
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def config_of(pipe: Any) -> RolloutConfig:
    """What the folder of ``pipe`` says of it; the rest is Self-Forcing's."""
    return RolloutConfig().changed(**settings_in(Path(str(getattr(pipe, "name_or_path", "")))))


class Rollout:
    """A pipeline as a source of frames; made by :func:`c4d.rollout`."""

    def __init__(
        self,
        pipe: Any,
        config: RolloutConfig,
        patch: Callable[[], CausalPatch],
        *,
        kv_dtype: torch.dtype | None = None,
        kv_on: str = "device",
    ) -> None:
        check_decoder(pipe.vae)
        transformer = pipe.transformer
        if getattr(pipe, "transformer_2", None) is not None:
            raise ValueError("this pipeline has two transformers, one for each part of the noise; a rollout drives one")
        if transformer.config.in_channels != transformer.config.out_channels:
            raise ValueError(
                f"this {type(transformer).__name__} takes {transformer.config.in_channels} channels and gives "
                f"{transformer.config.out_channels}: it is made for an image beside the latents, and a rollout goes on "
                "from clean frames instead: take a text-to-video model"
            )
        self.config, self._pipe = config, pipe
        sampler = config.few or ManySteps(pipe.scheduler, int(config.steps))  # type: ignore[arg-type]
        numbers = config.guidance, config.context_noise, config.fps
        self._setup = Setup(pipe, config.blocks, sampler, *numbers, kv_dtype, kv_on, patch)

    def __call__(
        self,
        prompt: str | list[str],
        *,
        negative_prompt: str | list[str] | None = None,
        seconds: float | None = None,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        video: Tensor | None = None,
    ) -> Stream:
        """Begins a clip, whose frames are made while they are read: blocks of pixels [B, T, 3, H, W] in [0, 1].

        Args:
            prompt: one, or one for each clip of a batch. :attr:`Stream.prompt` changes it on the way.
            negative_prompt: for guidance above 1.
            seconds, frames: how long it is in time or in frames of pixels; without both it has no end.
            height, width: in pixels; None: those of ``video``, or what the model was trained for.
            generator: of the noise; one, or one for each clip.
            video: pixels [B, T, 3, H, W] in [0, 1] that the clip goes on from: an image (T = 1), or a clip. What is
                returned begins behind it.

        Raises:
            ValueError: a size that the model does not take, both ``seconds`` and ``frames``, a clip without end and
                without window, a ``video`` of another size or of frames that are no whole blocks.
        """
        batch, config = 1 if isinstance(prompt, str) else len(prompt), self.config
        if video is not None and (video.ndim != 5 or video.shape[2] != 3):
            raise ValueError(f"video is {list(video.shape)}; allowed are pixels [B, T, 3, H, W]")
        if not batch or (video is not None and len(video) != batch):
            raise ValueError(f"{batch} prompts for {0 if video is None else len(video)} videos; give one each")
        sides = (config.height, config.width) if video is None else tuple(video.shape[-2:])
        rows, columns = self._latent_sides(height or sides[0], width or sides[1])
        prefix = None if video is None else self._prefix(video, (height or sides[0], width or sides[1]))
        pixels = self._length(seconds, frames)
        held = 0 if prefix is None else prefix.shape[2]
        latents = None if pixels is None else held + config.blocks.whole(self._latent_frames(pixels, held), held)
        shape = batch, int(self._pipe.transformer.config.in_channels), rows, columns
        draw = partial(_noise, generator)
        return Stream(self._setup, Clip(shape, latents, pixels, draw, prefix), self._texts, (prompt, negative_prompt))

    @property
    def temporal(self) -> int:
        """Frames of pixels in one of latents, but for the first."""
        return int(self._pipe.vae_scale_factor_temporal)

    def _texts(self, prompt: Any, negative: Any) -> list[Tensor]:
        """Of each branch [B, S, C]."""
        pipe = self._pipe
        with torch.no_grad():
            both = pipe.encode_prompt(
                prompt=prompt,
                negative_prompt=negative,
                do_classifier_free_guidance=self.config.guidance > 1,
                num_videos_per_prompt=1,
                max_sequence_length=self.config.text,
                device=pipe._execution_device,
            )
        return [text.to(pipe.transformer.dtype) for text in both if text is not None]

    def _latent_sides(self, height: int, width: int) -> tuple[int, int]:
        spatial, patch = self._pipe.vae_scale_factor_spatial, self._pipe.transformer.config.patch_size
        for name, pixels, side in (("height", height, patch[1]), ("width", width, patch[2])):
            if pixels < 1 or pixels % (spatial * side):
                raise ValueError(f"{name} is {pixels}; this model takes multiples of {spatial * side}")
        return height // spatial, width // spatial

    def _prefix(self, video: Tensor, sides: tuple[int, int]) -> Tensor:
        if tuple(video.shape[-2:]) != sides:
            raise ValueError(f"video is {tuple(video.shape[-2:])}, height and width {sides}; scale it before")
        latents = encoded(self._pipe.vae, video.transpose(1, 2) * 2 - 1)
        blocks, held = self.config.blocks, latents.shape[2]
        if blocks.whole(held) != held:
            raise ValueError(
                f"video has {held} frames of latents, which are no whole blocks of {blocks.size}"
                f"{' after a first frame' if blocks.alone else ''}: leave frames of it out, or add some"
            )
        return latents

    def _length(self, seconds: float | None, frames: int | None) -> int | None:
        if seconds is not None and frames is not None:
            raise ValueError("seconds and frames are both given; keep one")
        pixels = frames if seconds is None else max(1, round(seconds * self.config.fps)) if seconds > 0 else 0
        if pixels is not None and pixels < 1:
            name = "frames" if seconds is None else "seconds"
            raise ValueError(f"{name} is {pixels if seconds is None else seconds}; it has to be above 0")
        return pixels

    def _latent_frames(self, pixels: int, held: int) -> int:
        """The first frame of latents of a clip becomes one of pixels, each later one several."""
        each = self.temporal
        return -(-pixels // each) if held else 1 + -(-(pixels - 1) // each)


def _noise(generator: Any, shape: Sequence[int]) -> Tensor:
    """Normal fp32 noise of ``shape`` where the generator is; without one where torch's own is."""
    if isinstance(generator, list):
        return torch.cat([_noise(each, (1, *shape[1:])) for each in generator])
    return torch.randn(tuple(shape), generator=generator, device=None if generator is None else generator.device)
