"""JoyImage-Edit: dual-stream blocks."""

from __future__ import annotations

from torch import Tensor

from c4d.core.spec import ModelSpec, ShardingPlan, Site, Split, Stack
from c4d.models.image_processors import JoyImage, JoyImagePlus
from c4d.models.processors import Tables


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
    ),
)
