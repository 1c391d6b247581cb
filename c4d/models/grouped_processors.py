"""The processors of models whose heads may share keys and values in groups. As `processors.py`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from c4d.models.processors import Fused, Tables, of_keys, parted, projected_out


class Grouped(Fused):
    def repeated(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values [B, S, G, D] once for each of the heads [B, Sq, H, D] that share them."""
        times = q.shape[2] // k.shape[2]
        return (q, k, v) if times == 1 else (q, k.repeat_interleave(times, 2), v.repeat_interleave(times, 2))


class Lumina2(Grouped):
    """One sequence of text and image; complex tables [B, S, D/2] turn it."""

    replaces = ("diffusers.models.transformers.transformer_lumina2.Lumina2AttnProcessor2_0",)
    kind = "single-stream attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tensor | None = None,
        base_sequence_length: int | None = None,
    ) -> Tensor:
        x, source, turn = hidden_states, encoder_hidden_states, parted(image_rotary_emb)
        q, k, v = self.heads_turned(attn, x, source, turn)
        q = proportional(q, base_sequence_length)
        x = self.attend_all(*self.repeated(q, k, v), of_keys(attention_mask))
        return projected_out(attn, x)


class LuminaNext(Grouped):
    """Self-attention; the block projects it together with the cross-attention, so that it stays [B, S, H, D]."""

    replaces: tuple[str, ...] = ("diffusers.models.attention_processor.LuminaAttnProcessor2_0",)
    kind = "self-attention"
    across = True

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        query_rotary_emb: Tensor | None = None,
        key_rotary_emb: Tensor | None = None,
        base_sequence_length: int | None = None,
    ) -> Tensor:
        x, source = hidden_states, encoder_hidden_states
        q, k, v = self.heads(attn, attn.to_q(x), attn.to_k(source), attn.to_v(source))
        q = self.normed(attn.norm_q, q, parted(query_rotary_emb))
        k = self.normed(attn.norm_k, k, parted(key_rotary_emb))
        if key_rotary_emb is not None:
            q = proportional(q, base_sequence_length)
        return self.attend(*self.repeated(q, k, v), of_keys(attention_mask)).view_as(q)


class LuminaNextCross(LuminaNext):
    kind = "cross-attention"


class Krea2(Grouped):
    """One sequence of text and image; each head's output is gated."""

    replaces = ("diffusers.models.transformers.transformer_krea2.Krea2AttnProcessor",)
    kind = "single-stream attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tables | None = None,
    ) -> Tensor:
        x, turn = hidden_states, self.tables(image_rotary_emb)
        q, k, v = self.heads_turned(attn, x, x, turn)
        out = self.attend(*self.repeated(q, k, v), attention_mask)
        return attn.to_out[0](out * torch.sigmoid(attn.to_gate(x)))

    @staticmethod
    def heads_of(attn: Any) -> tuple[int, int]:
        return int(attn.num_heads), int(attn.head_dim)


class Nucleus(Grouped):
    """Image tokens attend to themselves and to text tokens, of which there are keys alone; these may be kept."""

    replaces = ("diffusers.models.transformers.transformer_nucleusmoe_image.NucleusMoEAttnProcessor2_0",)
    kind = "joint attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        cached_txt_key: Tensor | None = None,
        cached_txt_value: Tensor | None = None,
    ) -> Tensor:
        x, text = hidden_states, encoder_hidden_states
        turn, turn_text = map(parted, image_rotary_emb or (None, None))
        q, k, v = self.heads_turned(attn, x, x, turn)
        said, shown = cached_txt_key, cached_txt_value
        if (said is None or shown is None) and text is not None:
            said, shown = self.heads(attn, attn.add_k_proj(text), attn.add_v_proj(text))
            said = self.normed(attn.norm_added_k, said, turn_text)
        if said is not None and shown is not None:
            k, v = torch.cat((k, said), 1), torch.cat((v, shown), 1)
        x = self.attend(*self.repeated(q, k, v), of_keys(attention_mask))
        return projected_out(attn, x)


class Cosmos3(Grouped):
    """Two towers without a batch: what is read [T, D] attends causally, what is made [S, D] to itself and to that."""

    replaces = ("diffusers.models.transformers.transformer_cosmos3.Cosmos3AttnProcessor",)
    kind = "two-tower attention"
    interleaved = False

    def __call__(
        self, attn: Any, und_seq: Tensor, gen_seq: Tensor, rotary_emb: tuple[Tensor, Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        read, made = und_seq[None], gen_seq[None]
        turn, turn_made = self.tables(rotary_emb[:2]), self.tables(rotary_emb[2:])
        q, k, v = self.heads(attn, attn.to_q(read), attn.to_k(read), attn.to_v(read))
        own = self.heads(attn, attn.add_q_proj(made), attn.add_k_proj(made), attn.add_v_proj(made))
        if (again := attn.k_norm_und_for_gen) is None:
            shown = k = self.normed(attn.norm_k, k, turn)
        else:
            k = self.normed(attn.norm_k, k)
            shown, k = self.normed(again, k, turn), self.normed(None, k, turn)
        said = self.attend_causal(*self.repeated(self.normed(attn.norm_q, q, turn), k, v))
        q, k = self.normed(attn.norm_added_q, own[0], turn_made), self.normed(attn.norm_added_k, own[1], turn_made)
        out = self.attend(*self.repeated(q, torch.cat((shown, k), 1), torch.cat((v, own[2]), 1)))
        return attn.to_out(said[0]), attn.to_add_out(out[0])

    @staticmethod
    def heads_of(attn: Any) -> tuple[int, int]:
        return int(attn.num_attention_heads), int(attn.head_dim)


def proportional(q: Tensor, base: int | None) -> Tensor:
    """Queries of S tokens whose softmax is as sharp as one over ``base`` tokens (arXiv 2306.08645)."""
    return q if base is None else q * math.sqrt(math.log(q.shape[1], base))
