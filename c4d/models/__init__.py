"""Model families as data: one file each; ``registry`` finds the spec of a transformer."""

from c4d.models.registry import SPECS, spec_for

__all__ = ["SPECS", "spec_for"]
