"""Is a method closer than as few plain steps as cost the same? ``python compare_with_plain_steps.py``.

Change ``METHODS``; ``c4d methods`` lists what there is. ``c4d compare`` has many methods and prompts on a page.
"""

import numpy as np
import torch
from diffusers import WanPipeline

import c4d

STEPS = 50
METHODS = ("profile:wan-tiny,computed=14", "taylorseer-lite:interval=3,last=1", "fora:interval=3")
pipe = WanPipeline.from_pretrained(c4d.bundled_model("wan-tiny"))
pipe.set_progress_bar_config(disable=True)


def clip(steps):
    """The same prompt under the same noise, [T, H, W, 3] in [0, 1]."""
    noise = torch.Generator().manual_seed(0)
    asked = dict(height=32, width=32, num_frames=13, guidance_scale=4.0, generator=noise)
    return pipe("a green square moving up on a white background", num_inference_steps=steps, **asked).frames[0]


def closeness(made):
    """PSNR to the uncached clip, in dB: 40 is hard to see, 20 is another clip."""
    return -10 * np.log10(np.mean((made - uncached) ** 2))


uncached = clip(STEPS)
for method in METHODS:
    with c4d.cached(pipe, method) as session:
        made = clip(STEPS)
    steps = [did for entry in session.trace if entry.step.branch == "cond" for did in entry.did]
    computed = steps.count("C")
    print(f"{method}: {computed} of {len(steps)} steps computed, {closeness(made):.1f} dB;", end=" ")
    print(f"{computed} plain steps {closeness(clip(computed)):.1f} dB")
