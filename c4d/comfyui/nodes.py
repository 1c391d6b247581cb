"""The nodes of ComfyUI: a cache by its text, a cache by a profile, and what a cache did."""

from __future__ import annotations

from typing import Any

from c4d.comfyui.sampling import Cache
from c4d.core.caching.profiles import QUALITIES, named
from c4d.core.runtime.choice import AUTO
from c4d.models.stand_in import of_outputs

CACHE = "C4D_CACHE"  # the type of what goes from a cache to its report
DEFAULT = "taylorseer-lite:interval=3,last=1"
BY_QUALITY = 0


class CachingNode:
    """What gives a model with a cache, and that cache: what ComfyUI is to know of such nodes."""

    CATEGORY = "c4d"
    FUNCTION = "hung_on"
    RETURN_TYPES = ("MODEL", CACHE)
    RETURN_NAMES = ("model", "cache")


class CacheNode(CachingNode):
    """A model that is sampled with a method, by its text."""

    DESCRIPTION = "On most steps of a sampling the model is skipped, and its output is made of those of earlier steps."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        known = f"{AUTO}, or a method as c4d takes it ({', '.join(of_outputs())}, and others with @output)"
        method = ("STRING", {"default": DEFAULT, "tooltip": known})
        return {"required": {"model": ("MODEL", {}), "method": method}}

    @classmethod
    def VALIDATE_INPUTS(cls, method: str | None) -> bool | str:
        try:
            if method is not None:  # else another node gives it, which has not run yet
                Cache(method)
        except ValueError as error:
            return str(error)
        return True

    def hung_on(self, model: Any, method: str) -> tuple[Any, Cache]:
        cache = Cache(method)
        return cache.hung_on(model), cache


class ProfileNode(CachingNode):
    """The same with a profile, of those that are found."""

    DESCRIPTION = "A profile says which steps are computed, and how the outputs between are made; c4d tune makes one."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        profile = (
            [AUTO, *named()],
            {"tooltip": f"{AUTO} is the universal profile where that was measured, else nothing"},
        )
        computed = {"default": BY_QUALITY, "min": BY_QUALITY, "tooltip": "steps that are computed; 0: by the quality"}
        given = {"model": ("MODEL", {}), "profile": profile, "quality": (list(QUALITIES), {"default": "balanced"})}
        return {"required": {**given, "computed": ("INT", computed)}}

    @classmethod
    def IS_CHANGED(cls, profile: str, **_: Any) -> int | None:
        """Another value once c4d tune has made the profile anew: else ComfyUI keeps what the node gave before."""
        path = named().get(profile)
        return None if path is None else path.stat().st_mtime_ns

    def hung_on(self, model: Any, profile: str, quality: str, computed: int) -> tuple[Any, Cache]:
        how = f"quality={quality}" if computed == BY_QUALITY else f"computed={computed}"
        if profile == AUTO and computed != BY_QUALITY:
            raise ValueError(f"{AUTO} goes by the quality: leave computed at 0, or take a profile by its name")
        cache = Cache(AUTO, quality) if profile == AUTO else Cache(f"profile:{profile},{how}")
        return cache.hung_on(model), cache


class ReportNode:
    """What a cache did in its last sampling, as text; the latents that came of that go through, and say the order."""

    CATEGORY = "c4d"
    DESCRIPTION = "Which steps of the last sampling were computed, and which were made of earlier ones."
    FUNCTION = "report"
    RETURN_TYPES = ("LATENT", "STRING")
    RETURN_NAMES = ("samples", "report")
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples": ("LATENT", {}), "cache": (CACHE, {})}}

    def report(self, samples: Any, cache: Cache) -> dict[str, Any]:
        text = "this cache has seen no sampling" if cache.report is None else str(cache.report)
        return {"ui": {"text": [text]}, "result": (samples, text)}


NODE_CLASS_MAPPINGS = {"C4DCache": CacheNode, "C4DProfile": ProfileNode, "C4DReport": ReportNode}
NODE_DISPLAY_NAME_MAPPINGS = {
    "C4DCache": "c4d cache",
    "C4DProfile": "c4d cache (profile)",
    "C4DReport": "c4d report",
}
