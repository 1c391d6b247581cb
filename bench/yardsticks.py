"""The bundled models as yardsticks: one interface to their pipelines, prompts, samplers and judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from bench.stamp import ROOT
from c4d.backends import load
from c4d.bundled import BUNDLED
from c4d.calibrate.lockstep import Samplings
from c4d.calibrate.pipeline import asked, besides, last_latents
from c4d.calibrate.tune import latents_given
from c4d.models import spec_for
from c4d.pipelines import Request, call_arguments, load_pipeline

BATCH = 24
LEARNING = 16  # prompts for calibration, unless somebody says how many
SEED = 400_000  # of the noise of the first of them; measurements use seeds below
SHORT = {"wan-tiny": {"max_sequence_length": 16}}  # its prompts are nine words: padding costs time and changes nothing
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SAMPLERS = ("unipc", "euler", "dpm++")
KINDS = {"unipc": "UniPCMultistepScheduler", "dpm++": "DPMSolverMultistepScheduler"}
Held = Callable[[int], tuple[list[str], list[int]]]  # prompts and noise seeds that nothing learned from


def clips(count: int) -> tuple[list[str], list[int]]:
    from c4d.bundled.clips import caption
    from c4d.bundled.evaluation import evaluation_set

    attributes, seeds = evaluation_set("held_out", count)
    return [caption(row) for row in attributes], list(seeds)


def compositions(count: int) -> tuple[list[str], list[int]]:
    from c4d.bundled.compositions import caption, evaluation_set

    chosen, seeds = evaluation_set("held_out", count)
    return [caption(each) for each in chosen], list(seeds)


def letters(count: int) -> tuple[list[str], list[int]]:
    from c4d.bundled.glyphs import LETTERS

    return [LETTERS[i % len(LETTERS)] for i in range(count)], list(range(9000, 9000 + count))


def _letters() -> Sequence[str]:
    from c4d.bundled.glyphs import LETTERS

    return LETTERS


def _compositions() -> Sequence[str]:
    from c4d.bundled.compositions import TRAIN, caption

    return [caption(each) for each in TRAIN]


def _clips() -> Sequence[str]:
    from c4d.bundled.clips import TRAIN, caption

    return [caption(row) for row in TRAIN]


TAUGHT: Mapping[str, Callable[[], Sequence[str]]] = {  # all prompts that a model was trained on
    "wan-tiny": _clips,
    "flux-tiny": _compositions,
    "glyph-dit": _letters,
}
HELD: Mapping[str, Held] = {"wan-tiny": clips, "flux-tiny": compositions, "glyph-dit": letters}


@dataclass(frozen=True)
class Yardstick:
    """A bundled model by name; what it makes is [n, 3, frames, H, W] in [0, 1]."""

    name: str

    @cached_property
    def pipe(self) -> Any:
        pipe = load_pipeline(self.name, backend=load("cpu"))
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @cached_property
    def own_sampler(self) -> Any:
        return self.pipe.scheduler

    @property
    def flow(self) -> bool:
        return self.name != "glyph-dit"

    def takes(self, sampler: str) -> bool:
        """FluxPipeline gives DPM-Solver++ an argument (mu) that it refuses without dynamic shifting."""
        return (self.name, sampler) != ("flux-tiny", "dpm++")

    def learning(self, count: int = LEARNING) -> list[str]:
        """Prompts for calibration, evenly over those that the model was trained on; their noise begins at ``SEED``."""
        pool = TAUGHT[self.name]()
        return [pool[i * len(pool) // count] for i in range(count)]

    def sampler(self, name: str, shift: float | None = None) -> Any:
        """``unipc``, ``euler`` (DDIM where the model predicts noise) or ``dpm++``, with the model's own settings."""
        import diffusers

        own = self.own_sampler.config
        if not self.flow:
            made: Any = getattr(diffusers, {**KINDS, "euler": "DDIMScheduler"}[name]).from_config(own)
            return made
        return flow_sampler(name, shift if shift is not None else own.get("flow_shift", own.get("shift")))

    def use(self, sampler: Any) -> Yardstick:
        self.pipe.register_modules(scheduler=sampler)
        return self

    def call(self, **more: Any) -> dict[str, Any]:
        """What the pipeline is called with besides prompts and noise."""
        request = Request(self.learning()[0]).with_defaults(BUNDLED[self.name].defaults)
        given = call_arguments(self.pipe, request)
        return {**besides(given), **SHORT.get(self.name, {}), **more}

    def make(self, prompts: Sequence[str], seeds: Sequence[int], **more: Any) -> Tensor:
        """Pictures of the prompts, each under noise of its own."""
        call, (argument, values) = self.call(**more), asked(self.pipe, prompts)
        parts = []
        for start in range(0, len(prompts), BATCH):
            chosen = slice(start, start + BATCH)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[chosen]]
            made = self.pipe(**{argument: values[chosen]}, generator=generators, output_type="pt", **call)
            parts.append(pictures(made))
        return torch.cat(parts)

    def samplings(self, prompts: Sequence[str], seeds: Sequence[int], **more: Any) -> Samplings:
        """Batches of :meth:`make` for a calibration."""
        chunks = [slice(start, start + BATCH) for start in range(0, len(prompts), BATCH)]

        def generate(i: int) -> None:
            self.make(prompts[chunks[i]], seeds[chunks[i]], **more)

        transformer = self.pipe.transformer
        read = [partial(latents_given, transformer, spec_for(transformer))]
        return Samplings([transformer], self.pipe.scheduler, generate, len(chunks), read)

    def last_latents(self, prompts: Sequence[str], seeds: Sequence[int], **more: Any) -> Tensor:
        """What the last step of the sampler leaves."""
        return last_latents(self.pipe, partial(self.make, prompts, seeds, **more))

    def adherence(self, prompts: Sequence[str], made: Tensor) -> float:
        """The part of the pictures in which the judge sees what was asked for."""
        judge = BUNDLED[self.name].judge
        seen = [judge(prompt, clip.transpose(0, 1)) for prompt, clip in zip(prompts, made, strict=True)]
        return sum(bool(each and each["as_asked"]) for each in seen) / len(seen)


def flow_sampler(name: str, shift: float) -> Any:
    """``unipc``, ``euler`` or ``dpm++`` for a model that predicts a flow."""
    import diffusers

    if name == "euler":
        return diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    return getattr(diffusers, KINDS[name])(**FLOW, flow_shift=shift)


def pictures(made: Any) -> Tensor:
    """What a pipeline returned, as [n, 3, frames, H, W] on the CPU; DiT gives arrays with the channels last."""
    found = made.frames if hasattr(made, "frames") else made.images
    tensor = torch.as_tensor(found).float().cpu()
    tensor = (tensor if tensor.shape[-3] == 3 else tensor.movedim(-1, -3)).clamp(0, 1)
    return tensor.transpose(1, 2) if tensor.ndim == 5 else tensor[:, :, None]


FOLDER = ROOT / "docs/measurements/profiles"
