"""Tiny random transformers of the real classes, one case for every variant that a spec claims to cover."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from c4d.core.example import Example
from c4d.core.example import noise as rand
from c4d.models import dit, flux, hunyuan_image, hunyuan_video, qwen_image, wan

WAN, HUNYUAN, FLUX, HUNYUAN_IMAGE, QWEN, DIT = (
    dict(family.EXAMPLE.config) for family in (wan, hunyuan_video, flux, hunyuan_image, qwen_image, dit)
)


@dataclass(frozen=True)
class Case:
    """A model, its inputs besides hidden_states and timestep, and how a forward of it is called."""

    name: str
    make: Callable[..., nn.Module]
    latents: tuple[int, ...]
    inputs: Callable[[], dict[str, Any]]
    per_token: bool = False
    unit: float = 1.0  # of timesteps
    alike: bool = False  # timesteps have the dtype of the latents, as its pipeline gives them

    def build(self, **config: Any) -> nn.Module:
        torch.manual_seed(0)
        return self.make(**config).eval()

    def run(self, model: nn.Module, x: Tensor, t: float, seed: int = 0, **extra: Any) -> Tensor:
        """One forward at timestep t; the noise prediction, in the latents' channels."""
        timestep = torch.full((x.shape[0],), t * self.unit, dtype=x.dtype if self.alike else None)
        if self.per_token:
            tokens = x.shape[2] * (x.shape[3] // 2) * (x.shape[4] // 2)
            timestep = timestep[:, None].expand(-1, tokens).clone()
            timestep[:, : tokens // x.shape[2]] = 0.0  # the first frame is given, as in image-to-video
        return model(hidden_states=x, timestep=timestep, return_dict=False, **self.inputs(), **extra)[0]

    def loop(
        self,
        model: nn.Module,
        steps: int,
        begin: Callable[[Any], None] | None = None,
        guided: bool = True,
    ) -> list[Tensor]:
        """A denoising loop with two named branches a step, or one: every prediction.

        The names come with the step and its noise level, as in Wan's text-to-video pipeline.
        """
        timesteps = [1000.0 * (1 - k / steps) for k in range(steps)]
        if begin is not None:
            begin(timesteps)
        x, outs = rand(*self.latents, seed=3), []
        for k, t in enumerate(timesteps):
            place = {"step_index": k, "num_inference_steps": steps, "sigma": t / 1000.0}
            with branch(model, "cond", **place):
                out = self.run(model, x, t)
            if guided:
                with branch(model, "uncond", **place):
                    uncond = self.run(model, 0.9 * x, t)
                out = uncond + 2.0 * (out - uncond)
            x = x.clone()
            x[:, : out.shape[1]] -= out[:, : x.shape[1]] / steps
            outs.append(out)
        return outs


def branch(model: nn.Module, name: str, **place: Any) -> AbstractContextManager[Any]:
    """The transformer's cache_context; DiT has none of its own."""
    return model.cache_context(name, **place) if hasattr(model, "cache_context") else nullcontext()


def given(example: Example) -> dict[str, Any]:
    """The inputs of a family's example besides hidden_states and timestep."""
    found = example.arguments(rand(*example.latents), 0.0)
    return {name: value for name, value in found.items() if name not in ("hidden_states", "timestep")}


def plain(name: str, example: Example, **how: Any) -> Case:
    """A family's example as it is."""
    return Case(name, example.build, example.latents, lambda: given(example), **how)


def text(*lengths: int, tokens: int = 12, seed: int = 1, suffix: str = "", mask: str = "encoder_attention_mask") -> Any:
    """A batch of texts of these lengths and their mask; what is padded is large, so that nobody overlooks it."""
    there = torch.arange(tokens) < torch.tensor(lengths)[:, None]
    words = rand(len(lengths), tokens, 16, seed=seed)
    words = torch.where(there[..., None], words, 7 * words)
    return {f"encoder_hidden_states{suffix}": words, f"{mask}{suffix}": there.float()}


def qwen_inputs(*images: tuple[int, int, int], lengths: tuple[int, ...] = (), batch: int = 1) -> dict[str, Any]:
    """Of an image, and of those that were given beside it; text without a mask, or with one for these lengths."""
    words = dict(encoder_hidden_states=rand(batch, 7, 16, seed=1))
    if lengths:
        words = text(*lengths, mask="encoder_hidden_states_mask")
    return dict(**words, img_shapes=[list(images)] * (len(lengths) or batch))


CASES = {
    case.name: case
    for case in (
        plain("wan-t2v", wan.EXAMPLE),
        Case(
            "wan-i2v",
            lambda **config: wan.EXAMPLE.build(in_channels=8, image_dim=20, **{"added_kv_proj_dim": 24, **config}),
            (1, 8, 2, 16, 16),
            lambda: dict(
                # The processor cuts the last 512 tokens off as text, whatever the text's length.
                encoder_hidden_states=rand(1, 512, 16, seed=1),
                encoder_hidden_states_image=rand(1, 5, 20, seed=2),
            ),
        ),
        plain("wan-ti2v", wan.EXAMPLE, per_token=True),
        plain("wan-vace", wan.EXAMPLE_VACE),
        plain("hunyuan-t2v", hunyuan_video.EXAMPLE),
        Case(
            "hunyuan-i2v-concat",
            lambda **config: hunyuan_video.EXAMPLE.build(in_channels=9, image_condition_type="latent_concat", **config),
            (1, 9, 2, 4, 4),
            lambda: given(hunyuan_video.EXAMPLE),
        ),
        Case(
            "hunyuan-i2v-replace",
            lambda **config: hunyuan_video.EXAMPLE.build(image_condition_type="token_replace", **config),
            (1, 4, 2, 4, 4),
            lambda: given(hunyuan_video.EXAMPLE),
        ),
        plain("flux", flux.EXAMPLE, unit=1e-3),
        Case(
            "flux-controlnet",
            flux.EXAMPLE.build,
            (1, 20, 16),
            lambda: dict(
                **given(flux.EXAMPLE),
                controlnet_block_samples=[rand(1, 20, 24, seed=5)],
                controlnet_single_block_samples=[rand(1, 20, 24, seed=6), rand(1, 20, 24, seed=7)],
            ),
            unit=1e-3,
        ),
        Case("hunyuan-image", hunyuan_image.EXAMPLE.build, (1, 4, 4, 5), lambda: text(9), alike=True),
        Case(
            "hunyuan-image-two-texts",
            lambda **config: hunyuan_image.EXAMPLE.build(
                text_embed_2_dim=16, guidance_embeds=True, **{"use_meanflow": True, **config}
            ),
            (1, 4, 4, 5),
            lambda: dict(
                **text(9),
                **text(3, tokens=6, seed=2, suffix="_2"),
                guidance=torch.tensor([3250.0]),
                timestep_r=torch.tensor([400.0]),
            ),
            alike=True,
        ),
        Case(
            "hunyuan-image-refiner",
            lambda **config: hunyuan_image.EXAMPLE.build(
                in_channels=8, patch_size=(1, 1, 1), rope_axes_dim=(2, 4, 4), guidance_embeds=True, **config
            ),
            (1, 8, 1, 4, 5),
            lambda: dict(**text(9), guidance=torch.tensor([4000.0])),
            alike=True,
        ),
        plain("qwen", qwen_image.EXAMPLE, unit=1e-3),
        Case(
            "qwen-masked",
            qwen_image.EXAMPLE.build,
            (1, 20, 16),
            lambda: qwen_inputs((1, 4, 5), lengths=(9,)),
            unit=1e-3,
        ),
        Case(
            "qwen-edit",
            lambda **config: qwen_image.EXAMPLE.build(zero_cond_t=True, **config),
            (1, 32, 16),
            lambda: qwen_inputs((1, 4, 5), (1, 2, 3), (1, 3, 2), lengths=(9,)),
            unit=1e-3,
        ),
        Case(
            "qwen-controlnet",
            qwen_image.EXAMPLE.build,
            (1, 20, 16),
            lambda: dict(
                **qwen_inputs((1, 4, 5)),
                controlnet_block_samples=[rand(1, 20, 24, seed=5), rand(1, 20, 24, seed=6)],
            ),
            unit=1e-3,
        ),
        plain("dit", dit.EXAMPLE),
    )
}

BLOCKS = {"wan-vace": 6}


def block_count(case: str) -> int:
    return BLOCKS.get(case, 4 if case.startswith(("wan", "qwen", "dit")) else 5)


def signal_of(case: str) -> str:
    """A signal besides HEAD that the family has."""
    return "time_projection" if case.startswith("wan") else "modulated_input"


def hold_methods(case: str) -> dict[str, str]:
    """One method a site and a way of deciding, all with Hold, all reusing every second step or sooner."""
    return {
        "modules": "fora:interval=2",
        "output": "taylorseer-lite:interval=2,order=0",
        "stack": "schedule:computed=0/2/4",
        "stack-zero": "taylorseer-lite:interval=2,order=0@blocks",
        "signal": f"teacache:threshold=1e9,coefficients=1/0,signal={signal_of(case)},last=0",
        "head": "first-block:threshold=1e9,last=0",
    }
