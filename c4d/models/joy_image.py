"""JoyImage-Edit: dual-stream blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from c4d.core.example import Example
from c4d.core.spec import ModelSpec, ShardingPlan, Site, Split, Stack
from c4d.models.examples import SIDE, at, mask, stir, text
from c4d.models.image_processors import JoyImage, JoyImagePlus
from c4d.models.processors import Tables

EXAMPLE = Example(
    "JoyImageEditTransformer3DModel",
    config={
        "patch_size": [1, 2, 2],
        "in_channels": 4,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "text_dim": 12,
        "mlp_width_ratio": 2.0,
        "num_layers": 3,
        "rope_dim_list": [2, 2, 4],
    },
    latents=(1, 2, 4, 1, SIDE, 2 * SIDE),  # the reference image, then the image
    arguments=lambda x, t: {"hidden_states": x, "timestep": at(t), "encoder_hidden_states": text(12)},
    prepare=stir,
)

EXAMPLE_PLUS = Example(
    "JoyImageEditPlusTransformer3DModel",
    config=EXAMPLE.config,
    latents=(1, 16, 4, 1, 2, 2),  # patches: those of the image, then those of the reference image
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": at(t),
        "encoder_hidden_states": text(12),
        "encoder_hidden_states_mask": mask(torch.long),
        "shape_list": [[(1, 2, 4), (1, 2, 4)]],
    },
    prepare=stir,
)


def tables(
    rotary: tuple[Tables | None, Tables | None], split: Split
) -> tuple[tuple[Tensor, ...] | None, Tables | None]:
    """Of image tokens, [S, D]; those of text tokens stay."""
    image, text = rotary
    return None if image is None else tuple(split(table, 0) for table in image), text


SPECS = (
    ModelSpec(
        "JoyImageEditTransformer3DModel",
        stacks=(
            Stack(
                "double_blocks",
                takes=("hidden_states",),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn"),)},
                attention={"attn": JoyImage},
            ),
        ),
        exit="norm_out",
        sharding=ShardingPlan("img_in", "proj_out", arguments={"double_blocks": {"image_rotary_emb": tables}}),
        about="JoyImage-Edit",
        known_as=("joyimage-edit",),
        example=EXAMPLE,
    ),
    ModelSpec(
        "JoyImageEditPlusTransformer3DModel",
        stacks=(
            Stack(
                "double_blocks",
                takes=("hidden_states",),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn"),)},
                attention={"attn": JoyImagePlus},
            ),
        ),
        exit="norm_out",
        about="JoyImage-Edit Plus",
        known_as=("joyimage-edit-plus",),
        example=EXAMPLE_PLUS,
    ),
)
