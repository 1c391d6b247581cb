"""The prior of Kandinsky 2 and unCLIP: an embedding of the image is denoised."""

from __future__ import annotations

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, Site, Stack, always
from c4d.models.examples import TEXT, at, mask, stir, text

EXAMPLE = Example(
    "PriorTransformer",
    config={
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 3,
        "embedding_dim": 12,
        "num_embeddings": TEXT,
        "additional_embeddings": 4,
    },
    latents=(1, 12),  # the embedding of an image
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": at(t)[0].round().long(),
        "proj_embedding": noise(1, 12, seed=14),
        "encoder_hidden_states": text(12),
        "attention_mask": mask(),
    },
    prepare=stir,
)

SPECS = (
    ModelSpec(
        "PriorTransformer",
        stacks=(
            Stack(
                "transformer_blocks", takes=("hidden_states",), sites={"attn": (Site("attn1"),), "mlp": (Site("ff"),)}
            ),
        ),
        exit="norm_out",
        whole_batch=always,  # a mask for each head of each sample
        about="the priors of Kandinsky 2 and unCLIP",
        example=EXAMPLE,
    ),
)
