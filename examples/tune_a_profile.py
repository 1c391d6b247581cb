"""A profile of your model and prompts, made, saved and used: ``python tune_a_profile.py``.

On a model of yours take prompts as you will have them, and ``minutes=10``; ``c4d tune`` is the same as a command.
"""

import torch
from diffusers import WanPipeline

import c4d

STEPS, COMPUTED = 50, 14
pipe = WanPipeline.from_pretrained(c4d.bundled_model("wan-tiny"))
pipe.set_progress_bar_config(disable=True)
prompts = ["a blue circle moving right on a gray background", "a yellow square moving down on a black background"]
call = dict(height=32, width=32, num_frames=13, num_inference_steps=STEPS, guidance_scale=4.0)

profile = c4d.tune(pipe, prompts=prompts, samples=4, computed=COMPUTED, minutes=0.1, **call)
profile.save("profile.json")

with c4d.cached(pipe, f"profile:profile.json,computed={COMPUTED}") as session:
    noise = torch.Generator().manual_seed(1)
    video = pipe("a red triangle moving left on a white background", generator=noise, **call).frames[0]
print(session.report())
