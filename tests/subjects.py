"""Pipelines that are asked for one thing after another: what they are asked, and their answer in a session alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import c4d
from tests.device import DEVICE, there
from tests.pipes import flux, hunyuan_video, text_to_video, two_experts, wan_tiny
from tests.tiny import rand

PROMPTS = {
    "A": "a red circle moving left on a black background",
    "B": "a blue square moving up on a white background",
}


def methods(signal, change, head):
    """One a site and a way of deciding; the thresholds are such that decisions mix (see the test of that)."""
    return {
        "modules": "taylorseer:interval=3",
        "output": "taylorseer-lite:interval=3",
        "stack": "taylorseer-lite:interval=3@blocks",
        "signal": f"teacache:threshold={change},coefficients=1/0,signal={signal},last=0",
        "head": f"first-block:threshold={head},last=0",
    }


KINDS = tuple(methods("", 1, 1))


@dataclass(frozen=True)
class Subject:
    """A pipeline, what it is asked (``request`` makes its arguments), and what a loop of one's own gives its model."""

    make: Callable[[], Any]
    request: Callable[..., dict[str, Any]]
    latents: tuple[int, ...]
    inputs: Callable[[int], dict[str, Any]]  # by seed
    methods: dict[str, str]

    def build(self):
        pipe = self.make().to(DEVICE)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def ask(self, pipe, **change):
        dtype = next(m for m in (pipe.transformer, getattr(pipe, "transformer_2", None)) if m is not None).dtype
        asked = there(self.request(**change))
        asked.update({name: x.to(dtype) for name, x in asked.items() if name.endswith("embeds")})
        made = torch.Generator().manual_seed(3)
        return pipe(**asked, generator=made, output_type="latent", return_dict=False)[0]

    def loop(self, pipe, steps=8, names=("cond", "uncond"), skip=(), stop=None, guided=True):
        """A loop of one's own: the second call is left out on the steps in ``skip``; a forward counted ``stop`` raises.
        ``guided`` or not, the first call's predictions are returned; only if not do they alone move the latents."""
        pipe.scheduler.set_timesteps(steps, device=DEVICE)
        x, outs, passes = there(rand(*self.latents, seed=3)), [], 0
        inputs = [there(self.inputs(seed)) for seed in (0, 1)]
        for i, t in enumerate(pipe.scheduler.timesteps):
            both = []
            for seed, name in enumerate(names[: 1 if i in skip else 2]):
                if passes == stop:
                    raise Stop
                passes += 1
                with nullcontext() if name is None else pipe.transformer.cache_context(name):
                    both.append(pipe.transformer(x, timestep=t.expand(1), **inputs[seed], return_dict=False)[0].clone())
            cond, uncond = both[0], both[-1] if guided else both[0]
            outs.append(cond)
            x = pipe.scheduler.step(uncond + 2.0 * (cond - uncond), t, x, return_dict=False)[0]
        return torch.stack(outs)


class Stop(Exception):
    pass


def wan_request(prompt="A", steps=8, size=(32, 32), frames=5, guidance=3.0, prompts=1, **more):
    return dict(
        prompt=[PROMPTS[prompt]] * prompts, height=size[0], width=size[1], num_frames=frames,
        num_inference_steps=steps, guidance_scale=guidance, max_sequence_length=16, **more,
    )  # fmt: skip


def wan_inputs(seed):
    return dict(encoder_hidden_states=rand(1, 16, 64, seed=10 + seed))


def hunyuan_request(prompt="A", steps=8, size=(32, 32), frames=5, guidance=3.0, prompts=1, **more):
    def embeds(seed):
        return dict(
            prompt_embeds=rand(1, 12, 16, seed=seed).repeat(prompts, 1, 1),
            pooled_prompt_embeds=rand(1, 8, seed=seed + 1).repeat(prompts, 1),
            prompt_attention_mask=torch.ones(prompts, 12),
        )

    negative = {f"negative_{key}": value for key, value in embeds(20).items()}
    return dict(
        **embeds(ord(prompt)), **negative, height=size[0], width=size[1], num_frames=frames,
        num_inference_steps=steps, true_cfg_scale=guidance, **more,
    )  # fmt: skip


