"""The prior of Kandinsky 2 and unCLIP: an embedding of the image is denoised."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, Site, Stack, always

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
    ),
)
