"""c4d: diffusion transformers made fast by not recomputing what can be predicted."""

from c4d import backends
from c4d.api import attention, cached
from c4d.core import methods
from c4d.core.grammar import MethodError
from c4d.core.spec import ModelSpec, Padding, Site, Stack
from c4d.core.types import CacheMethod, Rule

__version__ = "0.1.0"
__all__ = [
    "CacheMethod",
    "MethodError",
    "ModelSpec",
    "Padding",
    "Rule",
    "Site",
    "Stack",
    "attention",
    "backends",
    "cached",
    "methods",
]
