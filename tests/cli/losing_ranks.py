"""Runs ``c4d`` on several ranks, of which one is lost, in forks of one process that has imported everything.

A line of JSON on stdin has ``words`` for the command line, the number of ``ranks``, a ``log`` for what all of them say,
and what happens to ``who`` of them: ``fate`` in the call ``at`` of the transformer (None: nothing), or ``kill`` after
so many seconds (None: never). The answer: the exit status of each rank, and the seconds from its fate to the last exit.
"""

import json
import os
import signal
import sys
import time

import torch
from diffusers import WanPipeline  # noqa: F401  what a job imports while it loads
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import AutoTokenizer  # noqa: F401

from c4d.cli.main import main
from tests.forked import free_port


def raising():
    raise ValueError("out of luck")


def exhausted():
    raise torch.OutOfMemoryError("no memory is left")


def stalled():
    time.sleep(300)


def frozen():
    os.kill(os.getpid(), signal.SIGSTOP)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


FATES = {each.__name__: each for each in (raising, exhausted, stalled, frozen, killed)}


def rank(number, words, log, ranks, port, fate, at, sign, who):
    for target, source in ((0, os.devnull), (1, log), (2, log)):
        os.dup2(os.open(source, os.O_RDWR | os.O_CREAT | os.O_APPEND), target)
    there = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    os.environ |= {name: str(value) for name, value in {**there, "RANK": number, "LOCAL_RANK": number}.items()}
    calls = 0

    def meets(module, _):
        nonlocal calls
        if type(module).__name__ == "WanTransformer3DModel":
            calls += 1
            if calls == at:
                os.write(sign, b"!")
                FATES[fate]()

    if fate is not None and number == who:
        register_module_forward_pre_hook(meets)
    return main(words)


def lose(words, log, ranks, fate=None, at=0, kill=None, who=1):
    port, (met, sign), children = free_port(), os.pipe(), []
    for number in range(ranks):
        if (child := os.fork()) == 0:
            code = 70
            try:
                code = rank(number, words, log, ranks, port, fate, at, sign, who)
                sys.stdout.flush()
            finally:
                os._exit(code)
        children.append(child)
    os.close(sign)
    if kill is not None:
        time.sleep(kill)
        os.kill(children[who], signal.SIGKILL)
    elif fate is not None:
        os.read(met, 1)
    started, codes = time.monotonic(), {}
    while len(codes) < ranks:
        child, status = os.wait()
        codes[child] = os.waitstatus_to_exitcode(status)
        if fate == "frozen" and len(codes) == ranks - 1:  # as a launcher does
            os.kill(children[who], signal.SIGKILL)
    os.close(met)
    return {"codes": [codes[child] for child in children], "seconds": time.monotonic() - started}


if __name__ == "__main__":
    torch.set_num_threads(1)  # no thread may live before a fork
    for line in sys.stdin:
        print(json.dumps(lose(**json.loads(line))), flush=True)
