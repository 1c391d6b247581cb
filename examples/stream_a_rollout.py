"""Video while it is made, block by block, with a prompt that changes on the way: ``python stream_a_rollout.py``."""

import torch
from diffusers import WanPipeline
from diffusers.utils import export_to_gif
from PIL import Image

import c4d

pipe = WanPipeline.from_pretrained(c4d.bundled_model("wan-tiny-causal"))  # a student that was distilled for it
rollout = c4d.rollout(pipe)  # its folder says how it was trained
stream = rollout(
    "a red circle moving left on a black background", frames=21, generator=torch.Generator().manual_seed(0)
)

video = []
for frames in stream:  # pixels [1, T, 3, H, W] in [0, 1], as soon as they are there
    video += [Image.fromarray(frame) for frame in (frames[0].movedim(1, -1) * 255).byte().cpu().numpy()]
    print(f"{len(video)} frames; the stream keeps {stream.bytes()} bytes")
    if len(video) == 13:
        stream.prompt = "a blue circle moving left on a black background"  # holds from the next block on

export_to_gif(video, "rollout.gif")
