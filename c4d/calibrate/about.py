"""With what something was calibrated, as its file tells it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

LIBRARIES = ("c4d", "torch", "diffusers", "transformers")


def about_sampling(scheduler: Any, prompts: Sequence[str], call: Mapping[str, Any]) -> dict[str, Any]:
    """Scheduler, shift, a hash of the prompts, versions, and the numbers and words that the pipeline is called with."""
    config = getattr(scheduler, "config", {})
    versions = dict[str, str]()
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return {
        "scheduler": type(scheduler).__name__,
        "shift": config.get("flow_shift", config.get("shift")),
        "prompts": hashlib.sha256("\n".join(prompts).encode()).hexdigest() if prompts else None,
        "versions": versions,
        **{key: value for key, value in call.items() if isinstance(value, int | float | str | bool)},
    }
