"""What pages have in common: a job that is followed, and stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch

from c4d.backends import BackendUnavailableError
from c4d.calibrate.errors import CalibrationError
from c4d.core.text.grammar import MethodError
from c4d.pipelines import GenerationError, InputError, OutputError
from c4d.studio.workshop import Job, Stopped, Workshop

# How a handler is connected; no page shows gradio's own progress, and none is of its API.
QUIET: Mapping[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
LONG = {**QUIET, "concurrency_limit": None}  # what waits for a job: the workshop's queue is the only one
AT_ONCE = {**QUIET, "queue": False}
# What writes into a form: one after the other, as they were asked for. Two at once may end in another order, and then
# the page keeps the answer to the older question.
IN_TURN = {**QUIET, "concurrency_id": "form", "concurrency_limit": 1}
T = TypeVar("T")
# What somebody can do something about, in the error's own words; anything else is a fault, and is shown as one too.
TOLD = (
    InputError, MethodError, OutputError, GenerationError, CalibrationError, BackendUnavailableError, Stopped,
    ImportError, torch.OutOfMemoryError,
)  # fmt: skip


class Following:
    """The jobs of browsers' sessions, each of which has one at most on a page."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self._jobs = WeakValueDictionary[str, Job]()  # of who went away, nothing stays

    def begin(self, session: str, act: Callable[[Job], Any]) -> Job:
        """Puts ``act`` into the queue; what the session had there before ends."""
        self.stop(session)
        self._jobs[session] = job = self.workshop.begin(act)
        return job

    def stop(self, session: str) -> None:
        if (job := self._jobs.pop(session, None)) is not None:
            job.stop()

    def turns(self, job: Job) -> Iterator[tuple[int, list[Any]]]:
        """How many come before it, and its news; until it is done."""
        for news in job.news():
            yield (0 if job.began else self.workshop.ahead(job)), news


def words_of(error: BaseException) -> BaseException:
    """The error to show: one of ``TOLD`` as it is, another with its class."""
    return error if isinstance(error, TOLD) else RuntimeError(f"{type(error).__name__}: {error}")
