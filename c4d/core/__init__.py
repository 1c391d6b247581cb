"""The device-agnostic core: what to compute, what to forecast, and how that reaches an unmodified model."""
