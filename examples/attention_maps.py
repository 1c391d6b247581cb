"""Which frames and words a model looks at, while it generates: ``python attention_maps.py``."""

from diffusers import WanPipeline

import c4d

pipe = WanPipeline.from_pretrained(c4d.bundled_model("wan-tiny"))
call = dict(height=32, width=32, num_frames=13, num_inference_steps=20, guidance_scale=4.0)

with c4d.attention_maps(pipe, layers=[0, -1], steps=[0, 10, -1]) as maps:
    pipe("a magenta square moving left on a gray background", **call)

for name in maps.layers:
    if (frames := maps[name].groups) is not None:  # [heads, frames, frames]
        inside = frames.diagonal(dim1=1, dim2=2).mean(1)
        print(f"{name}: {', '.join(f'{part:.0%}' for part in inside)} of each head's attention stays in its frame")
maps.save("maps.npz")  # maps.plot("maps.png") draws them, with matplotlib
