"""c4d: diffusion transformers made fast by not recomputing what can be predicted."""

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from c4d import backends as backends
    from c4d.api import accelerate as accelerate
    from c4d.api import attention as attention
    from c4d.api import budget as budget
    from c4d.api import cached as cached
    from c4d.api import disable as disable
    from c4d.api import enable as enable
    from c4d.api import encode_prompts as encode_prompts
    from c4d.api import memory as memory
    from c4d.api import rollout as rollout
    from c4d.api import sharded as sharded
    from c4d.backends import Backend as Backend
    from c4d.backends import BackendUnavailableError as BackendUnavailableError
    from c4d.backends import UnsupportedError as UnsupportedError
    from c4d.backends.kernels import Kernel as Kernel
    from c4d.backends.kernels import Limits as Limits
    from c4d.backends.reference import Reference as Reference
    from c4d.bundled.models import bundled_model as bundled_model
    from c4d.calibrate.errors import CalibrationError as CalibrationError
    from c4d.calibrate.tune import tune as tune
    from c4d.core.attention import Processor as Processor
    from c4d.core.caching.finite_differences import Hermite as Hermite
    from c4d.core.caching.finite_differences import Taylor as Taylor
    from c4d.core.caching.forecasters import LinearExtrapolation as LinearExtrapolation
    from c4d.core.caching.forecasters import Nothing as Nothing
    from c4d.core.caching.forecasters import Reuse as Reuse
    from c4d.core.caching.method import method as method
    from c4d.core.caching.policies import Accumulate as Accumulate
    from c4d.core.caching.policies import Bounded as Bounded
    from c4d.core.caching.policies import Interval as Interval
    from c4d.core.caching.policies import StepMask as StepMask
    from c4d.core.caching.profile import Profile as Profile
    from c4d.core.caching.profile import ProfileError as ProfileError
    from c4d.core.caching.rules import BlocksRule as BlocksRule
    from c4d.core.caching.rules import CacheMethod as CacheMethod
    from c4d.core.caching.rules import GuidanceRule as GuidanceRule
    from c4d.core.caching.rules import ModuleRule as ModuleRule
    from c4d.core.caching.rules import OutputRule as OutputRule
    from c4d.core.caching.rules import TokenRule as TokenRule
    from c4d.core.caching.selectors import Selector as Selector
    from c4d.core.example import Example as Example
    from c4d.core.integration.processor_patch import AttentionSession as AttentionSession
    from c4d.core.methods import METHODS
    from c4d.core.runtime.acceleration import Acceleration as Acceleration
    from c4d.core.runtime.report import Entry as Entry
    from c4d.core.runtime.report import Report as Report
    from c4d.core.runtime.session import Session as Session
    from c4d.core.runtime.steps import RunError as RunError
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
    from c4d.core.types import RelativeL1 as RelativeL1
    from c4d.core.types import Scale as Scale
    from c4d.core.types import Signal as Signal
    from c4d.core.types import Step as Step
    from c4d.core.types import Wrapper as Wrapper
    from c4d.inspection.maps import AttentionMap as AttentionMap
    from c4d.inspection.maps import AttentionMaps as AttentionMaps
    from c4d.inspection.maps import attention_maps as attention_maps
    from c4d.models import UnsupportedModelError as UnsupportedModelError
    from c4d.parallel import NoLauncherError as NoLauncherError
    from c4d.parallel import SequenceParallel as SequenceParallel
    from c4d.parallel.agree import DisagreementError as DisagreementError
    from c4d.parallel.session import Parallel as Parallel
    from c4d.parallel.watch import LostRankError as LostRankError

    methods = METHODS