def hunyuan_inputs(seed):
    return dict(
        encoder_hidden_states=rand(1, 12, 16, seed=10 + seed), encoder_attention_mask=torch.ones(1, 12),
        pooled_projections=rand(1, 8, seed=20 + seed), guidance=torch.tensor([6000.0]),
    )  # fmt: skip


def flux_request(
    prompt="A", steps=8, size=(64, 64), frames=1, guidance=3.0, prompts=1, num_videos_per_prompt=1, **more
):  # fmt: skip
    def embeds(seed):
        return dict(
            prompt_embeds=rand(1, 7, 16, seed=seed).repeat(prompts, 1, 1),
            pooled_prompt_embeds=rand(1, 8, seed=seed + 1).repeat(prompts, 1),
        )

    negative = {f"negative_{key}": value for key, value in embeds(20).items()}
    return dict(
        **embeds(ord(prompt)), **negative, height=size[0], width=size[1], num_inference_steps=steps,
        true_cfg_scale=guidance, num_images_per_prompt=num_videos_per_prompt, **more,
    )  # fmt: skip


def flux_inputs(seed):
    return dict(
        encoder_hidden_states=rand(1, 7, 16, seed=10 + seed), pooled_projections=rand(1, 8, seed=20 + seed),
        txt_ids=torch.zeros(7, 3), img_ids=torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0)),
        guidance=torch.tensor([3.5]),
    )  # fmt: skip


def wan(make, change, head, kinds=KINDS):
    chosen = {kind: text for kind, text in methods("time_projection", change, head).items() if kind in kinds}
    return Subject(make, wan_request, (1, 8, 2, 8, 8), wan_inputs, chosen)


SUBJECTS = {
    "wan": wan(lambda: text_to_video()[0], 0.6, 0.1),
    "wan-experts": wan(lambda: two_experts()[0], 0.6, 0.1, kinds=("stack", "head")),
    "hunyuan": Subject(
        hunyuan_video, hunyuan_request, (1, 4, 2, 4, 4), hunyuan_inputs, methods("modulated_input", 0.15, 0.27)
    ),
    "flux": Subject(flux, flux_request, (1, 16, 16), flux_inputs, methods("modulated_input", 0.15, 0.27)),
    "wan-tiny": wan(wan_tiny, 0.3, 0.25, kinds=("modules", "stack", "head")),
}
EVERY = [(name, kind) for name, s in SUBJECTS.items() for kind in s.methods]


@functools.cache
def built(name, copy=0):
    return SUBJECTS[name].build()


def passes(session):
    """What the last run did, forward by forward."""
    last = session.report().runs - 1
    return [(e.step, e.actions, e.blocks, e.modules, e.modules_reused) for e in session.trace if e.run == last]


@functools.cache
def alone(name, kind, how="ask", **change):
    """The result of a session that did nothing else, on a pipeline that saw nothing else, and its forwards."""
    pipe = built(name, copy=1)
    with c4d.cached(pipe, SUBJECTS[name].methods[kind]) as session:
        return getattr(SUBJECTS[name], how)(pipe, **change), passes(session)


def like_alone(session, result, name, kind, how="ask", **change):
    expected, trace = alone(name, kind, how, **change)
    assert passes(session) == trace
    assert torch.equal(result, expected)


def at_step(k, act):
    def callback(pipe, i, t, tensors):
        if i == k:
            act(pipe)
        return tensors

    return callback


def raising_at(module, call, error=Stop):
    """Its ``call``-th call raises, until the handle that is returned is removed."""
    calls = iter(range(call))

    def hook(*_):
        if next(calls, None) is None:
            raise error

    return module.register_forward_pre_hook(hook)


def broken(subject, pipe, error=Stop, blocks=False):
    model = pipe.transformer
    module = (model.blocks if hasattr(model, "blocks") else model.transformer_blocks)[-1] if blocks else model
    handle = raising_at(module, 1 if blocks else 5, error)
    with pytest.raises(error):
        subject.ask(pipe, prompt="B")
    handle.remove()
