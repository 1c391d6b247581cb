"""The processors of models with one stream, which attends to itself and to the text. As `processors.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from c4d.models.processors import Fused, Tables, of_all_heads, parted, projected_from, projected_out


class SelfAttention(Fused):
    """One sequence, which may be turned; text in it, if any, stands first."""

    replaces: tuple[str, ...] = (
        "diffusers.models.attention_processor.AttnProcessor2_0",
        "diffusers.models.attention_processor.JointAttnProcessor2_0",
        "diffusers.models.attention_processor.AuraFlowAttnProcessor2_0",
        "diffusers.models.attention_processor.HunyuanAttnProcessor2_0",
    )
    kind = "self-attention"
    crosses = False

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Tensor:
        x, source = hidden_states, hidden_states
        if self.crosses and encoder_hidden_states is not None:
            source = encoder_hidden_states
        elif self.crosses or encoder_hidden_states is not None or attention_mask is not None:
            what = "another sequence" if self.crosses else "one sequence: it takes no other one, and no mask"
            raise ValueError(f"this attention is to {what}")
        q, k, v = self.heads(attn, attn.to_q(x), attn.to_k(source), attn.to_v(source))
        q = self.prepared(attn.norm_q, q, image_rotary_emb)
        k = self.prepared(attn.norm_k, k, None if self.crosses else image_rotary_emb)
        if self.crosses:
            x = self.attend(q, k, v, of_all_heads(attention_mask))
        else:
            x = self.attend_all(q, k, v, text_first=True)
        return projected_out(attn, x)

    def prepared(self, norm: Any, x: Tensor, rotary: Any) -> Tensor:
        return self.normed(norm, x, self.tables(rotary))


class CrossAttention(SelfAttention):
    """The queries of one sequence over another; they alone may be turned."""

    kind = "cross-attention"
    crosses = True


class SanaCross(CrossAttention):
    """Norms take all heads of a token together. (Sana attends to itself without a softmax, which is no kernel's.)"""

    replaces = (
        "diffusers.models.transformers.sana_transformer.SanaAttnProcessor2_0",
        "diffusers.models.transformers.transformer_sana_video.SanaAttnProcessor2_0",
    )
    across = True


class Cosmos(SelfAttention):
    """Turned by halves."""

    replaces = ("diffusers.models.transformers.transformer_cosmos.CosmosAttnProcessor2_0",)
    interleaved = False


class CosmosCross(CrossAttention):
    """Given images (2.5) have queries, keys and values of their own."""

    replaces = (*Cosmos.replaces, "diffusers.models.transformers.transformer_cosmos.CosmosAttnProcessor2_5")

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Any = None,
        image_rotary_emb: Tables | None = None,
    ) -> Tensor:
        if not isinstance(encoder_hidden_states, tuple):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        (text, images), x = encoder_hidden_states, hidden_states
        of_text, of_images = attention_mask or (None, None)
        q, k, v = self.heads(attn, attn.to_q(x), attn.to_k(text), attn.to_v(text))
        out = self.attend(self.normed(attn.norm_q, q), self.normed(attn.norm_k, k), v, of_text)
        if images is not None:
            q, k, v = self.heads(attn, attn.q_img(x), attn.k_img(images), attn.v_img(images))
            q, k = self.normed(attn.q_img_norm, q), self.normed(attn.k_img_norm, k)
            out = out + self.attend(q, k, v, of_images)
        return projected_out(attn, out)


class Allegro(SelfAttention):
    """A third of each head is turned by the frame, one by the row, one by the column, each by halves."""

    replaces = ("diffusers.models.attention_processor.AllegroAttnProcessor2_0",)
    interleaved = False

    def prepared(self, norm: Any, x: Tensor, rotary: Any) -> Tensor:
        if rotary is None:
            return self.normed(norm, x)
        parts = zip(self.normed(norm, x).chunk(3, -1), *rotary, strict=True)
        return torch.cat([self.along(part, tables, places) for part, tables, places in parts], -1)

    def along(self, x: Tensor, tables: Tables, places: Tensor) -> Tensor:
        """``tables`` [N, D/3] hold every angle twice, a row for each of the ``places`` [1, S] along an axis."""
        cos, sin = (table[places.flatten(), : table.shape[1] // 2] for table in tables)
        return self.work.primitives.rotary(x, cos, sin, interleaved=False)


class AllegroCross(CrossAttention):
    replaces = Allegro.replaces


class AnyFlow(SelfAttention):
    """Norms take all heads of a token together; complex tables [1, 1, S, D/2], of queries and of keys, turn it."""

    replaces = ("diffusers.models.transformers.transformer_anyflow.AnyFlowAttnProcessor",)
    across = True

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ValueError("this attention is to one sequence: it takes no other one, and no mask")
        x, rotary = hidden_states, rotary_emb or {}
        turn_q, turn_k = (parted(None if name not in rotary else rotary[name][0]) for name in ("query", "key"))
        q, k, v = self.heads(attn, attn.to_q(x), attn.to_k(x), attn.to_v(x))
        x = self.attend_all(self.normed(attn.norm_q, q, turn_q), self.normed(attn.norm_k, k, turn_k), v)
        return projected_out(attn, x)


class AnyFlowCross(CrossAttention):
    replaces = ("diffusers.models.transformers.transformer_anyflow.AnyFlowCrossAttnProcessor",)
    across = True


class Helios(Fused):
    """Self-attention, where the keys of what was before may be larger; tables [B, S, 2 D], cosines and then sines."""

    replaces: tuple[str, ...] = ("diffusers.models.transformers.transformer_helios.HeliosAttnProcessor",)
    kind = "self-attention"
    across = True

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Tensor | None = None,
        original_context_length: int | None = None,
    ) -> Tensor:
        source, turn = hidden_states if encoder_hidden_states is None else encoder_hidden_states, None
        if rotary_emb is not None:
            cos, sin = rotary_emb.chunk(2, -1)
            turn = self.tables((cos, sin))
        q, k, v = self.heads(attn, *projected_from(attn, hidden_states, source))
        q, k = self.normed(attn.norm_q, q, turn), self.normed(attn.norm_k, k, turn)
        if not attn.is_cross_attention and attn.is_amplify_history:
            assert original_context_length is not None
            before = hidden_states.shape[1] - original_context_length
            larger = 1.0 + torch.sigmoid(attn.history_key_scale) * (attn.max_scale - 1.0)
            k = torch.cat((k[:, :before] * larger.view(-1, 1), k[:, before:]), 1)
        x = self.attend(q, k, v, attention_mask)
        return projected_out(attn, x)


class HeliosCross(Helios):
    kind = "cross-attention"
