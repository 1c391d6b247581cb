"""The processors of Qwen-Image and DiT, made as those in ``processors.py``."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from c4d.models.processors import Fused, Tables


class QwenImage(Fused):
    """Image tokens, then text tokens with projections of their own; each are turned by a table of their own.

    The stock one joins them the other way round, which differs in the last bits alone; so masked text stands last.
    """

    replaces = ("diffusers.models.transformers.transformer_qwenimage.QwenDoubleStreamAttnProcessor2_0",)
    kind = "dual-stream attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tables | None = None,
    ) -> tuple[Tensor, Tensor]:
        if attention_mask is not None:
            raise ValueError("Qwen-Image takes no attention_mask; give a mask of text, encoder_hidden_states_mask")
        x, text, mask = hidden_states, encoder_hidden_states, encoder_hidden_states_mask
        turns = (None, None) if image_rotary_emb is None else tuple((z.real, z.imag) for z in image_rotary_emb)
        q, k, v = self.heads(attn, attn.to_q(x), attn.to_k(x), attn.to_v(x))
        added = self.heads(attn, attn.add_q_proj(text), attn.add_k_proj(text), attn.add_v_proj(text))
        q = torch.cat((self.normed(attn.norm_q, q, turns[0]), self.normed(attn.norm_added_q, added[0], turns[1])), 1)
        k = torch.cat((self.normed(attn.norm_k, k, turns[0]), self.normed(attn.norm_added_k, added[1], turns[1])), 1)
        if mask is not None:
            mask = F.pad(mask, (x.shape[1], 0), value=True)[:, None, None]
        out = self.attend_all(q, k, torch.cat((v, added[2]), 1), mask)
        x, text = out.split((x.shape[1], text.shape[1]), 1)
        for module in attn.to_out:
            x = module(x)
        return x, attn.to_add_out(text)


class SelfAttention(Fused):
    """One sequence, nothing turned."""

    replaces = ("diffusers.models.attention_processor.AttnProcessor2_0",)
    kind = "self-attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        x = hidden_states
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ValueError("this attention is to all tokens of one sequence: it takes no other one, and no mask")
        q, k, v = self.heads(attn, attn.to_q(x), attn.to_k(x), attn.to_v(x))
        x = self.attend_all(self.normed(attn.norm_q, q), self.normed(attn.norm_k, k), v)
        return attn.to_out[1](attn.to_out[0](x))
