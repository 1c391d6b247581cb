"""A family of models of another package: LTX-Video, of which c4d has no spec."""

import c4d

SPECS = (
    c4d.ModelSpec(
        "LTXVideoTransformer3DModel",
        stacks=(
            c4d.Stack(
                "transformer_blocks",
                takes=("hidden_states", "encoder_hidden_states", "temb", "image_rotary_emb", "encoder_attention_mask"),
                sites={
                    "attn": (c4d.Site("attn1"),),
                    "cross_attn": (c4d.Site("attn2"),),
                    "mlp": (c4d.Site("ff"),),
                },
            ),
        ),
        exit="norm_out",
        signals={c4d.Signal.TIME_EMBEDDING: c4d.OutputOf("time_embed", lambda output: output[0])},
        grid=lambda transformer, given: ((given["num_frames"], given["height"], given["width"]),),
        about="LTX-Video, text to video",
    ),
)
