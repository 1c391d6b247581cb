"""One run of a comparison: a contender on a request, made by all ranks that share the pipeline at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from c4d.backends import Backend
from c4d.calibrate.levels import Chosen
from c4d.parallel.session import Parallel
from c4d.pipelines.arguments import effective
from c4d.pipelines.compare import work
from c4d.pipelines.errors import GenerationError
from c4d.pipelines.flops import Flops
from c4d.pipelines.generate import Clip, generate
from c4d.pipelines.peers import Peer
from c4d.pipelines.request import Request
from c4d.pipelines.tuning import Contender

MOST_SAID = 300  # letters of another library's error


class Cost(NamedTuple):
    """Of a clip, on all ranks: ``work`` and ``blocks`` as in a report (None: there is none), ``bytes`` that the cache
    held, the most on any rank, and ``flops`` (0: not counted)."""

    work: Mapping[str, Any] | None
    blocks: int | None
    bytes: int | None
    flops: int


class Ran(NamedTuple):
    """``frames`` and ``seconds`` as of a :class:`~c4d.pipelines.generate.Clip`."""

    frames: Tensor
    seconds: float
    cost: Cost


class Runner:
    """Runs contenders with ``pipe``, which ``ranks`` share (None: this process has it alone)."""

    def __init__(
        self, pipe: Any, *, backend: Backend, ranks: Parallel | None = None, peers: Sequence[Peer] = ()
    ) -> None:
        self._pipe, self._backend, self._ranks = pipe, backend, ranks
        self._peers = {peer.name: peer for peer in peers}

    def __call__(self, contender: Contender, request: Request, counted: bool = False) -> Ran | GenerationError:
        """What came out, or (on every rank, which goes on) why nothing did on one of them.

        ``request`` asks for as many steps as the uncached clip has; a run whose FLOPs are ``counted`` is slow.
        """
        clip, failed, flops = None, None, Flops(self._pipe)
        try:
            with flops if counted else nullcontext():
                clip = self._clip(contender, request)
        except GenerationError as error:
            failed = str(error)
        report = clip.report.to_dict() if clip is not None and clip.report is not None else None
        mine = Cost(
            work(report) if report is not None else None,
            report["blocks_total"] if report is not None else None,
            report["peak_bytes"] if report is not None else None if contender.peer else 0,
            flops.count,
        )
        cost, failures = mine, [failed]
        if self._ranks is not None:
            costs, failures = zip(*self._ranks.each((mine, failed)), strict=True)
            cost = together(costs, self._ranks.mesh.degrees.sequence)
        for rank, why in enumerate(failures):
            if why is not None:
                return GenerationError(f"on rank {rank}: {why}" if rank else why)
        assert clip is not None
        return Ran(clip.frames, clip.seconds, cost)

    def _clip(self, contender: Contender, request: Request) -> Clip:
        total = effective(self._pipe, request)["num_inference_steps"]
        chosen = Chosen(self._pipe.scheduler, contender.levels, total) if contender.levels else nullcontext()
        with chosen, self._peer(contender):
            return generate(
                self._pipe,
                replace(request, steps=contender.steps),
                method=contender.method,
                backend=self._backend,
                ranks=self._ranks,
                progress=False,
            )

    @contextmanager
    def _peer(self, contender: Contender) -> Iterator[None]:
        """The other library's cache at work, if the contender is one; whatever that leads to is its own failure."""
        if contender.peer is None:
            yield
            return
        try:
            with self._peers[contender.peer].at_work(self._pipe):
                yield
        except Exception as error:
            said = " ".join(str(error).split())[:MOST_SAID]
            raise GenerationError(f"{type(error).__name__}: {said}" if said else type(error).__name__) from error


def together(costs: Sequence[Cost], sequence: int) -> Cost:
    """Of ranks, each ``sequence`` of which share a forward: they do the same, and report it each."""
    first = costs[0]
    whole = None if first.work is None else {**first.work}
    if whole is not None:
        done, total = (sum(cost.work[part] for cost in costs if cost.work) // sequence for part in ("done", "total"))
        whole |= {"done": done, "total": total, "ratio": total / done if done else None}
    blocks = None if first.blocks is None else sum(cost.blocks or 0 for cost in costs) // sequence
    held = None if first.bytes is None else max(cost.bytes or 0 for cost in costs)
    return Cost(whole, blocks, held, sum(cost.flops for cost in costs))
