"""Runs ``c4d`` on several ranks, of which one is lost, in forks of one process that has imported everything.

A line of JSON on stdin has ``words`` for the command line, or ``how`` for a program of somebody's own (:func:`own`),
the number of ``ranks``, a ``log`` for what all of them say, and what happens to ``who`` of them: ``fate`` in the call
``at`` of the transformer (None: nothing), or ``kill`` after so many seconds (None: never), and to the ``others`` in the
same call. The answer: the exit status of each rank, and the seconds from its fate to the last exit.
"""

import json
import os
import signal
import sys
import time

import torch
from diffusers import WanPipeline  # what a job imports while it loads
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import AutoTokenizer  # noqa: F401

import c4d
from c4d.cli.main import main
from c4d.parallel import collectives
from tests.forked import free_port

CAUGHT = 7  # the exit status of a program of one's own that went on with LostRankError


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


def stuck():
    """It waits for others in a collective that never gives up."""
    collectives.wait = lambda pending: time.sleep(300)


FATES = {each.__name__: each for each in (raising, exhausted, stalled, frozen, killed, stuck)}


def own(how):
    """A program that knows of c4d's public names alone."""
    pipe = WanPipeline.from_pretrained(c4d.bundled_model("wan-tiny"))
    pipe.set_progress_bar_config(disable=True)
    prompt = dict(prompt="a red circle moving left on a black background", height=32, width=32, num_frames=5)
    try:
        with c4d.accelerate(pipe, cache="fora:interval=2", parallel=c4d.SequenceParallel(**how)):
            pipe(**prompt, num_inference_steps=6, guidance_scale=4.0, generator=torch.Generator().manual_seed(0))
    except c4d.LostRankError as error:
        print(f"caught: {error}, because of {type(error.__cause__).__name__}")
        return CAUGHT
    return 0


def rank(number, words, how, log, ranks, port, fate, at, sign, who, others):
    for target, source in ((0, os.devnull), (1, log), (2, log)):
        os.dup2(os.open(source, os.O_RDWR | os.O_CREAT | os.O_APPEND), target)
    there = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    os.environ |= {name: str(value) for name, value in {**there, "RANK": number, "LOCAL_RANK": number}.items()}
    calls = 0

    def meets(module, _):
        nonlocal calls
        if type(module).__name__ == "WanTransformer3DModel":
            calls += 1
            if calls == at and number == who:
                os.write(sign, b"!")
                FATES[fate]()
            elif calls == at and others is not None:
                FATES[others]()

    if fate is not None:
        register_module_forward_pre_hook(meets)
    return main(words) if how is None else own(how)


def lose(log, ranks, words=(), how=None, fate=None, at=0, kill=None, who=1, others=None):
    port, (met, sign), children = free_port(), os.pipe(), []
    for number in range(ranks):
        if (child := os.fork()) == 0:
            code = 70
            try:
                code = rank(number, words, how, log, ranks, port, fate, at, sign, who, others)
                sys.stdout.flush()
            except BaseException:
                sys.excepthook(*sys.exc_info())
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
        lives = fate == "frozen" or (how is not None and fate == "stalled")
        if lives and len(codes) == ranks - 1:  # as a launcher does
            os.kill(children[who], signal.SIGKILL)
    os.close(met)
    return {"codes": [codes[child] for child in children], "seconds": time.monotonic() - started}


if __name__ == "__main__":
    torch.set_num_threads(1)  # no thread may live before a fork
    for line in sys.stdin:
        print(json.dumps(lose(**json.loads(line))), flush=True)
