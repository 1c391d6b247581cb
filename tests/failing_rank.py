"""Ranks of which the last one fails while the others wait for it (tests/test_bench_accelerator.py)."""

from __future__ import annotations

import torch
import torch.distributed as dist

from bench.accelerator.rank import main


def work(rank, topics):
    if rank.rank == rank.ranks - 1:
        raise ValueError("out of luck")
    dist.all_reduce(torch.zeros(1), group=rank.group)


if __name__ == "__main__":
    main(work)
