"""The processors of models whose image or video tokens, and then text tokens, attend to both. As `processors.py`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from c4d.models.processors import Fused, Tables, projected_out


class Joint(Fused):
    """What shapes share whose image tokens, which may be turned, stand before text tokens."""

    def apart(
        self, attn: Any, x: Tensor, text: Tensor, mask: Tensor | None, rotary: Tables | None
    ) -> tuple[Tensor, Tensor]:
        """[B, S, H * D] and [B, T, H * D]; the text has projections of its own."""
        turn = self.tables(rotary)
        q, k, v = self.heads(attn, attn.to_q(x), attn.to_k(x), attn.to_v(x))
        added = self.heads(attn, attn.add_q_proj(text), attn.add_k_proj(text), attn.add_v_proj(text))
        q = torch.cat((self.normed(attn.norm_q, q, turn), self.normed(attn.norm_added_q, added[0])), 1)
        k = torch.cat((self.normed(attn.norm_k, k, turn), self.normed(attn.norm_added_k, added[1])), 1)
        out = self.attend_all(q, k, torch.cat((v, added[2]), 1), mask)
        x, text = out.split((x.shape[1], text.shape[1]), 1)
        return x, text

    def together(
        self, attn: Any, x: Tensor, text: Tensor, mask: Tensor | None, rotary: Tables | None
    ) -> tuple[Tensor, Tensor]:
        """The same, of projections that both share."""
        lengths, turn = (x.shape[1], text.shape[1]), self.tables(rotary)
        both = torch.cat((x, text), 1)
        q, k, v = self.heads(attn, attn.to_q(both), attn.to_k(both), attn.to_v(both))
        q, k = self.normed(attn.norm_q, q, turn, lengths[0]), self.normed(attn.norm_k, k, turn, lengths[0])
        x, text = self.attend_all(q, k, v, mask).split(lengths, 1)
        return x, text


HUNYUAN_VIDEO = (
    "diffusers.models.transformers.transformer_hunyuan_video.HunyuanVideoAttnProcessor2_0",
    "diffusers.models.transformers.transformer_hunyuanimage.HunyuanImageAttnProcessor",
)


class HunyuanVideoDual(Joint):
    """Image tokens, then text tokens with projections of their own; the image alone is turned."""

    replaces: tuple[str, ...] = (*HUNYUAN_VIDEO, "diffusers.models.attention_processor.JointAttnProcessor2_0")
    kind = "dual-stream attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tables | None = None,
    ) -> tuple[Tensor, Tensor]:
        x, text = self.apart(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        return projected_out(attn, x), projected_back(attn, text)


class HunyuanVideoSingle(Joint):
    """Image and text tokens as one sequence; its leading tokens, the image's, are turned."""

    replaces = HUNYUAN_VIDEO
    kind = "single-stream attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tables | None = None,
    ) -> tuple[Tensor, Tensor]:
        return self.together(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)


class HunyuanVideo15(HunyuanVideoDual):
    """The mask is of text alone, [B, T]. Masked text attends, too, where the stock one lets it not: nobody sees it."""

    replaces = ("diffusers.models.transformers.transformer_hunyuan_video15.HunyuanVideo15AttnProcessor2_0",)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tables | None = None,
    ) -> tuple[Tensor, Tensor]:
        mask = of_text(attention_mask, hidden_states)
        return super().__call__(attn, hidden_states, encoder_hidden_states, mask, image_rotary_emb)


class CogVideoX(Joint):
    """Video and text tokens as one sequence, of which the video's are turned. The stock one has the text first."""

    replaces: tuple[str, ...] = ("diffusers.models.attention_processor.CogVideoXAttnProcessor2_0",)
    kind = "joint attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tables | None = None,
    ) -> tuple[Tensor, Tensor]:
        if attention_mask is not None:
            raise ValueError("this attention takes no attention_mask: leave it out of the attention_kwargs")
        return self.meet(attn, hidden_states, encoder_hidden_states, None, image_rotary_emb)

    def meet(
        self, attn: Any, x: Tensor, text: Tensor, mask: Tensor | None, rotary: Tables | None
    ) -> tuple[Tensor, Tensor]:
        x, text = self.together(attn, x, text, mask, rotary)
        return projected_out(attn, x), projected_out(attn, text)


