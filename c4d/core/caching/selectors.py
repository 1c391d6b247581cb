"""Which tokens a partial step computes, and what the others get of them. Pure; all on the device, nothing is read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from c4d.core.caching.policies import whole_number
from c4d.core.types import Step

READ = ("key", "value", "attention")  # scores that are read of the self-attention beside a module
SCORES = ("norm", "random", *READ)
FRAMES = ("together", "each")  # what clusters are of


@dataclass(frozen=True)
class TokenView:
    """What may be known of the tokens of a module on a partial step.

    ``feature`` [B, S, D]: the module's output as it is forecast for this step. ``since`` [B, S] fp32: steps since each
    token was computed. ``depth``: 0 in the first block of a stack, 1 in the last. ``cells`` [S] int64: the cell of the
    grid in which each token lies, from 1 to S, 0 for one that lies in none; None where no cells were asked for.
    ``labels`` [B, S] int64: the cluster of each, None without clusters. ``weight`` [B, S] fp32: what the block's
    self-attention said of each on the last computed step (:attr:`Selector.reads`), None where nobody asked. ``frames``:
    the places [F, n] int64 of the tokens of F frames of n each, a tensor for each n; where nobody asked
    (:attr:`Selector.framed`), one frame has them all. ``draw(n)``: n fp32 numbers in [0, 1), the same ones on all ranks
    and in all branches of guidance. ``alike``: scores [B, S], averaged over rows that are branches of one sample.
    """

    feature: Tensor
    since: Tensor
    step: Step
    depth: float
    cells: Tensor | None
    labels: Tensor | None
    weight: Tensor | None
    frames: Sequence[Tensor]
    draw: Callable[[int], Tensor]
    alike: Callable[[Tensor], Tensor]


class Clusters(NamedTuple):
    """K clusters of tokens: their ``centroids`` [B, K, D] fp32, and the ``labels`` [B, S] int64 of the tokens."""

    centroids: Tensor
    labels: Tensor


class Selector(ABC):
    """Picks tokens. What is optional has a default here."""

    @property
    def cell(self) -> int:
        """Sides of the cells that it compares tokens in; 0 if it does not."""
        return 0

    @property
    def framed(self) -> bool:
        """Whether it looks at each frame by itself; text beside the frames is one more."""
        return False

    @property
    def reads(self) -> str | None:
        """What it weighs tokens by that the self-attention of their block knows, one of ``READ``; None: by nothing."""
        return None

    @property
    def shared(self) -> bool:
        """Whether a branch of guidance computes the tokens that another one picked in the same step."""
        return False

    @property
    def anchored(self) -> bool:
        """Whether what is computed takes the place of the forecast (True), or of the feature of the last computed step,
        to which the forecast's change since then is added."""
        return True

    @abstractmethod
    def count(self, tokens: int, step: Step, depth: float) -> int:
        """How many of the ``tokens`` (of a frame, if it is ``framed``) it picks; on the host, by nothing that was
        measured."""

    @abstractmethod
    def select(self, view: TokenView, count: int) -> Tensor:
        """The places [B, count] int64 of the tokens to compute."""

    def grouped(
        self, x: Tensor, known: Clusters | None, draw: Callable[[int], Tensor], frames: Sequence[Tensor]
    ) -> Clusters | None:
        """The clusters of the tokens ``x`` [B, S, D], from where the ``known`` ones ended; None: it makes none.
        ``frames``: as in :class:`TokenView`."""
        return None

    def spread(self, feature: Tensor, rows: Tensor, fresh: Tensor, clusters: Clusters | None) -> Tensor:
        """``feature`` [B, S, D] with the tokens ``rows`` [B, k] computed, ``fresh`` [B, k, D]."""
        return put(feature, rows, fresh)


