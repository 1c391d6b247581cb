"""The processors of models whose blocks take one sequence: of text and image, or of video alone. As `processors.py`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from c4d.models.processors import Fused, Tables, of_all_heads, parted, projected, projected_out


class ZImage(Fused):
    """One sequence; complex tables [B, S, D/2] turn it, another one for each sample."""

    replaces: tuple[str, ...] = ("diffusers.models.transformers.transformer_z_image.ZSingleStreamAttnProcessor",)
    kind = "single-stream attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        freqs_cis: Tensor | None = None,
    ) -> Tensor:
        alone, turn = encoder_hidden_states is None, parted(freqs_cis)
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = self.heads_turned(attn, hidden_states, source, turn)
        if attention_mask is not None and attention_mask.ndim == 2:
            attention_mask = attention_mask[:, None, None]
        x = (self.attend_all if alone else self.attend)(q, k, v, attention_mask)
        return projected_out(attn, x)


class BriaFibo2(ZImage):
    """Over the sequence, or over what a text encoder says of it."""

    replaces = ("diffusers.models.transformers.transformer_bria_fibo2.BriaFibo2AttnProcessor",)

    @staticmethod
    def heads_of(attn: Any) -> tuple[int, int]:
        return int(attn.heads), int(attn.norm_q.dim[0])


class BriaFibo2Cross(BriaFibo2):
    kind = "cross-attention"


class ErnieImage(Fused):
    """One sequence; angles [B, S, 1, R] turn the first half of each head with the second, by others each."""

    replaces = ("diffusers.models.transformers.transformer_ernie_image.ErnieImageSingleStreamAttnProcessor",)
    kind = "single-stream attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        freqs_cis: Tensor | None = None,
    ) -> Tensor:
        x = hidden_states
        q, k, v = self.heads(attn, attn.to_q(x), attn.to_k(x), attn.to_v(x))
        q, k = self.normed(attn.norm_q, q), self.normed(attn.norm_k, k)
        if freqs_cis is not None:
            q, k = self.turned(q, freqs_cis), self.turned(k, freqs_cis)
        if attention_mask is not None and attention_mask.ndim == 2:
            attention_mask = attention_mask[:, None, None]
        return attn.to_out[0](self.attend(q, k, v, attention_mask))

    @staticmethod
    def turned(x: Tensor, angles: Tensor) -> Tensor:
        """No rotation: the two numbers of a pair have angles of their own, so that no primitive knows it."""
        cos, sin = angles.cos(), angles.sin()
        part = x[..., : angles.shape[-1]]
        first, second = part.chunk(2, -1)
        part = part * cos + torch.cat((-second, first), -1) * sin
        return torch.cat((part.to(x.dtype), x[..., angles.shape[-1] :]), -1)


class Ideogram4(Fused):
    """One sequence; which tokens see which a mask [B, 1, S, S] says."""

    replaces: tuple[str, ...] = ("diffusers.models.transformers.transformer_ideogram4.Ideogram4AttnProcessor",)
    kind = "single-stream attention"
    interleaved = False

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tables | None = None,
    ) -> Tensor:
        x, turn = hidden_states, self.tables(image_rotary_emb)
        q, k, v = self.heads_turned(attn, x, x, turn)
        return attn.to_out[0](self.attend(q, k, v, attention_mask))

    @staticmethod
    def heads_of(attn: Any) -> tuple[int, int]:
        return int(attn.num_heads), int(attn.head_dim)


class OmniGen(Ideogram4):
    """The stock one is given the sequence twice, as what it attends to, too."""

    replaces = ("diffusers.models.transformers.transformer_omnigen.OmniGenAttnProcessor2_0",)

    def __call__(  # type: ignore[override]
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tables | None = None,
    ) -> Tensor:
        return super().__call__(attn, hidden_states, attention_mask, image_rotary_emb)

    @staticmethod
    def heads_of(attn: Any) -> tuple[int, int]:
        return Fused.heads_of(attn)


class MiniMaxH3(Fused):
    """One sequence; the leading channels of each head are turned by halves."""

    replaces = (
        "diffusers.models.transformers.transformer_minimax_h3.MiniMaxH3AttnProcessor",
        "diffusers.models.transformers.transformer_minimax_music3.MiniMaxMusic3AttnProcessor",
    )
    kind = "self-attention"

    def __call__(
        self, attn: Any, hidden_states: Tensor, rotary_emb: Tables | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        q, k, v = self.heads(attn, *projected(attn, hidden_states))
        norms = (getattr(attn, name, None) for name in ("norm_q", "norm_k"))  # the music's has none
        q, k = (self.turned_halves(self.normed(norm, x), rotary_emb) for norm, x in zip(norms, (q, k), strict=True))
        x = self.attend_all(q, k, v, attention_mask)
        return projected_out(attn, x)


class LTXVideo(Fused):
    """Self- or cross-attention; norms and tables [B, S, H * D] take all heads of a token together."""

    replaces = ("diffusers.models.transformers.transformer_ltx.LTXVideoAttnProcessor",)
    kind = "self-attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tables | None = None,
    ) -> Tensor:
        alone = encoder_hidden_states is None
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(source))
        if image_rotary_emb is not None:
            q, k = turned_pairs(q, image_rotary_emb), turned_pairs(k, image_rotary_emb)
        q, k, v = self.heads(attn, q, k, attn.to_v(source))
        attend = self.attend_all if alone else self.attend
        x = attend(q, k, v, of_all_heads(attention_mask))
        return projected_out(attn, x)


class LTXVideoCross(LTXVideo):
    kind = "cross-attention"


class LTX2(LTXVideo):
    """Self-attention of the video. In LTX-2 each head may be turned by tables of its own, and its output be gated."""

    replaces = ("diffusers.models.transformers.transformer_ltx2.LTX2AudioVideoAttnProcessor",)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        query_rotary_emb: Tables | None = None,
        key_rotary_emb: Tables | None = None,
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(source))
        if query_rotary_emb is not None:
            turned = turned_pairs if attn.rope_type == "interleaved" else turned_halves
            q, k = turned(q, query_rotary_emb), turned(k, key_rotary_emb or query_rotary_emb)
        q, k, v = self.heads(attn, q, k, attn.to_v(source))
        x = self.over(q, k, v, of_all_heads(attention_mask))
        if attn.to_gate_logits is not None:
            gates = 2.0 * torch.sigmoid(attn.to_gate_logits(hidden_states))
            x = (x.unflatten(-1, (gates.shape[-1], -1)) * gates.unsqueeze(-1)).flatten(2)
        return projected_out(attn, x)

    def over(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return self.attend_all(q, k, v, mask)


class LTX2Local(LTX2):
    """Over what every rank has: text, and audio, of which there is little."""

    kind = "cross-attention"

    def over(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return self.attend(q, k, v, mask)


class LTX2VideoToAudio(LTX2):
    """Of the audio, which every rank has, over the video."""

    kind = "cross-attention"
    merges = True

    def over(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return self.attend_keys(q, k, v, mask)


def turned_pairs(x: Tensor, rotary: Tables) -> Tensor:
    """[B, S, C], each even channel with the next odd one, by tables [B, S, C] that hold every angle twice in a row."""
    cos, sin = rotary
    real, imaginary = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    across = torch.stack((-imaginary, real), -1).flatten(-2)
    return (x.float() * cos + across * sin).to(x.dtype)


def turned_halves(x: Tensor, rotary: Tables) -> Tensor:
    """[B, S, C] of H heads, the first half of the channels of each with the second, by tables [B, H, S, C / 2H]."""
    cos, sin = (table.transpose(1, 2).float() for table in rotary)
    first, second = x.float().unflatten(-1, (cos.shape[2], 2, -1)).unbind(-2)
    return torch.stack((first * cos - second * sin, second * cos + first * sin), -2).flatten(2).to(x.dtype)