__version__ = "0.1.0"
PLACES = {
    # Use it
    "accelerate": "c4d.api:accelerate",
    "enable": "c4d.api:enable",
    "disable": "c4d.api:disable",
    "cached": "c4d.api:cached",
    "attention": "c4d.api:attention",
    "sharded": "c4d.api:sharded",
    "memory": "c4d.api:memory",
    "rollout": "c4d.api:rollout",
    "encode_prompts": "c4d.api:encode_prompts",
    "budget": "c4d.api:budget",
    "tune": "c4d.calibrate.tune:tune",
    "attention_maps": "c4d.inspection.maps:attention_maps",
    "SequenceParallel": "c4d.parallel:SequenceParallel",
    "methods": "c4d.core.methods:METHODS",
    "backends": "c4d.backends:",
    "bundled_model": "c4d.bundled.models:bundled_model",
    # What that gives
    "Acceleration": "c4d.core.runtime.acceleration:Acceleration",
    "Profile": "c4d.core.caching.profile:Profile",
    "Session": "c4d.core.runtime.session:Session",
    "AttentionSession": "c4d.core.integration.processor_patch:AttentionSession",
    "Parallel": "c4d.parallel.session:Parallel",
    "AttentionMaps": "c4d.inspection.maps:AttentionMaps",
    "AttentionMap": "c4d.inspection.maps:AttentionMap",
    "Report": "c4d.core.runtime.report:Report",
    "Entry": "c4d.core.runtime.report:Entry",
    # Errors
    "MethodError": "c4d.core.text.grammar:MethodError",
    "RunError": "c4d.core.runtime.steps:RunError",
    "ProfileError": "c4d.core.caching.profile:ProfileError",
    "CalibrationError": "c4d.calibrate.errors:CalibrationError",
    "UnsupportedModelError": "c4d.models:UnsupportedModelError",
    "UnsupportedError": "c4d.backends:UnsupportedError",
    "BackendUnavailableError": "c4d.backends:BackendUnavailableError",
    "DisagreementError": "c4d.parallel.agree:DisagreementError",
    "NoLauncherError": "c4d.parallel:NoLauncherError",
    "LostRankError": "c4d.parallel.watch:LostRankError",
    # Write a method
    "method": "c4d.core.caching.method:method",
    "CacheMethod": "c4d.core.caching.rules:CacheMethod",
    "BlocksRule": "c4d.core.caching.rules:BlocksRule",
    "OutputRule": "c4d.core.caching.rules:OutputRule",
    "ModuleRule": "c4d.core.caching.rules:ModuleRule",
    "TokenRule": "c4d.core.caching.rules:TokenRule",
    "Selector": "c4d.core.caching.selectors:Selector",
    "GuidanceRule": "c4d.core.caching.rules:GuidanceRule",
    "Policy": "c4d.core.types:Policy",
    "Wrapper": "c4d.core.types:Wrapper",
    "Action": "c4d.core.types:Action",
    "Step": "c4d.core.types:Step",
    "Signal": "c4d.core.types:Signal",
    "RelativeL1": "c4d.core.types:RelativeL1",
    "Scale": "c4d.core.types:Scale",
    "Interval": "c4d.core.caching.policies:Interval",
    "StepMask": "c4d.core.caching.policies:StepMask",
    "Accumulate": "c4d.core.caching.policies:Accumulate",
    "Bounded": "c4d.core.caching.policies:Bounded",
    "LinearForecaster": "c4d.core.types:LinearForecaster",
    "FeatureForecaster": "c4d.core.types:FeatureForecaster",
    "Reuse": "c4d.core.caching.forecasters:Reuse",
    "Nothing": "c4d.core.caching.forecasters:Nothing",
    "Taylor": "c4d.core.caching.finite_differences:Taylor",
    "Hermite": "c4d.core.caching.finite_differences:Hermite",
    "LinearExtrapolation": "c4d.core.caching.forecasters:LinearExtrapolation",
    # Describe a model
    "ModelSpec": "c4d.core.spec:ModelSpec",
    "Example": "c4d.core.example:Example",
    "Stack": "c4d.core.spec:Stack",
    "Site": "c4d.core.spec:Site",
    "OutputOf": "c4d.core.spec:OutputOf",
    "AtEntry": "c4d.core.spec:AtEntry",
    "Padding": "c4d.core.spec:Padding",
    "ShardingPlan": "c4d.core.spec:ShardingPlan",
    "Processor": "c4d.core.attention:Processor",
    # Bring a backend
    "Backend": "c4d.backends:Backend",
    "Reference": "c4d.backends.reference:Reference",
    "Kernel": "c4d.backends.kernels:Kernel",
    "Limits": "c4d.backends.kernels:Limits",
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
