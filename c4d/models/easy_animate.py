"""EasyAnimate: dual-stream blocks."""

from __future__ import annotations

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Stack
from c4d.core.types import Signal
from c4d.models.examples import at
from c4d.models.grids import patches
from c4d.models.hunyuan_video import tables
from c4d.models.joint_processors import EasyAnimate
from c4d.models.signals import whole

EXAMPLE = Example(
    "EasyAnimateTransformer3DModel",
    config={
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "patch_size": 2,
        "sample_width": 8,
        "sample_height": 8,
        "num_layers": 3,
        "mmdit_layers": 2,
        "time_embed_dim": 8,
        "text_embed_dim": 8,
        "add_norm_text_encoder": True,
    },
    latents=(1, 4, 3, 8, 8),
    arguments=lambda x, t: {"hidden_states": x, "timestep": at(t), "encoder_hidden_states": noise(1, 6, 8, seed=1)},
)

SPECS = (
    ModelSpec(
        "EasyAnimateTransformer3DModel",
        conditional="last",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states", "encoder_hidden_states", "temb", "image_rotary_emb"),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn1"),)},
                attention={"attn1": EasyAnimate},
            ),
        ),
        exit="norm_final",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_embedding", whole)},
        sharding=ShardingPlan("transformer_blocks", "proj_out", outputs={"rope_embedding": tables}),
        grid=patches,
        about="EasyAnimate 5.1",
        known_as=("easyanimate",),
        example=EXAMPLE,
    ),
)
