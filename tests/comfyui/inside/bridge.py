"""The wrappers of ComfyUI, on an engine that is some days older than they are.

ComfyUI has them since December 2024, ``PREDICT_NOISE`` since August 2025, and the engine that PyPI has is of November
25th 2024. What is here was written anew from how ComfyUI's code of 2026 calls them: the same places, the same
arguments, the same owner of an executor, options that are made for a sampling and dropped with it. Samplers, schedules,
conditions and their batches, models and memory management are the engine's own.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import types
import uuid

import comfy.ldm.flux.model
import comfy.ldm.lightricks.model
import comfy.ldm.modules.diffusionmodules.mmdit
import comfy.ldm.modules.diffusionmodules.openaimodel
import comfy.model_base
import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers


class WrappersMP:
    OUTER_SAMPLE = "outer_sample"
    PREDICT_NOISE = "predict_noise"
    DIFFUSION_MODEL = "diffusion_model"


class Executor:
    """What a wrapper gets: called, it goes on with the next one, and at last with what they are around."""

    def __init__(self, original, class_obj, wrappers):
        self.original, self.class_obj, self.wrappers = original, class_obj, wrappers

    def __call__(self, *args, **kwargs):
        return run(self.original, self.class_obj, self.wrappers, *args, **kwargs)


def run(original, class_obj, wrappers, *args, **kwargs):
    if not wrappers:
        return original(*args, **kwargs)
    return wrappers[0](Executor(original, class_obj, wrappers[1:]), *args, **kwargs)


def all_of(kind, transformer_options):
    found = transformer_options.get("wrappers", {}).get(kind, {})
    return [wrapper for each in found.values() for wrapper in each]


def copy_nested_dicts(given):
    return {
        key: copy_nested_dicts(x) if isinstance(x, dict) else list(x) if isinstance(x, list) else x
        for key, x in given.items()
    }


def add_wrapper_with_key(kind, key, wrapper, transformer_options):
    transformer_options.setdefault("wrappers", {}).setdefault(kind, {}).setdefault(key, []).append(wrapper)


class Names:
    """A condition's identity, as a model condition: so it comes to the model in the order of the batch."""

    def __init__(self, names):
        self.names = names

    def process_cond(self, **_):
        return self

    def can_concat(self, other):
        return True

    def concat(self, others):
        return [name for each in (self, *others) for name in each.names]


def bridged(module):
    """The forward of a diffusion model's class inside its wrappers, called by position."""
    forward = module.forward
    signature = inspect.signature(forward)

    @functools.wraps(forward)
    def around(self, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        _, *given = bound.args
        wrappers = all_of(WrappersMP.DIFFUSION_MODEL, bound.arguments["transformer_options"])
        return run(functools.partial(forward, self), self, wrappers, *given, **bound.kwargs)

    module.forward = around


def build():
    extension = types.ModuleType("comfy.patcher_extension")
    extension.WrappersMP = WrappersMP
    extension.copy_nested_dicts, extension.add_wrapper_with_key = copy_nested_dicts, add_wrapper_with_key
    sys.modules[extension.__name__] = comfy.patcher_extension = extension

    patcher = comfy.model_patcher.ModelPatcher
    patcher.wrappers = types.MappingProxyType({})

    def add_to_patcher(self, kind, key, wrapper):
        held = {"wrappers": copy_nested_dicts(self.wrappers)}
        add_wrapper_with_key(kind, key, wrapper, held)
        self.wrappers = held["wrappers"]

    cloned = patcher.clone

    def clone(self):
        other = cloned(self)
        other.wrappers = copy_nested_dicts(self.wrappers)
        return other

    patcher.clone, patcher.add_wrapper_with_key = clone, add_to_patcher
    patcher.get_wrappers = lambda self, kind, key: self.wrappers.get(kind, {}).get(key, [])

    converted = comfy.sampler_helpers.convert_cond

    def convert_cond(cond):
        out = converted(cond)
        for each in out:
            each["uuid"] = uuid.uuid4()
            each["model_conds"] = {**each["model_conds"], "uuids": Names([each["uuid"]])}
        return out

    comfy.sampler_helpers.convert_cond = convert_cond

    applied = comfy.model_base.BaseModel.apply_model

    def apply_model(
        self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, uuids=(), **kw
    ):
        options = {**transformer_options, "uuids": list(uuids)}
        return applied(self, x, t, c_concat, c_crossattn, control, options, **kw)

    comfy.model_base.BaseModel.apply_model = apply_model

    guider = comfy.samplers.CFGGuider
    sampled = guider.sample

    def sample(
        self, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False, seed=None
    ):
        before = self.model_options
        options = copy.copy(before)
        options["transformer_options"] = {
            **before.get("transformer_options", {}),
            "wrappers": copy_nested_dicts(self.model_patcher.wrappers),
        }
        self.model_options = options
        try:
            wrappers = all_of(WrappersMP.OUTER_SAMPLE, options["transformer_options"])
            original = functools.partial(sampled, self)
            return run(
                original,
                self,
                wrappers,
                noise,
                latent_image,
                sampler,
                sigmas,
                denoise_mask,
                callback,
                disable_pbar,
                seed,
            )
        finally:
            self.model_options = before

    def call(self, x, timestep, model_options=types.MappingProxyType({}), seed=None):
        wrappers = all_of(WrappersMP.PREDICT_NOISE, self.model_options["transformer_options"])
        return run(self.predict_noise, self, wrappers, x, timestep, model_options, seed)

    guider.sample, guider.__call__ = sample, call
    bridged(comfy.ldm.flux.model.Flux)
    bridged(comfy.ldm.lightricks.model.LTXVModel)
    bridged(comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper)
    bridged(comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel)


build()
