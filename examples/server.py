"""A process that serves: the cache is switched on once, requests come and fail: ``python server.py``.

``c4d serve`` is a whole server over HTTP, with a queue and jobs that survive a restart.
"""

import torch
from diffusers import WanPipeline

import c4d

pipe = WanPipeline.from_pretrained(c4d.bundled_model("wan-tiny"))
pipe.set_progress_bar_config(disable=True)


def serve(prompt, seed, steps=20, **more):
    asked = dict(height=32, width=32, num_frames=13, guidance_scale=4.0, num_inference_steps=steps)
    return pipe(prompt, generator=torch.Generator().manual_seed(seed), **asked, **more).frames[0]


def give_up(pipe, step, t, tensors):
    if step == 5:
        raise TimeoutError("the client went away")
    return tensors


session = c4d.enable(pipe, cache="taylorseer-lite:interval=3,last=1")
first = serve("a red circle moving left on a black background", seed=1)
try:
    serve("a green square moving up on a white background", seed=2, callback_on_step_end=give_up)
except TimeoutError as error:
    print(f"{error}; the cache holds {session.bytes()} bytes")  # none
again = serve("a red circle moving left on a black background", seed=1)
print("the same request is the same clip:", bool((first == again).all()))

session.disable()  # the pipeline is what it was
with c4d.accelerate(pipe, cache="auto", quality="fast") as session:  # one request with another method
    serve("a blue triangle moving right on a gray background", seed=3)
print(session.report())
