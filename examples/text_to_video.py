"""A clip with a cache that nobody had to choose: ``python text_to_video.py``."""

import torch
from diffusers import WanPipeline
from diffusers.utils import export_to_gif

import c4d

pipe = WanPipeline.from_pretrained(c4d.bundled_model("wan-tiny"))  # or a model of yours, with its size and frames below
if torch.accelerator.is_available():
    pipe.to(torch.accelerator.current_accelerator())

with c4d.accelerate(pipe, cache="auto", attention="auto", quality="balanced") as session:
    video = pipe(
        "a red circle moving left on a black background",
        height=32,
        width=32,
        num_frames=13,
        num_inference_steps=50,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(0),
        output_type="pil",
    ).frames[0]

export_to_gif(video, "clip.gif")
print(session.report())  # how many forwards ran, and what the cache held
