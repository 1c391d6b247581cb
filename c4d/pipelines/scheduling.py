"""Another scheduler for a pipeline, and how far its timesteps are shifted: ``--scheduler``, ``--shift``."""

from __future__ import annotations

import inspect
import math
from typing import Any

from c4d.core.runtime.schedulers import prediction_of
from c4d.pipelines.errors import InputError

SHIFTS = ("shift", "flow_shift")  # what schedulers call it
HANDED = {"sigmas", "mu"}  # that pipelines hand to set_timesteps
ASKED = {"self", "num_inference_steps", "device", "timesteps", *HANDED}  # others are of pipelines made for them
BEGINNING = "init_noise_sigma"  # of a scheduler: how large the noise is that it begins with
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def schedule(pipe: Any, name: str | None, shift: float | None) -> None:
    """Gives ``pipe``, a skeleton or not, the scheduler of diffusers called ``name`` (None: of its own class), made from
    the configuration of its own; and ``shift``, the factor by which noise levels of a flow are moved up.

    Raises :class:`InputError` for a class that does not fit what the model predicts and the pipeline hands it, and for
    a shift where there is none.
    """
    if name is None and shift is None:
        return
    if shift is not None and not (math.isfinite(shift) and shift > 0):
        raise InputError(f"shift is {shift!r}; allowed are finite numbers above 0")
    own = getattr(pipe, "scheduler", None)
    if own is None:
        raise InputError(f"{type(pipe).__name__} has no scheduler that could be exchanged: drop --scheduler, --shift")
    known = {cls.__name__: cls for cls in fitting(pipe)}
    if name is not None and name not in known:
        raise InputError(
            f"--scheduler {name!r} does not fit {type(pipe).__name__} (its own is {type(own).__name__}); known are "
            f"{', '.join(known)}"
        )
    cls: Any = type(own) if name is None else known[name]
    config, takes = dict(own.config), _parameters(cls)
    given = dict(FLOW) if prediction_of(own) == "flow" else {}
    mine = next((config[each] for each in SHIFTS if config.get(each) is not None), None)
    if (wanted := mine if shift is None else shift) is not None:
        given |= dict.fromkeys(SHIFTS, wanted)
    if shift is not None:
        if prediction_of(own) != "flow" or not any(each in takes for each in SHIFTS):
            raise InputError(f"--shift is of flows, and {cls.__name__} here is none with a shift: drop it")
        given["use_dynamic_shifting"] = False  # by the size of the picture, in place of this one
    config |= {each: value for each, value in given.items() if each in takes}
    pipe.scheduler = cls.from_config(config)


def fitting(pipe: Any) -> list[type]:
    """The scheduler classes of diffusers that can take the place of the scheduler of ``pipe``: made for what its model
    predicts, and for what the pipeline hands it."""
    import diffusers

    found = [getattr(diffusers, name) for name in dir(diffusers) if name.endswith("Scheduler")]
    classes = [cls for cls in found if inspect.isclass(cls) and issubclass(cls, diffusers.SchedulerMixin)]
    return [cls for cls in classes if cls is type(pipe.scheduler) or _fits(cls, pipe)]


def _fits(cls: type, pipe: Any) -> bool:
    own, takes = pipe.scheduler, _parameters(cls)
    mine, theirs = _parameters(own.set_timesteps), _parameters(cls.set_timesteps)  # type: ignore[attr-defined]
    handed = mine & HANDED if callable(pipe) and "sigmas" in _parameters(pipe.__call__) else set()
    if not handed <= theirs or not theirs <= ASKED or "Inverse" in cls.__name__:  # which makes noise of a picture
        return False
    if prediction_of(own) == "flow":
        return "use_flow_sigmas" in takes or (cls.__name__.startswith("FlowMatch") and "shift" in takes)
    return cls in getattr(own, "compatibles", ()) and {"prediction_type", "beta_start"} <= takes and _begins(cls, pipe)


def _begins(cls: Any, pipe: Any) -> bool:
    """Whether the pipeline makes its first noise as large as the scheduler says, or it says the same as its own."""
    functions = [inspect.unwrap(function) for _, function in inspect.getmembers(type(pipe), inspect.isfunction)]
    asks = any(BEGINNING in function.__code__.co_names for function in functions)
    return asks or getattr(cls.from_config(pipe.scheduler.config), BEGINNING, 1.0) == 1.0


def _parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)
