"""Calibration data of a published method, made by running a model: one uncached sampling after the other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from c4d.calibrate.about import about_sampling
from c4d.calibrate.calibration import Calibration, Fitted, Record, Sampling
from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.pipeline import sampling
from c4d.calibrate.recording import Opened
from c4d.calibrate.store import write_whole
from c4d.core.caching.calibrated import CalibrationData
from c4d.core.integration.hooks import at_work
from c4d.core.integration.transformers import signature, transformers_of
from c4d.models import spec_for
from c4d.parallel.session import Parallel

LEAST = 4  # samplings, unless somebody says it


def collected(
    pipe: Any,
    made: Calibration,
    opened: Opened,
    *,
    prompts: Sequence[str],
    samples: int | None = None,
    seed: int = 0,
    work: Path | None = None,
    about: Mapping[str, Any] | None = None,
    told: Callable[[str], None] = lambda line: None,
    **call: Any,
) -> tuple[list[Record], dict[str, Any]]:
    """A record of each of ``samples`` uncached samplings, and what is to be said of how they were made.

    Prompts are taken again under other noise until there are so many (default: all of them, at least four). In
    ``work`` each is kept as soon as it is made, so that an interrupted call with the same arguments goes on.
    ``opened(method)`` opens a session on the pipeline (:func:`c4d.cached`); ``call``: what else it is called with.
    Of several ranks (``c4d.sharded``) all call this, the first one with ``work``: what it has kept, no rank makes.

    Raises :class:`CalibrationError` as :func:`~c4d.calibrate.recording.recording`, and for several samplings where one
    is taken.
    """
    transformers = list(transformers_of(pipe).values())
    count = samples or (len(prompts) if made.alone else max(LEAST, len(prompts)))
    if made.alone and count > 1:
        raise CalibrationError(f"{type(made).__name__} is made of one sampling, not of {count}: give one prompt")
    asked = [prompts[i % len(prompts)] for i in range(count)]
    specs = [spec_for(transformer) for transformer in transformers]
    signals = made.signals(specs)
    generate, _ = sampling(pipe, asked, seed=seed, batch=1, call=call)
    more = {**about_sampling(pipe.scheduler, asked, call), **(about or {}), "seed": seed}
    measured = sorted(signal.value for signal in signals)
    what = {"kind": made.kept_as, "signals": measured, "noise": made.noise}
    needs = {**what, "model": signature(transformers[0]), "about": more}
    key = hashlib.sha256(json.dumps(needs, sort_keys=True, default=str).encode()).hexdigest()[:12]
    ranks, records = at_work(transformers[0], Parallel), list[Record]()
    for i, prompt in enumerate(asked):
        path = None if work is None else work / f"{key}-{i:03d}.json"
        record = None if path is None else kept(path)
        if ranks is not None:
            record = ranks.each(record)[0]
        if record is None:
            journal = None if path is None else path.with_suffix(".journal")
            one = Sampling(pipe, partial(generate, i), opened, signals, ranks, journal, told)
            record = {"prompt": prompt, **made.record(one)}
            if path is not None:
                write_whole(path, json.dumps(record))
            told(f"sampling {i + 1} of {count}: {record['steps']} steps recorded")
        else:
            told(f"sampling {i + 1} of {count}: as it was kept")
        records.append(record)
    return records, {**more, "steps": records[0]["steps"], "samples": count}


def kept(path: Path) -> Record | None:
    """What an earlier call has written; None for no file, or half of one."""
    try:
        found: Record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found


def file_of(
    method: str, fitted: Fitted, made_for: Mapping[str, Any] | None, about: Mapping[str, Any]
) -> CalibrationData:
    """What is written."""
    return CalibrationData(method, fitted.data, made_for, about, fitted.figures)
