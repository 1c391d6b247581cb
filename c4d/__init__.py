"""c4d: diffusion transformers made fast by not recomputing what can be predicted."""

from c4d import backends
from c4d.api import cached
from c4d.core import methods
from c4d.core.grammar import MethodError
from c4d.core.types import CacheMethod, ModelSpec, Rule, Site, Stack

__version__ = "0.1.0"
__all__ = ["CacheMethod", "MethodError", "ModelSpec", "Rule", "Site", "Stack", "backends", "cached", "methods"]