def take(x: Tensor, rows: Tensor) -> Tensor:
    """Of [B, S, D] the tokens ``rows`` [B, k]."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[2]))


def put(x: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """A copy of [B, S, D] with ``values`` [B, k, D] at the tokens ``rows`` [B, k]."""
    return x.scatter(1, rows[..., None].expand_as(values), values.to(x.dtype))


@dataclass(frozen=True)
class Scored(Selector):
    """The tokens of the highest scores: what they weigh, how long they were not computed, and the best of each cell.

    S = s / |s| + stale since / interval;  the best token of each cell gets + bonus S
    round(R tokens) of them, R = ratio (1 + over_steps (1 - 2 t)) (1 + over_layers (2 l - 1)), within 0 and 1

    s is by ``score`` the L2 norm of the token's cached output (``norm``), or of its ``key`` or ``value`` in the block's
    self-attention, the mean over the heads; or how much ``attention`` it receives there, summed over heads and
    queries; or ``random``. What is of the attention is that of the last computed step. t is the place in the run and l
    the depth, both from 0 to 1. Cells have ``cell`` x ``cell`` tokens of a frame.
    """

    ratio: float
    interval: int
    score: str = "norm"
    stale: float = 0.25
    bonus: float = 0.0
    side: int = 2
    over_steps: float = 0.0
    over_layers: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.ratio, bool) or not 0.0 <= self.ratio <= 1.0:
            raise ValueError(f"ratio must be a number from 0 (reuse) to 1 (compute), got {self.ratio!r}")
        if self.score not in SCORES:
            raise ValueError(f"unknown score {self.score!r}: known are {', '.join(SCORES)}")
        for name, value in (("stale", self.stale), ("bonus", self.bonus)):
            if isinstance(value, bool) or not 0.0 <= value < float("inf"):
                raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
        for name, value in (("over_steps", self.over_steps), ("over_layers", self.over_layers)):
            if isinstance(value, bool) or not abs(value) < float("inf"):
                raise ValueError(f"{name} must be a finite number, got {value!r}")
        whole_number("cell", self.side, 1)

    @property
    def cell(self) -> int:
        return self.side if self.bonus else 0

    @property
    def reads(self) -> str | None:
        return self.score if self.score in READ else None

    @property
    def shared(self) -> bool:
        return self.score != "random"

    def count(self, tokens: int, step: Step, depth: float) -> int:
        share = self.ratio * (1.0 + self.over_steps * (1.0 - 2.0 * step.index / step.total))
        share *= 1.0 + self.over_layers * (2.0 * depth - 1.0)
        return round(tokens * min(1.0, max(0.0, share)))

    def select(self, view: TokenView, count: int) -> Tensor:
        S = view.feature.shape[1]
        weight = view.alike(self._weight(view))
        score = weight / weight.norm(dim=1, keepdim=True).clamp_min(1e-12) + self.stale * view.since / self.interval
        if view.cells is not None:
            cells = view.cells.expand_as(score)
            best = score.new_zeros(score.shape[0], S + 1).scatter_reduce(1, cells, score, "amax").gather(1, cells)
            score = score + self.bonus * score * ((score >= best) & (cells > 0))
        rows: Tensor = score.topk(count, dim=1, sorted=False).indices
        return rows

    def _weight(self, view: TokenView) -> Tensor:
        weight = view.weight
        if self.score == "random":
            weight = view.draw(view.since.shape[1]).expand_as(view.since)
        elif self.score == "norm":
            weight = torch.linalg.vector_norm(view.feature.float(), dim=2)
        assert weight is not None
        return weight


@dataclass(frozen=True)
class Clustered(Selector):
    """``each`` random tokens of each of ``clusters`` clusters, in whose change the others of the cluster take part.

    F(token) <- F(token) + share mean(M - F), over the computed tokens of its cluster, M being what they are now. The
    published form, ``at_anchor``: F(A)(token) <- (1 - share) F(A)(token) + share mean(M), F(A) being the feature of the
    last computed step. Clusters are those of K-means by L1 distances, which begins at the last centroids, or at random
    tokens. If it is ``framed``, each frame has ``clusters`` of its own, of which none has tokens of another.
    """

    clusters: int
    share: float
    each: int = 1
    iterations: int = 10
    at_anchor: bool = False
    by_frame: bool = False

    def __post_init__(self) -> None:
        whole_number("clusters", self.clusters, 1)
        whole_number("tokens of each cluster", self.each, 1)
        whole_number("iterations", self.iterations, 1)
        if isinstance(self.share, bool) or not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share must be a number from 0 to 1, got {self.share!r}")

    @property
    def anchored(self) -> bool:
        return not self.at_anchor

    @property
    def framed(self) -> bool:
        return self.by_frame

    def count(self, tokens: int, step: Step, depth: float) -> int:
        return min(tokens, self.clusters * self.each)

    def select(self, view: TokenView, count: int) -> Tensor:
        assert view.labels is not None
        draws, kinds = view.draw(view.labels.shape[1]), torch.arange(self.clusters, device=view.labels.device)
        return torch.cat([self._of_each(view.labels, frames, draws, kinds) for frames in view.frames], 1)

    def _of_each(self, labels: Tensor, frames: Tensor, draws: Tensor, kinds: Tensor) -> Tensor:
        """[B, k] places: of frames [F, n] the random tokens of each cluster, or all where those would be no fewer."""
        if self.clusters * self.each >= frames.shape[1]:
            return frames.flatten().expand(len(labels), -1)
        mine = labels[:, frames][:, :, None] % self.clusters == kinds[:, None]  # [B, F, K, n]
        chance = draws[frames][:, None]
        weight = torch.where(mine, chance + 1.0, chance)  # a cluster that has too few takes others' tokens
        rows = weight.topk(self.each, dim=3, sorted=False).indices.flatten(2)
        places: Tensor = frames.expand(len(labels), -1, -1).gather(2, rows)
        return places.flatten(1)

    def grouped(
        self, x: Tensor, known: Clusters | None, draw: Callable[[int], Tensor], frames: Sequence[Tensor]
    ) -> Clusters:
        x, K, many = x.float(), self.clusters, sum(map(len, frames))
        B, S, D = x.shape
        starts = draw(many * K).view(many, K) if known is None else None
        found, labels, done = [], torch.zeros(B, S, dtype=torch.int64, device=x.device), 0
        for table in frames:
            F, n = table.shape
            part = x[:, table].flatten(0, 1)  # [B F, n, D]
            if known is not None:
                began = known.centroids[:, done * K : (done + F) * K].reshape(B * F, K, D)
            else:
                assert starts is not None
                places = (starts[done : done + F] * n).long().clamp_max(n - 1)  # [F, K]
                began = x[:, table.gather(1, places)].flatten(0, 1)
            centroids, own = self._means(part, began)
            labels[:, table] = own.view(B, F, n) + K * torch.arange(done, done + F, device=x.device)[:, None]
            found.append(centroids.view(B, F * K, D))
            done += F
        return Clusters(torch.cat(found, 1), labels)

    def _means(self, x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """K-means of tokens [N, n, D], each of the N for itself: centroids [N, K, D] and labels [N, n]."""
        for _ in range(self.iterations):
            centroids = means(x, torch.cdist(x, centroids, p=1.0).argmin(2), centroids)
        return centroids, torch.cdist(x, centroids, p=1.0).argmin(2)

    def spread(self, feature: Tensor, rows: Tensor, fresh: Tensor, clusters: Clusters | None) -> Tensor:
        made = put(feature, rows, fresh)
        if not self.share:
            return made
        assert clusters is not None
        centroids, labels = clusters
        known = fresh if self.at_anchor else fresh - take(feature, rows)
        none = torch.zeros(*centroids.shape[:2], known.shape[2], device=known.device)
        moved = take(means(known.float(), labels.gather(1, rows), none), labels).to(made.dtype)
        if self.at_anchor:
            return torch.lerp(made, moved, self.share)
        return put(torch.add(feature, moved, alpha=self.share), rows, fresh)


def means(x: Tensor, labels: Tensor, empty: Tensor) -> Tensor:
    """[B, K, D]: of each cluster the mean of its tokens ``x`` [B, S, D]; of one without any what is in ``empty``."""
    total = torch.zeros_like(empty).scatter_add_(1, labels[..., None].expand_as(x), x)
    count = total.new_zeros(total.shape[:2]).scatter_add_(1, labels, torch.ones_like(labels, dtype=total.dtype))
    return torch.where(count[..., None] > 0, total / count[..., None].clamp_min(1.0), empty)