class CogView4(CogVideoX):
    """Turned by halves. What the mask [B, T] leaves out is not gone: the stock one adds 1 to all other scores."""

    replaces = ("diffusers.models.transformers.transformer_cogview4.CogView4AttnProcessor",)
    interleaved = False

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tables | None = None,
    ) -> tuple[Tensor, Tensor]:
        if attention_mask is not None:
            valid = F.pad((attention_mask > 0).to(hidden_states.dtype), (hidden_states.shape[1], 0), value=1.0)
            attention_mask = valid[:, None, :, None] * valid[:, None, None]
        return self.meet(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)


class EasyAnimate(Joint):
    """The text has projections of its own, back too, in the first blocks alone."""

    replaces = ("diffusers.models.transformers.transformer_easyanimate.EasyAnimateAttnProcessor2_0",)
    kind = "joint attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tables | None = None,
    ) -> tuple[Tensor, Tensor]:
        if attention_mask is not None:
            raise ValueError("EasyAnimate's blocks give their attention no mask, and this one takes none")
        meet = self.together if attn.add_q_proj is None else self.apart
        x, text = meet(attn, hidden_states, encoder_hidden_states, None, image_rotary_emb)
        return projected_out(attn, x), projected_back(attn, text)


class Mochi(Joint):
    """Each head is turned by tables of its own, [S, H, D/2]; the mask is of text alone, [B, T].

    Masked text attends, too, where the stock one lets it not: nobody sees it. (Of a mask with holes the stock one puts
    what text becomes in other places.)
    """

    replaces = ("diffusers.models.attention_processor.MochiAttnProcessor2_0",)
    kind = "dual-stream attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tables | None = None,
    ) -> tuple[Tensor, Tensor]:
        x, text, mask = hidden_states, encoder_hidden_states, of_text(attention_mask, hidden_states)
        x, text = self.apart(attn, x, text, mask, image_rotary_emb)
        return projected_out(attn, x), projected_back(attn, text)

    def tables(self, rotary: Tables | None) -> Tables | None:
        return None if rotary is None else (rotary[0].flatten(0, 1), rotary[1].flatten(0, 1))

    def normed(self, norm: Any, x: Tensor, turn: Tables | None = None, tokens: int | None = None) -> Tensor:
        x = super().normed(norm, x)
        if turn is None:
            return x
        each = x.flatten(1, 2)[:, :, None]  # every head of every token as one that has a table
        return self.work.primitives.rotary(each, *turn, interleaved=True).view_as(x)


class PRX(Fused):
    """Image tokens attend to themselves, which are turned, and to text tokens, of which there are keys alone."""

    replaces = ("diffusers.models.transformers.transformer_prx.PRXAttnProcessor2_0",)
    kind = "joint attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tensor | None = None,
    ) -> Tensor:
        q, k, v = self.heads(attn, *attn.img_qkv_proj(hidden_states).chunk(3, -1))
        added = self.heads(attn, *attn.txt_kv_proj(encoder_hidden_states).chunk(2, -1))
        turn = None
        if image_rotary_emb is not None:  # [B or 1, 1, S, D/2, 2, 2], matrices
            turn = image_rotary_emb[:, 0, ..., 0, 0], image_rotary_emb[:, 0, ..., 1, 0]
        q, k = self.normed(attn.norm_q, q, turn), self.normed(attn.norm_k, k, turn)
        k, v = torch.cat((k, self.normed(attn.norm_added_k, added[0])), 1), torch.cat((v, added[1]), 1)
        x = self.attend_all(q, k, v, of_text(attention_mask, hidden_states))
        return projected_out(attn, x)


def of_text(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """[B, 1, 1, S + T], of keys, for a mask [B, T] of the text that stands behind tokens x [B, S, D]."""
    return None if mask is None else F.pad(mask.bool(), (x.shape[1], 0), value=True)[:, None, None]


def projected_back(attn: Any, text: Tensor) -> Tensor:
    """Text as it leaves, where it has a projection for that; nobody takes what the last block makes of it."""
    project = getattr(attn, "to_add_out", None)
    return text if project is None else project(text)
