"""JoyImage-Edit: dual-stream blocks."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, Site, Stack

SPECS = (
    ModelSpec(
        "JoyImageEditTransformer3DModel",
        stacks=(
            Stack(
                "double_blocks",
                takes=("hidden_states",),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn"),)},
            ),
        ),
        exit="norm_out",
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
            ),
        ),
        exit="norm_out",
        about="JoyImage-Edit Plus",
        known_as=("joyimage-edit-plus",),
    ),
)
