"""The processors of Qwen-Image and JoyImage, made as those in ``processors.py``."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from c4d.models.processors import Fused, Tables, parted, projected_out


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
        turns = [parted(rotary) for rotary in image_rotary_emb or (None, None)]
        q, k, v = self.heads(attn, attn.to_q(x), attn.to_k(x), attn.to_v(x))
        added = self.heads(attn, attn.add_q_proj(text), attn.add_k_proj(text), attn.add_v_proj(text))
        q = torch.cat((self.normed(attn.norm_q, q, turns[0]), self.normed(attn.norm_added_q, added[0], turns[1])), 1)
        k = torch.cat((self.normed(attn.norm_k, k, turns[0]), self.normed(attn.norm_added_k, added[1], turns[1])), 1)
        if mask is not None:
            mask = F.pad(mask, (x.shape[1], 0), value=True)[:, None, None]
        out = self.attend_all(q, k, torch.cat((v, added[2]), 1), mask)
        x, text = out.split((x.shape[1], text.shape[1]), 1)
        return projected_out(attn, x), attn.to_add_out(text)


class QwenImage21(Fused):
    """One sequence of text and images, in segments: each sees what stands before it, an image also itself.

    What stands before the last image is the same in every step: the pipeline may keep its keys and values.
    """

    replaces = ("diffusers.models.transformers.transformer_qwenimage21.QwenImage21AttnProcessor",)
    kind = "causal attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary_emb: Tensor | None = None,
        layer_cache: Any = None,
        kv_cache_mode: str | None = None,
        cache_write_slice: slice | None = None,
        segments: list[tuple[int, int, bool]] | None = None,
        key_valid: Tensor | None = None,
    ) -> Tensor:
        x, turn = hidden_states, parted(rotary_emb)
        q, k, v = self.heads(attn, attn.to_q(x), attn.to_k(x), attn.to_v(x))
        q, k = self.normed(attn.norm_q, q, turn), self.normed(attn.norm_k, k, turn).to(v.dtype)
        if layer_cache is not None and kv_cache_mode == "extract" and cache_write_slice is not None:
            layer_cache.store(k[:, cache_write_slice].clone(), v[:, cache_write_slice].clone())
        elif layer_cache is not None and kv_cache_mode == "cached":
            k, v = (torch.cat(pair, 1) for pair in zip(layer_cache.get(), (k, v), strict=True))
        if segments is None:
            x = self.attend(q, k, v, attention_mask)
        else:
            last = (segments[-1][1] if segments else 0, q.shape[1], False)
            x = torch.cat([self.attend_before(q, k, v, key_valid, *each) for each in (*segments, last)], 1)
        return projected_out(attn, x)

    def attend_before(
        self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, start: int, end: int, is_text: bool
    ) -> Tensor:
        """[B, end - start, H * D] of the queries from ``start`` to ``end``; ``valid`` [B, S], False for padding."""
        q, k, v = q[:, start:end], k[:, :end], v[:, :end]
        mask = None if valid is None else valid[:, None, None, :end]
        if is_text and not start and mask is None:
            return self.attend_causal(q, k, v)
        if is_text:
            behind = q.new_ones(end - start, end, dtype=torch.bool).tril(start)[None, None]
            mask = behind if mask is None else behind & mask
        return self.attend(q, k, v, mask)


class JoyImage(Fused):
    """Image tokens, then text tokens with projections of their own; each may be turned by tables of their own."""

    replaces: tuple[str, ...] = ("diffusers.models.transformers.transformer_joyimage.JoyImageAttnProcessor",)
    kind = "dual-stream attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        image_rotary_emb: tuple[Tables | None, Tables | None] | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        x, text = hidden_states, encoder_hidden_states
        turn, turn_text = map(self.tables, image_rotary_emb or (None, None))
        q, k, v = self.heads(attn, *attn.img_attn_qkv(x).chunk(3, -1))
        added = self.heads(attn, *attn.txt_attn_qkv(text).chunk(3, -1))
        said = self.normed(attn.txt_attn_q_norm, added[0], turn_text)
        shown = self.normed(attn.txt_attn_k_norm, added[1], turn_text)
        q = torch.cat((self.normed(attn.img_attn_q_norm, q, turn), said), 1)
        k = torch.cat((self.normed(attn.img_attn_k_norm, k, turn), shown), 1)
        out = self.attend_all(q, k, torch.cat((v, added[2]), 1), attention_mask)
        x, text = out.split((x.shape[1], text.shape[1]), 1)
        return attn.img_attn_proj(x), attn.txt_attn_proj(text)

    @staticmethod
    def heads_of(attn: Any) -> tuple[int, int]:
        return int(attn.heads), int(attn.head_dim)


class JoyImagePlus(JoyImage):
    """Images alone are turned, by tables [B, S, D]; the mask is of all keys."""

    replaces = ("diffusers.models.transformers.transformer_joyimage_edit_plus.JoyImageEditPlusAttnProcessor",)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        image_rotary_emb: Any = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        return super().__call__(attn, hidden_states, encoder_hidden_states, (image_rotary_emb, None), attention_mask)
