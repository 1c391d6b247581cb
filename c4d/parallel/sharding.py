"""One transformer on several ranks: its tokens are cut where they arise and gathered where they leave.

What a rank has between these two places are n = ⌈S/P⌉ tokens, the last ranks' filled up with zeros; nobody attends to
the filling, nobody measures it, and it is cut off again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from c4d.core.attention import Sees
from c4d.core.integration.hooks import Hooks, Layer, Unsaved, parameters
from c4d.core.integration.processor_patch import ProcessorPatch
from c4d.core.runtime.signals import check_grid, exact
from c4d.core.spec import STREAM, Cut, Stack
from c4d.parallel.agree import refuse_alone
from c4d.parallel.attention import Kernels, Text, over_all_keys, sp_attention, ulysses_attention
from c4d.parallel.collectives import gather
from c4d.parallel.mesh import Mesh


class TokenShard:
    """A rank's part of the tokens; ``length`` is how many there are, known from where they arise on."""

    def __init__(self, position: int, ranks: int) -> None:
        self._position, self._ranks = position, ranks
        self.reset()

    def reset(self) -> None:
        """Before a forward."""
        self.length: int | None = None
        self.batch = 0
        self._whole: Tensor | None = None  # the last mask that was seen to leave no token out

    def arise(self, x: Tensor) -> Tensor:
        """This rank's part of all tokens, [B, S, D] or [B, D, ...]."""
        self.batch, self.length = x.shape[0], x.shape[1] if x.ndim == 3 else x[0, 0].numel()
        return self.tokens(x)

    def __call__(self, x: Tensor, dim: int) -> Tensor:
        n = -(-(x.shape[dim] if self.length is None else self.length) // self._ranks)
        start = min(n * self._position, x.shape[dim])
        mine = x.narrow(dim, start, min(n, x.shape[dim] - start))
        missing = n - mine.shape[dim]
        if missing:
            return F.pad(mine, [0, 0] * (x.ndim - 1 - dim % x.ndim) + [0, missing])
        return mine.clone(memory_format=torch.contiguous_format)  # a view would keep the other ranks' tokens

    def tail(self, x: Tensor, dim: int) -> Tensor:
        assert self.length is not None, "the tokens arise after what goes with them; the spec is wrong"
        head, tokens = x.split((x.shape[dim] - self.length, self.length), dim)
        return torch.cat((head, self(tokens, dim)), dim)

    def tokens(self, x: Tensor) -> Tensor:
        return self(x, 1) if x.ndim == 3 else self(x.flatten(2), 2).unflatten(2, (-1, *[1] * (x.ndim - 3)))

    def rows(self, x: Tensor) -> Tensor:
        return x if x.shape[0] in (1, self.batch) else self(x.unflatten(0, (self.batch, -1)), 1).flatten(0, 1)

    def everyone(self, mask: Tensor | None) -> None:
        if mask is not None and mask is not self._whole:
            if not bool(mask.all()):
                raise ValueError(
                    "on several ranks the samples of a batch need equally many tokens, and a mask leaves some out "
                    "here: give them prompts of one length, or generate them one by one"
                )
            self._whole = mask

    @property
    def here(self) -> int:
        """Tokens of this rank; the rest of its n is filling."""
        return self.before(self.length or 0)

    @property
    def each(self) -> int:
        return -(-(self.length or 0) // self._ranks)

    def before(self, count: int) -> int:
        return max(0, min(self.each, count - self._position * self.each))


def is_of_keys(mask: Tensor) -> bool:
    return mask.dtype == torch.bool and mask.ndim == 4 and mask.shape[1] == mask.shape[2] == 1


def check_whole(fitting: ProcessorPatch) -> None:
    """Raises ValueError if an attention of this model would see a part of the tokens alone."""
    if fitting.unnamed:
        raise ValueError(
            f"{fitting.label} has attentions that the spec of {fitting.spec.transformer} does not name "
            f"({', '.join(fitting.unnamed)}), which would see a part of the tokens alone: Stack(attention=…)"
        )
    if fitting.left:
        raise ValueError(
            f"{fitting.label} has attentions with another processor ({', '.join(fitting.left)}), which would see a "
            "part of the tokens alone; give them their stock processor again"
        )


class Sharding(Unsaved):
    """The hooks that spread one transformer's tokens over the ranks of ``mesh``, for the time of a ``with`` block."""

    def __init__(self, fitting: ProcessorPatch, mesh: Mesh, kernels: Kernels) -> None:
        transformer, spec = fitting.transformer, fitting.spec
        if spec.sharding is None:
            raise ValueError(
                f"the spec of {spec.transformer} does not say how its tokens are spread over ranks (sharding=, "
                "docs/adding_a_model.md)"
            )
        assert mesh.sequence is not None
        self.transformer, self.spec, self._plan, self._group = transformer, spec, spec.sharding, mesh.sequence
        self._mesh, self._fitting, self._kernels = mesh, fitting, kernels
        self.cut = TokenShard(mesh.position, mesh.sequence.size)
        for path in (self._plan.tokens, self._plan.gather, *self._plan.outputs, *self._plan.arguments):
            try:
                transformer.get_submodule(path)
            except AttributeError:
                raise ValueError(
                    f"the spec of {spec.transformer} spreads the tokens of {path!r}, but the model has no such module"
                ) from None
        self._stacks = {stack.path: stack for stack in spec.stacks}
        self._hooks = Hooks(Layer.SHARDING)

    def install(self) -> None:
        get, before, after = self.transformer.get_submodule, self._hooks.before, partial(self._hooks.after, first=True)
        before(self.transformer, self.enter)
        if stack := self._stacks.get(self._plan.tokens):
            before(next(get(stack.path).children()), self.begin, stack)
            before(get(str(self.spec.exit)), self.end)
        else:
            after(get(self._plan.tokens), self.arise)
        for path, cut in self._plan.outputs.items():
            after(get(path), self.follow, cut)
        for path, cuts in self._plan.arguments.items():
            if stack := self._stacks.get(path):
                for block in get(path).children():
                    before(block, self.join, stack.takes, cuts)
            elif path:
                before(get(path), self.join, parameters(get(path)), cuts)
        after(get(self._plan.gather), self.leave)
        for work in self._fitting.works:
            work.spread, work.spread_keys = self.attend, self.attend_keys

    def remove(self) -> None:
        for work in self._fitting.works:
            work.spread = work.spread_keys = None
        self._hooks.remove()

    def unpadded(self, x: Tensor, spread: bool) -> tuple[Tensor, int]:
        """A signal of a forward without its filling, and how many numbers the ranks have of it."""
        if x.ndim != 3 or not spread:  # all of it on each
            return x, x.numel() * self._group.size
        return x[:, : self.cut.here], x[:, :1].numel() * (self.cut.length or 0)

    def project(self, basis: Tensor, x: Tensor) -> Tensor:
        """One collective: this rank's part of the K coefficients, [B, K, D], goes to all others."""
        check_grid(basis, self.cut.length or 0)
        mine = self.cut(basis, 1)
        with exact(x):
            parts = gather(mine @ x.float(), self._group)
            return (mine.T @ parts.sum(0)).to(x.dtype)

    # -- called by the hooks, which are the first of each module: others see what is spread already

    def enter(self, args: Any, kwargs: Any) -> Any:
        refuse_alone(self.transformer)
        check_whole(self._fitting)
        self.cut.reset()
        return self.join(parameters(self.transformer), self._plan.arguments.get("", {}), args, kwargs)

    def arise(self, args: Any, output: Tensor) -> Tensor:
        return self.cut.arise(output)

    def begin(self, stack: Stack, args: Any, kwargs: Any) -> Any:
        """A block's arguments, where tokens are cut when the loop begins: by the first call of its first block."""
        if self.cut.length is not None or stack.path != self._plan.tokens:
            return args, kwargs
        return self.join(stack.takes, {STREAM: lambda x, _: self.cut.arise(x)}, args, kwargs)

    def end(self, args: Any, kwargs: Any) -> Any:
        """What leaves a loop that called no block: the exit's first argument."""
        if self.cut.length is not None:
            return args, kwargs
        return (self.cut.arise(args[0]), *args[1:]), kwargs

    def follow(self, cut: Any, args: Any, output: Any) -> Any:
        return cut(output, self.cut)

    def leave(self, args: Any, output: Tensor) -> Tensor:
        """[B, n, C] of this rank -> [B, S, C]."""
        if self.cut.length is None or output.ndim != 3 or output.shape[1] != self.cut.each:
            raise RuntimeError(
                f"{self.spec.transformer}: {self._plan.gather!r} gives {list(output.shape)}, where {self.cut.each} "
                "tokens of this rank are to be gathered; its spec is wrong"
            )
        return gather(output, self._group).transpose(0, 1).flatten(1, 2)[:, : self.cut.length]

    def join(self, names: Sequence[str], cuts: Mapping[str, Cut], args: Any, kwargs: Any) -> Any:
        places = [*names, *[""] * len(args)]
        return (
            tuple(self._cut(cuts, name, value) for name, value in zip(places, args, strict=False)),
            {name: self._cut(cuts, name, value) for name, value in kwargs.items()},
        )

    def local_args(self, stack: Stack, named: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments of a block of ``stack``, of all tokens, as this rank's block gets them."""
        cuts = self._plan.arguments.get(stack.path, {})
        return {name: self._cut(cuts, name, value) for name, value in named.items()}

    def _cut(self, cuts: Mapping[str, Cut], name: str, value: Any) -> Any:
        return value if value is None or name not in cuts else cuts[name](value, self.cut)

    def check_mask(self, mask: Tensor | None, absent: tuple[int, ...] | None, words: int) -> None:
        """Raises RuntimeError for one that is not of ``words`` keys of text alone."""
        if mask is not None and absent is None and not (words and is_of_keys(mask)):
            raise RuntimeError(
                f"{self.spec.transformer} has a mask {list(mask.shape)} of {mask.dtype} in an attention to all tokens; "
                "on several ranks it takes a boolean one of text alone, [B, 1, 1, keys]: leave it away, or use one rank"
            )

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        absent: tuple[int, ...] | None,
        text_first: bool,
        sees: Sees | None,
    ) -> Tensor:
        n, length = self.cut.each, self.cut.length
        assert length is not None
        words = k.shape[1] - n
        if sees is not None:
            if self._mesh.ulysses is None or self._mesh.ring is not None or words or mask is not None:
                raise RuntimeError(
                    f"{self.spec.transformer} attends to other tokens than those of a call here (c4d.rollout): several "
                    "ranks do so by Ulysses alone, and without text or mask among the tokens: use ring=1"
                )
            return ulysses_attention((q, k, v), length, self._kernels, self._mesh.ulysses, sees)
        self.check_mask(mask, absent, words)
        if not words:
            return sp_attention((q, k, v), length, self._kernels, self._mesh.ulysses, self._mesh.ring)[0]
        each = [(x, x.shape[1] - n) for x in (q, k, v)]  # text may have keys alone
        parts = [x.split((count, n) if text_first else (n, count), 1) for x, count in each]
        tokens, others = zip(*(part[::-1] if text_first else part for part in parts), strict=True)
        kept = None if absent is None else tuple(words - missing for missing in absent)
        seen = None
        if mask is not None and kept is None:
            of_text = mask[:, 0, 0, :words] if text_first else mask[:, 0, 0, -words:]
            seen = of_text.expand(q.shape[0], -1)
        text = Text(others, kept, seen)
        out, said = sp_attention(tokens, length, self._kernels, self._mesh.ulysses, self._mesh.ring, text)
        assert said is not None
        return torch.cat((said, out) if text_first else (out, said), 1)

    def attend_keys(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            raise RuntimeError(
                f"{self.spec.transformer} has a mask {list(mask.shape)} of tokens that are spread over ranks: leave it "
                "away, or use one rank"
            )
        return over_all_keys(q, k[:, : self.cut.here], v[:, : self.cut.here], self._kernels.lse, self._group)
