"""A family of models of another package: its transformer, and what c4d is told of its blocks."""

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

import c4d


class Block(nn.Module):
    def __init__(self, width, text):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, 2, kdim=text, vdim=text, batch_first=True)
        self.ff = nn.Linear(width, width)

    def forward(self, hidden_states, text, temb):
        hidden_states = hidden_states + self.attn(hidden_states, text, text)[0] * temb
        return hidden_states + self.ff(hidden_states)


class TheirTransformer(ModelMixin, ConfigMixin):
    """Called as Latte is, by its pipeline."""

    @register_to_config
    def __init__(self, in_channels=4, width=8, caption_channels=64, num_layers=2, sample_size=4):
        super().__init__()
        self.embed, self.out = nn.Linear(in_channels, width), nn.Linear(width, 2 * in_channels)
        self.blocks = nn.ModuleList(Block(width, caption_channels) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, hidden_states, timestep, encoder_hidden_states, enable_temporal_attentions=True, return_dict=True
    ):
        x, temb = self.embed(hidden_states.movedim(1, -1)).flatten(1, 3), (timestep / 1000).view(-1, 1, 1)
        for block in self.blocks:
            x = block(x, encoder_hidden_states, temb)
        x = self.out(self.norm(x)).unflatten(1, hidden_states.shape[2:]).movedim(-1, 1)
        return (x,)


SPECS = (
    c4d.ModelSpec(
        "TheirTransformer",
        stacks=(
            c4d.Stack(
                "blocks",
                takes=("hidden_states", "text", "temb"),
                sites={"cross_attn": (c4d.Site("attn"),), "mlp": (c4d.Site("ff"),)},
            ),
        ),
        exit="norm",
        like_latents=False,
        about="Theirs, text to video",
    ),
)
