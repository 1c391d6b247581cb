"""A denoising loop of your own over a bare transformer, with guidance: ``python own_loop.py``.

A cache has to know where a run begins, and which branch calls: ``session.begin`` and ``cache_context`` say it.
"""

import torch
from diffusers import WanPipeline

import c4d

STEPS, GUIDANCE = 20, 4.0
pipe = WanPipeline.from_pretrained(c4d.bundled_model("wan-tiny"))  # its parts alone are used
transformer, scheduler = pipe.transformer, pipe.scheduler

with torch.no_grad():
    texts = dict(
        zip(("cond", "uncond"), pipe.encode_prompt("a cyan circle moving up on a black background"), strict=True)
    )
    size = 1, transformer.config.in_channels, 32, 32, 13  # clips, channels, height, width, frames
    latents = pipe.prepare_latents(*size, torch.float32, "cpu", torch.Generator().manual_seed(0))
    scheduler.set_timesteps(STEPS)
    with (
        c4d.cached(transformer, "taylorseer-lite:interval=3,last=1", scheduler=scheduler) as session,
        session.begin(scheduler.timesteps),  # frees what it holds, however the loop ends
    ):
        for t in scheduler.timesteps:
            made = {}
            for branch, text in texts.items():
                with transformer.cache_context(branch):
                    made[branch] = transformer(latents, t.expand(1), text, return_dict=False)[0]
            guided = made["uncond"] + GUIDANCE * (made["cond"] - made["uncond"])
            latents = scheduler.step(guided, t, latents, return_dict=False)[0]

print("".join(entry.did for entry in session.trace if entry.step.branch == "cond"), "C: computed, r: forecast")
print("latents", tuple(latents.shape), f"bytes held after the loop: {session.bytes()}")
