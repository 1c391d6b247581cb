"""Several ranks at work on the transformers of one pipeline, while a ``with`` block lasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from c4d.core.fitting import AttentionSession
from c4d.core.spec import ModelSpec
from c4d.parallel.agree import Agreement
from c4d.parallel.attention import Kernels
from c4d.parallel.mesh import Mesh
from c4d.parallel.sharding import Sharding


class Parallel:
    """Spreads ``transformers`` over the ranks of ``mesh``; made by :func:`c4d.sharded`.

    Every rank gets the whole result. What it holds of a cache is its own part of the tokens.
    """

    def __init__(
        self,
        transformers: Mapping[str, tuple[nn.Module, ModelSpec]],
        mesh: Mesh,
        attention: AttentionSession,
        kernels: Kernels,
    ) -> None:
        self.mesh = mesh
        self._attention = attention
        self._agreement = None if mesh.sequence is None else Agreement(mesh.sequence)
        self._shardings = (
            [
                Sharding(module, spec, mesh, fitting, kernels)
                for (module, spec), fitting in zip(transformers.values(), attention.fittings, strict=True)
            ]
            if mesh.sequence is not None
            else []
        )

    def __enter__(self) -> Parallel:
        self._attention.__enter__()
        try:
            for fitting, sharding in zip(self._attention.fittings, self._shardings, strict=True):
                if fitting.left:
                    raise ValueError(
                        f"{fitting.label} has attentions with another processor ({', '.join(fitting.left)}), which "
                        "would see a part of the tokens alone; give them their stock processor again"
                    )
                sharding.install()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for sharding in self._shardings:
            sharding.remove()
        self._attention.__exit__(*exc)

    @property
    def collectives(self) -> int:
        """How many were made to agree on decisions."""
        return 0 if self._agreement is None else self._agreement.calls

    def lines(self) -> list[str]:
        groups = [f"groups of ranks: {self.mesh.made_by}"] if self.mesh.degrees.world > 1 else []
        return [f"ranks: {self.mesh.degrees}", *groups, *self._attention.lines()]

    # -- for a cache session

    def begin(self, method: str, inputs: Mapping[str, Any]) -> None:
        if self._agreement is not None:
            self._agreement.check(method, inputs)

    def valid(self, transformer: nn.Module, x: Tensor) -> Tensor:
        for sharding in self._shardings:
            if sharding.transformer is transformer:
                return sharding.valid(x)
        return x

    def sums(self, partial: Tensor, counts: Sequence[int], failed: bool) -> list[list[float]]:
        if self._agreement is not None:
            return self._agreement.sums(partial, counts, failed)
        return [] if failed else partial.tolist()
