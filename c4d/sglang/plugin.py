"""The plugin ``c4d`` of SGLang's diffusion runtime: what is hooked there, if a method of c4d is asked for."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, NoReturn

from c4d.core.importing import importing

VARIABLE = "C4D_CACHE"
STAGE = "sglang.multimodal_gen.runtime.pipelines_core.stages.denoising.DenoisingStage"


def register() -> None:
    """Hooks a cache with the method that ``C4D_CACHE`` names on SGLang's denoising; unset or empty: does nothing.

    SGLang only logs what a plugin raises, and then serves without it. So a method that cannot be is an error where a
    denoising stage is made, which ends the server's start.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return
    with importing("sglang", "this plugin runs inside SGLang"):
        from sglang.multimodal_gen.runtime.platforms.plugins import HookRegistry, HookType
    try:
        from c4d.sglang.denoising import Cache  # brings torch, which is not for every process that looks for plugins

        hooks = Cache(text).hooks()
    except Exception as error:
        hooks = {"__init__": partial(_refuse, text, error)}
    for name, hook in hooks.items():
        HookRegistry.register(f"{STAGE}.{name}", hook, HookType.AROUND)


def _refuse(text: str, error: Exception, *call: Any, **kwargs: Any) -> NoReturn:
    raise RuntimeError(f"{VARIABLE}={text}: {error}") from error
