"""The ranks of this machine, started as torchrun starts them, without its words: each says itself what is wrong."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def launch(ranks: int, command: Sequence[str]) -> int:
    """Runs ``python COMMAND`` in so many processes that find each other (RANK, WORLD_SIZE, …), to their end.

    Returns 0, or the exit status of one that failed; the others are ended then.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does: ranks share the cores
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=1.0,  # seconds: of ranks that fail together none is ended while it leaves
    )
    logging.disable(logging.CRITICAL)  # torch tells every step of a start and of a failure
    try:
        elastic_launch(config, sys.executable)("-u", *command)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        return next((code for code in codes if code > 0), 128 - codes[0])
    except (SignalException, KeyboardInterrupt) as error:  # its ranks have said so
        return 128 + int(getattr(error, "sigval", signal.SIGINT))
    finally:
        logging.disable(logging.NOTSET)
    return 0
