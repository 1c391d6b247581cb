"""The processors of models that make sounds. As `processors.py`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from c4d.models.grouped_processors import Grouped
from c4d.models.processors import Fused, Tables, of_keys, projected_out


class AceStep(Grouped):
    """One sequence, turned by halves, in some blocks under a mask of a window; or over another one."""

    replaces: tuple[str, ...] = ("diffusers.models.transformers.ace_step_transformer.AceStepAttnProcessor2_0",)
    kind = "self-attention"
    interleaved = False

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tables | None = None,
    ) -> Tensor:
        x, source, turn = hidden_states, hidden_states, self.tables(image_rotary_emb)
        if attn.is_cross_attention and encoder_hidden_states is not None:
            source, turn = encoder_hidden_states, None
        q, k, v = self.heads_turned(attn, x, source, turn)
        x = self.attend(*self.repeated(q, k, v), attention_mask)
        return projected_out(attn, x)

    @staticmethod
    def heads_of(attn: Any) -> tuple[int, int]:
        return int(attn.heads), int(attn.head_dim)


class AceStepCross(AceStep):
    kind = "cross-attention"


class StableAudio(Grouped):
    """One sequence, whose leading channels are turned by halves; or its queries, which are, over another one."""

    replaces: tuple[str, ...] = ("diffusers.models.attention_processor.StableAudioAttnProcessor2_0",)
    kind = "self-attention"

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Tables | None = None,
    ) -> Tensor:
        if attention_mask is not None:
            raise ValueError("Stable Audio's attention takes no mask here: leave it away")
        x, source = hidden_states, hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = self.heads(attn, attn.to_q(x), attn.to_k(source), attn.to_v(source))
        q = self.turned_halves(self.normed(attn.norm_q, q), rotary_emb)
        k = self.turned_halves(self.normed(attn.norm_k, k), None if attn.is_cross_attention else rotary_emb)
        x = self.attend(*self.repeated(q, k, v))
        return projected_out(attn, x)


class StableAudioCross(StableAudio):
    kind = "cross-attention"


class StableAudio3(Fused):
    """One sequence, whose leading channels are turned by halves; the result may be the difference of two attentions."""

    replaces: tuple[str, ...] = (
        "diffusers.models.transformers.transformer_stable_audio3.StableAudio3SelfAttnProcessor",
    )
    kind = "self-attention"

    def __call__(self, attn: Any, hidden_states: Tensor, rope: Tensor) -> Tensor:
        angles = rope[-hidden_states.shape[1] :].float()
        *parts, v = self.heads(attn, *attn.to_qkv(hidden_states).chunk(5 if attn.use_differential else 3, -1))
        rotary = angles.cos(), angles.sin()
        parts = [self.turned_halves(x, rotary) for x in self.parts(attn, parts)]
        return attn.to_out(self.difference(parts, v))

    def parts(self, attn: Any, parts: list[Tensor]) -> list[Tensor]:
        """Queries, one or two, then as many keys, after their norms."""
        half = len(parts) // 2
        return [self.normed(attn.q_norm if i < half else attn.k_norm, x) for i, x in enumerate(parts)]

    def difference(self, parts: list[Tensor], v: Tensor, mask: Tensor | None = None) -> Tensor:
        half = len(parts) // 2
        first, *second = (self.attend(q, k, v, mask) for q, k in zip(parts[:half], parts[half:], strict=True))
        return first - second[0] if second else first

    @staticmethod
    def heads_of(attn: Any) -> tuple[int, int]:
        return int(attn.heads), int(attn.dim_heads)


class StableAudio3Cross(StableAudio3):
    """The same over the text, with a mask [B, T]; nothing is turned."""

    replaces = ("diffusers.models.transformers.transformer_stable_audio3.StableAudio3CrossAttnProcessor",)
    kind = "cross-attention"

    def __call__(self, attn: Any, hidden_states: Tensor, context: Tensor, context_mask: Tensor | None = None) -> Tensor:
        count = 2 if attn.use_differential else 1
        queries = self.heads(attn, *attn.to_q(hidden_states).chunk(count, -1))
        *keys, v = self.heads(attn, *attn.to_kv(context).chunk(count + 1, -1))
        return attn.to_out(self.difference(self.parts(attn, [*queries, *keys]), v, of_keys(context_mask)))
