"""What fits into so many bytes of a device, chosen and explained: ``python memory_budget.py``.

Nothing is run to find it but the pipeline's own code, on zeros. On a GPU say what it has, ``device_memory="24GiB"``.
"""

from diffusers import WanPipeline

import c4d

pipe = WanPipeline.from_pretrained(c4d.bundled_model("wan-tiny"))
method = "taylorseer:interval=3,order=1"  # inside the blocks: two features of every module
prompt = "a red circle moving left on a black background"
call = dict(prompt=prompt, height=32, width=32, num_frames=13, num_inference_steps=20, guidance_scale=4.0)

choice = c4d.budget(pipe, method, device_memory="1GiB", cache_memory="1MiB", **call)
print(choice)  # what was chosen, and the numbers

c4d.memory(pipe, choice.memory)
with c4d.cached(pipe, method, **choice.history) as session:
    video = pipe(**call).frames[0]
print(session.report())
