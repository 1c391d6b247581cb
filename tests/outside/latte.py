"""A family of models of another package: Latte, of which c4d has no spec."""

import c4d

SPECS = (
    c4d.ModelSpec(
        "LatteTransformer3DModel",
        stacks=(  # in turns: each block of the one is followed by one of the other
            c4d.Stack(
                "transformer_blocks",
                sites={
                    "attn": (c4d.Site("attn1"),),
                    "cross_attn": (c4d.Site("attn2"),),
                    "mlp": (c4d.Site("ff"),),
                },
            ),
            c4d.Stack("temporal_transformer_blocks", sites={"attn": (c4d.Site("attn1"),), "mlp": (c4d.Site("ff"),)}),
        ),
        exit="norm_out",
        like_latents=False,
        about="Latte, text to video",
    ),
)
