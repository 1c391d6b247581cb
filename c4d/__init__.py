"""c4d: diffusion transformers made fast by not recomputing what can be predicted."""

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from c4d import backends as backends
    from c4d.api import accelerate as accelerate
    from c4d.api import attention as attention
    from c4d.api import cached as cached
    from c4d.api import disable as disable
    from c4d.api import enable as enable
    from c4d.api import sharded as sharded
    from c4d.core.caching.method import method as method
    from c4d.core.caching.rules import BlocksRule as BlocksRule
    from c4d.core.caching.rules import CacheMethod as CacheMethod
    from c4d.core.caching.rules import ModuleRule as ModuleRule
    from c4d.core.caching.rules import OutputRule as OutputRule
    from c4d.core.methods import METHODS as METHODS
    from c4d.core.spec import AtEntry as AtEntry
    from c4d.core.spec import ModelSpec as ModelSpec
    from c4d.core.spec import OutputOf as OutputOf
    from c4d.core.spec import Padding as Padding
    from c4d.core.spec import ShardingPlan as ShardingPlan
    from c4d.core.spec import Site as Site
    from c4d.core.spec import Stack as Stack
    from c4d.core.text.grammar import MethodError as MethodError
    from c4d.core.types import Action as Action
    from c4d.core.types import FeatureForecaster as FeatureForecaster
    from c4d.core.types import LinearForecaster as LinearForecaster
    from c4d.core.types import Policy as Policy
    from c4d.core.types import Signal as Signal
    from c4d.parallel import SequenceParallel as SequenceParallel

    methods = METHODS

__version__ = "0.1.0"
PLACES = {
    "Action": "c4d.core.types:Action",
    "AtEntry": "c4d.core.spec:AtEntry",
    "BlocksRule": "c4d.core.caching.rules:BlocksRule",
    "CacheMethod": "c4d.core.caching.rules:CacheMethod",
    "MethodError": "c4d.core.text.grammar:MethodError",
    "FeatureForecaster": "c4d.core.types:FeatureForecaster",
    "LinearForecaster": "c4d.core.types:LinearForecaster",
    "ModelSpec": "c4d.core.spec:ModelSpec",
    "ModuleRule": "c4d.core.caching.rules:ModuleRule",
    "OutputOf": "c4d.core.spec:OutputOf",
    "OutputRule": "c4d.core.caching.rules:OutputRule",
    "Padding": "c4d.core.spec:Padding",
    "Policy": "c4d.core.types:Policy",
    "Signal": "c4d.core.types:Signal",
    "SequenceParallel": "c4d.parallel:SequenceParallel",
    "Site": "c4d.core.spec:Site",
    "ShardingPlan": "c4d.core.spec:ShardingPlan",
    "Stack": "c4d.core.spec:Stack",
    "accelerate": "c4d.api:accelerate",
    "attention": "c4d.api:attention",
    "backends": "c4d.backends:",
    "cached": "c4d.api:cached",
    "disable": "c4d.api:disable",
    "enable": "c4d.api:enable",
    "method": "c4d.core.caching.method:method",
    "methods": "c4d.core.methods:METHODS",
    "sharded": "c4d.api:sharded",
}
__all__ = [*PLACES]

if not TYPE_CHECKING:  # to a type checker it would make every name a public one

    def __getattr__(name: str) -> Any:
        """Public names are imported when asked for: they need torch, and ``c4d doctor`` runs where torch cannot be."""
        if name not in PLACES:
            raise AttributeError(f"module 'c4d' has no attribute {name!r}: public are {', '.join(PLACES)}")
        return resolve_name(PLACES[name])


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES})
