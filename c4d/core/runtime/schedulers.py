"""What the class and the configuration of a scheduler tell, before it steps."""

from __future__ import annotations

from typing import Any

PREDICTIONS = {"flow_prediction": "flow", "epsilon": "epsilon", "v_prediction": "v"}


def prediction_of(scheduler: Any) -> str | None:
    """What the model of this scheduler predicts ("flow", "epsilon" or "v"); None where it does not say it."""
    config = getattr(scheduler, "config", {})
    flow = any(cls.__name__.startswith("FlowMatch") for cls in type(scheduler).__mro__)
    if flow or config.get("use_flow_sigmas"):
        return "flow"
    return PREDICTIONS.get(str(config.get("prediction_type")))


def adds_noise(scheduler: Any) -> bool:
    """Whether its configuration, or its class, says that its steps draw noise."""
    config, name = getattr(scheduler, "config", {}), type(scheduler).__name__
    drawn = config.get("stochastic_sampling") or str(config.get("algorithm_type", "")).startswith("sde")
    return bool(drawn) or any(part in name for part in ("Ancestral", "SDE", "DDPM", "LCM", "TCD"))
