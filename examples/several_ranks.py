"""Two devices make one clip together: ``torchrun --nproc-per-node=2 several_ranks.py``.

Every rank runs the whole program with the same arguments, and gets the whole clip.
"""

import os

import torch
from diffusers import WanPipeline
from diffusers.utils import export_to_gif

import c4d

pipe = WanPipeline.from_pretrained(c4d.bundled_model("wan-tiny"))
if torch.accelerator.is_available():  # each rank has a device of its own
    torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
    pipe.to(torch.accelerator.current_accelerator())

together = c4d.SequenceParallel(ulysses=2)
with c4d.accelerate(pipe, cache="taylorseer-lite:interval=3,last=1@blocks", parallel=together) as session:
    video = pipe(
        "a red circle moving left on a black background",
        height=32,
        width=32,
        num_frames=13,
        num_inference_steps=20,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(0),  # the same noise on every rank
        output_type="pil",
    ).frames[0]

if int(os.environ["RANK"]) == 0:
    export_to_gif(video, "together.gif")
    print("\n".join(session.lines()))
