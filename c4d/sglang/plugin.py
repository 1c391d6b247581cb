"""The plugin ``c4d`` of SGLang's diffusion runtime: what is hooked there, if a method of c4d is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from c4d.core.importing import importing

VARIABLE = "C4D_CACHE"
PIPELINES = "sglang.multimodal_gen.runtime.pipelines_core"
BUILD, STAGE = f"{PIPELINES}.build_pipeline", f"{PIPELINES}.stages.denoising.DenoisingStage"


def register() -> None:
    """Hooks a cache with the method that ``C4D_CACHE`` names on SGLang's denoising; unset or empty: does nothing.

    SGLang only logs what a plugin raises, and then serves without it. So a method that cannot be is an error where the
    pipeline is built, which ends the server's start.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return
    with importing("sglang", "this plugin runs inside SGLang"):
        from sglang.multimodal_gen.runtime.platforms.plugins import HookRegistry, HookType
    try:
        from c4d.sglang.denoising import Cache  # brings torch, which is not for every process that looks for plugins

        cache = Cache(text)
        hooks: dict[str, Callable[..., Any]] = {
            BUILD: cache.build,
            f"{STAGE}.__init__": cache.make,
            f"{STAGE}._run_denoising_loop": cache.run,
            f"{STAGE}._predict_noise": cache.predict,
        }
    except Exception as error:
        hooks = {BUILD: partial(_refuse, text, error)}
    for target, hook in hooks.items():
        HookRegistry.register(target, hook, HookType.AROUND)


def _refuse(text: str, error: Exception, *call: Any, **kwargs: Any) -> NoReturn:
    raise RuntimeError(f"{VARIABLE}={text}: {error}") from error
