"""Another kind of model: DiT draws a class, guided in one batch, and predicts noise: ``python class_to_image.py``."""

import torch
from diffusers import DiTPipeline

import c4d

pipe = DiTPipeline.from_pretrained(c4d.bundled_model("glyph-dit"))
letters = pipe.get_label_ids(["A", "Q"])

with c4d.cached(pipe, "taylorseer-lite:interval=3,order=2,last=1") as session:
    noise = torch.Generator().manual_seed(0)
    images = pipe(letters, guidance_scale=3.0, num_inference_steps=50, generator=noise).images

for image, name in zip(images, "AQ", strict=True):
    image.save(f"{name}.png")
print(session.report())
