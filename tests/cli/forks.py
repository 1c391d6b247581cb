"""Runs ``c4d`` in forks of one process that has imported everything, for tests that stop it in the middle.

A line of JSON on stdin has ``words`` for the command line, a ``log`` for its output, and ``limit``, the bytes that a
file may have (None: any). The answers are the fork's process id and, at its end, its exit status (negative: a signal).
"""

import json
import os
import resource
import sys

import torch
from diffusers import WanPipeline  # noqa: F401  what a job imports while it loads
from transformers import AutoTokenizer  # noqa: F401

from c4d.cli.main import main


def job(words: list[str], log: str, limit: int | None) -> int:
    for target, source in ((0, os.devnull), (1, log), (2, log)):
        os.dup2(os.open(source, os.O_RDWR | os.O_CREAT | os.O_APPEND), target)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return main(words)


if __name__ == "__main__":
    torch.set_num_threads(1)  # no thread may live before a fork
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            code = 70
            try:
                code = job(**json.loads(line))
                sys.stdout.flush()
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
