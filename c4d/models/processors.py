"""One attention processor a shape: projections and other modules are called, norm, rotary and attention are fused.

Modules are called, not read, so that LoRA, quantisation and offloading keep acting on them; the one exception is the
weight of a plain RMSNorm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from c4d.core.attention import Processor

Tables = tuple[Tensor, Tensor]


def plain(norm: Any, x: Tensor) -> bool:
    """True for an RMSNorm that nobody hooked (an offload may have its weight elsewhere), with a weight like x."""
    return (
        type(norm).__name__ == "RMSNorm"
        and norm.weight is not None
        and norm.weight.dtype == x.dtype
        and norm.eps is not None
        and getattr(norm, "bias", None) is None
        and "forward" not in norm.__dict__
        and not norm._forward_pre_hooks
        and not norm._forward_hooks
    )


class Fused(Processor):
    """What the shapes share.

    ``across``: norms take all heads of a token together; ``interleaved``: each even channel of a head is turned with
    the next odd one, and not the first half of them with the second.
    """

    across = False
    interleaved = True
    _attention_backend = _parallel_config = None  # diffusers sets these: refused while this processor is installed

    def heads(self, attn: Any, *projected: Tensor) -> list[Tensor]:
        """[B, S, H, D] of each [B, S, H * D]; a rank of tensor parallelism has fewer heads than the module says."""
        _, size = self.heads_of(attn)
        return [x.unflatten(-1, (-1, size)) for x in projected]

    def heads_turned(self, attn: Any, x: Tensor, source: Tensor, turn: Tables | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of ``x``, keys and values of ``source``, [B, S, H, D]: after the norms, queries and keys turned."""
        q, k, v = self.heads(attn, attn.to_q(x), attn.to_k(source), attn.to_v(source))
        return self.normed(attn.norm_q, q, turn), self.normed(attn.norm_k, k, turn), v

    def tables(self, rotary: Tables | None) -> Tables | None:
        """Cosine and sine [S, D/2] or [B, S, D/2] of tables that hold every angle twice, [1, S, 1, D] or as these."""
        if rotary is None:
            return None
        cos, sin = (table.flatten(0, -2) if table.ndim == 4 else table for table in rotary)
        if self.interleaved:
            return cos[..., 0::2], sin[..., 1::2]
        return cos[..., : cos.shape[-1] // 2], sin[..., : sin.shape[-1] // 2]

    def turned_halves(self, x: Tensor, rotary: Tables | None) -> Tensor:
        """x [B, S, H, D], whose leading R channels are turned by halves; tables [S, R] or [B, S, R] as above."""
        if rotary is None:
            return x
        width = rotary[0].shape[-1]
        cos, sin = (table[..., : width // 2] for table in rotary)
        turned = self.work.primitives.rotary(x[..., :width], cos, sin, interleaved=False)
        return turned if width == x.shape[-1] else torch.cat((turned, x[..., width:]), -1)

    def normed(self, norm: Any, x: Tensor, turn: Tables | None = None, tokens: int | None = None) -> Tensor:
        """x [B, S, H, D] after ``norm``, its ``tokens`` leading tokens (None: all) turned by ``turn``, if given."""
        primitives, interleaved = self.work.primitives, self.interleaved
        if norm is not None and plain(norm, x):
            if turn is None:
                return primitives.rms_norm(x, norm.weight, eps=norm.eps)
            return primitives.norm_rotary(x, norm.weight, *turn, eps=norm.eps, interleaved=interleaved, tokens=tokens)
        if norm is not None:
            x = norm(x.flatten(2)).view_as(x) if self.across else norm(x)
        return x if turn is None else primitives.rotary(x, *turn, interleaved=interleaved, tokens=tokens)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, Sq, H * D], over keys that every rank has: cross-attention."""
        return self.work.attend(q, k, v, mask).flatten(2)

    def attend_causal(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, S, H * D], of each query over the keys up to its own place."""
        return self.work.attend_causal(q, k, v).flatten(2)

    def attend_all(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, text_first: bool = False
    ) -> Tensor:
        """[B, S, H * D], over the tokens of all ranks; text stands behind (or before) them, and every rank has it."""
        return self.work.attend_all(q, k, v, mask, text_first, self.sees).flatten(2)

    def attend_keys(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, Sq, H * D], of queries that every rank has over the tokens of all ranks."""
        return self.work.attend_keys(q, k, v, mask).flatten(2)


class Wan(Fused):
    """Self- or cross-attention with norms over all heads; in image-to-video the image's tokens precede the text's."""

    replaces: tuple[str, ...] = (
        "diffusers.models.transformers.transformer_wan.WanAttnProcessor",
        "diffusers.models.transformers.transformer_wan_animate.WanAttnProcessor",
        "diffusers.models.transformers.transformer_chronoedit.WanAttnProcessor",
        "diffusers.models.transformers.transformer_skyreels_v2.SkyReelsV2AttnProcessor",
    )
    kind = "self-attention"
    across = True

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Tables | None = None,
    ) -> Tensor:
        source, image = hidden_states if encoder_hidden_states is None else encoder_hidden_states, None
        if attn.add_k_proj is not None:
            length = source.shape[1] - 512  # the model pads its text to so many tokens
            image, source = source[:, :length], source[:, length:]
        q, k, v = self.heads(attn, *projected_from(attn, hidden_states, source))
        turn = self.tables(rotary_emb)
        q, k = self.normed(attn.norm_q, q, turn), self.normed(attn.norm_k, k, turn)
        attend = self.attend_all if encoder_hidden_states is None else self.attend
        out = attend(q, k, v, attention_mask)
        if image is not None:
            k, v = self.heads(attn, *self.projected_image(attn, image))
            out = out + self.attend(q, self.normed(attn.norm_added_k, k), v)
        return projected_out(attn, out)

    @staticmethod
    def projected_image(attn: Any, image: Tensor) -> tuple[Tensor, ...]:
        if attn.fused_projections:
            return attn.to_added_kv(image).chunk(2, -1)
        return attn.add_k_proj(image), attn.add_v_proj(image)


class WanCross(Wan):
    kind = "cross-attention"


FLUX = (
    "diffusers.models.transformers.transformer_flux.FluxAttnProcessor",
    "diffusers.models.transformers.transformer_flux2.Flux2AttnProcessor",
    "diffusers.models.transformers.transformer_bria.BriaAttnProcessor",
    "diffusers.models.transformers.transformer_bria_fibo.BriaFiboAttnProcessor",
    "diffusers.models.transformers.transformer_longcat_image.LongCatImageAttnProcessor",
    "diffusers.models.transformers.transformer_ovis_image.OvisImageAttnProcessor",
)


class FluxDual(Fused):
    """Text tokens with projections of their own, then image tokens; all are turned."""

    replaces: tuple[str, ...] = (*FLUX, "diffusers.models.attention_processor.AuraFlowAttnProcessor2_0")
    kind = "dual-stream attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tables | None = None,
    ) -> tuple[Tensor, Tensor]:
        x, text, turn = hidden_states, encoder_hidden_states, self.tables(image_rotary_emb)
        lengths, head, tail = (text.shape[1], x.shape[1]), None, None
        if turn is not None:
            head, tail = zip(*(table.split(lengths) for table in turn), strict=True)
        q, k, v = self.heads(attn, *projected(attn, x))
        added = self.heads(attn, *projected_text(attn, text))
        q = torch.cat((self.normed(attn.norm_added_q, added[0], head), self.normed(attn.norm_q, q, tail)), 1)
        k = torch.cat((self.normed(attn.norm_added_k, added[1], head), self.normed(attn.norm_k, k, tail)), 1)
        v = torch.cat((added[2], v), 1)
        text, x = self.attend_all(q, k, v, attention_mask, text_first=True).split(lengths, 1)
        return projected_out(attn, x), attn.to_add_out(text)


class FluxSingle(Fused):
    """One sequence of text and image tokens; all are turned."""

    replaces = FLUX
    kind = "single-stream attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tables | None = None,
    ) -> Tensor:
        turn = self.tables(image_rotary_emb)
        q, k, v = self.heads(attn, *projected(attn, hidden_states))
        q, k = self.normed(attn.norm_q, q, turn), self.normed(attn.norm_k, k, turn)
        return self.attend_all(q, k, v, attention_mask, text_first=True)


class Flux2Single(Fused):
    """One sequence of text and image tokens; projections that are those of the MLP, too."""

    replaces = ("diffusers.models.transformers.transformer_flux2.Flux2ParallelSelfAttnProcessor",)
    kind = "single-stream attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tables | None = None,
    ) -> Tensor:
        turn, x = self.tables(image_rotary_emb), attn.to_qkv_mlp_proj(hidden_states)
        of_attention, of_mlp = 3 * attn.inner_dim, attn.mlp_hidden_dim * attn.mlp_mult_factor
        width = x.shape[-1] * of_attention // (of_attention + of_mlp)  # a rank of tensor parallelism has a part of both
        qkv, mlp = x.split((width, x.shape[-1] - width), -1)
        q, k, v = self.heads(attn, *qkv.chunk(3, -1))
        q, k = self.normed(attn.norm_q, q, turn), self.normed(attn.norm_k, k, turn)
        out = self.attend_all(q, k, v, attention_mask, text_first=True)
        return attn.to_out(torch.cat((out, attn.mlp_act_fn(mlp)), -1))


def projected_from(attn: Any, x: Tensor, source: Tensor) -> tuple[Tensor, ...]:
    """Queries of ``x``, keys and values of ``source``."""
    if not attn.fused_projections:
        return attn.to_q(x), attn.to_k(source), attn.to_v(source)
    if attn.is_cross_attention:
        return attn.to_q(x), *attn.to_kv(source).chunk(2, -1)
    return attn.to_qkv(x).chunk(3, -1)


def projected(attn: Any, x: Tensor) -> tuple[Tensor, ...]:
    return attn.to_qkv(x).chunk(3, -1) if attn.fused_projections else (attn.to_q(x), attn.to_k(x), attn.to_v(x))


def projected_text(attn: Any, text: Tensor) -> tuple[Tensor, ...]:
    if attn.fused_projections:
        return attn.to_added_qkv(text).chunk(3, -1)
    return attn.add_q_proj(text), attn.add_k_proj(text), attn.add_v_proj(text)


def projected_out(attn: Any, x: Tensor) -> Tensor:
    """Through the last projection and the dropout behind it."""
    for module in attn.to_out:
        x = module(x)
    return x


def of_all_heads(mask: Tensor | None) -> Tensor | None:
    """[B, 1, Q, K] of what is added to the scores of all heads, [B, Q, K]; a mask of four dimensions as it is."""
    return mask if mask is None or mask.ndim == 4 else mask[:, None]


def of_keys(mask: Tensor | None) -> Tensor | None:
    """[B, 1, 1, S] of a mask [B, S]."""
    return None if mask is None else mask.bool()[:, None, None]


def parted(rotary: Tensor | None) -> Tables | None:
    """Cosine and sine of complex tables [S, D/2] or [B, S, D/2]."""
    return None if rotary is None else (rotary.real, rotary.imag)
