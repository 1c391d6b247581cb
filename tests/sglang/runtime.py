"""SGLang's diffusion runtime as far as a plugin meets it: a stand-in of c4d's own, or SGLang's own files.

SGLang cannot be imported whole without CUDA. ``stand_in()`` was written from how its loop calls the hooked methods, and
is there without a download. ``of_wheel(site)`` has SGLang's hook registry, plugin loader, denoising stage, guidance and
flow-matching schedulers, run as they are; of all other modules of SGLang there are stubs.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import pkgutil
import sys
import types
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar
from unittest.mock import MagicMock

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

ROOM = "sglang.multimodal_gen.runtime"
PIPELINES = f"{ROOM}.pipelines_core"
PLUGINS, DENOISING = f"{ROOM}.platforms.plugins", f"{PIPELINES}.stages.denoising"
POLICY, SCHEDULERS = f"{ROOM}.distributed.cfg_policy", f"{ROOM}.models.schedulers"
OWN = (
    "sglang.srt.plugins.hook_registry",
    *(PLUGINS, DENOISING, POLICY),
    *(f"{SCHEDULERS}.{name}" for name in ("base", "sigma_schedule", "unipc")),
    f"{SCHEDULERS}.scheduling_flow_match_euler_discrete",
    *(f"{SCHEDULERS}.scheduling_{name}_multistep" for name in ("flow_unipc", "dpm_solver")),
)


@contextmanager
def forgotten():
    """Modules of SGLang that are imported inside are gone afterwards, and so is who found them."""
    finders = list(sys.meta_path)
    try:
        yield
    finally:
        sys.meta_path[:] = finders
        for name in [name for name in sys.modules if name.split(".")[0] == "sglang"]:
            del sys.modules[name]


# -- the stand-in


class HookType(Enum):
    AROUND = "around"


def registry():
    class HookRegistry:
        hooks: ClassVar[list] = []

        @classmethod
        def register(cls, target, hook, hook_type):
            cls.hooks.append((target, hook, hook_type))

        @classmethod
        def apply_hooks(cls):
            for target, hook, hook_type in cls.hooks:
                assert hook_type is HookType.AROUND
                owner, _, name = target.rpartition(".")
                owner = pkgutil.resolve_name(owner)
                setattr(owner, name, wrapped(getattr(owner, name), hook))

    return HookRegistry


def wrapped(original, hook):
    @functools.wraps(original)
    def around(*args, **kwargs):
        return hook(original, *args, **kwargs)

    return around


@dataclass
class CFGBranch:
    name: str
    is_conditional: bool
    kwargs: dict[str, Any]

    def configure_batch(self, batch):
        batch.is_cfg_negative = not self.is_conditional


@dataclass
class CFGPolicy:
    branches: list[CFGBranch]


@dataclass
class DenoisingContext:
    scheduler: Any
    timesteps: torch.Tensor
    latents: torch.Tensor
    boundary_timestep: float | None
    guidance: Any
    is_warmup: bool
    cfg_policy: CFGPolicy
    target_dtype: torch.dtype


class _Stage:
    """What DenoisingStage does of which a plugin knows."""

    def __init__(self, transformer, scheduler, pipeline=None, transformer_2=None, vae=None):
        self.transformer, self.transformer_2, self.scheduler = transformer, transformer_2, scheduler
        self._cache_dit_enabled = False

    def forward(self, batch, server_args):
        return self._denoise(batch, server_args)

    @torch.no_grad()
    def _denoise(self, batch, server_args):
        ctx = self._prepare_denoising_loop(batch, server_args)
        self._run_denoising_loop(ctx, batch, server_args)
        self._finalize_denoising_loop(ctx, batch, server_args)
        return batch

    def _run_denoising_loop(self, ctx, batch, server_args, *, collect_trajectory=True):
        ctx.scheduler._step_index = ctx.scheduler._begin_index = None
        ctx.scheduler.set_begin_index(0)
        for t in ctx.timesteps:
            low = ctx.boundary_timestep is not None and int(t) < ctx.boundary_timestep
            self._run_denoising_step(ctx, (t, self.transformer_2 if low else self.transformer), batch, server_args)
        return ctx.timesteps.cpu()

    def _run_denoising_step(self, ctx, step, batch, server_args):
        t, model = step
        timestep = self.expand_timestep_before_forward(batch, server_args, t, ctx.target_dtype, None, None)
        noise = self._predict_noise_with_cfg(
            current_model=model,
            latent_model_input=ctx.latents.to(ctx.target_dtype),
            timestep=timestep,
            batch=batch,
            target_dtype=ctx.target_dtype,
            guidance=ctx.guidance,
            cfg_policy=ctx.cfg_policy,
        )
        ctx.latents = ctx.scheduler.step(noise, t, ctx.latents, return_dict=False)[0]

    def expand_timestep_before_forward(self, batch, server_args, t, dtype, seq_len, mask):
        return t.repeat(batch.raw_latent_shape[0])

    def _predict_noise_with_cfg(self, batch, cfg_policy, **given):
        outputs = []
        for branch in cfg_policy.branches:
            branch.configure_batch(batch)
            outputs.append(self._predict_noise(**given, **branch.kwargs))
        return outputs[0] if len(outputs) == 1 else outputs[1] + batch.guidance_scale * (outputs[0] - outputs[1])

    def _predict_noise(self, current_model, latent_model_input, timestep, target_dtype, guidance, **kwargs):
        return current_model(hidden_states=latent_model_input, timestep=timestep, **kwargs)


def stand_in():
    """Puts the stand-in where a plugin imports SGLang from."""
    for path in (PLUGINS, DENOISING):
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            module = sys.modules.setdefault(name, types.ModuleType(name))
            module.__path__ = []
            if end > 1:
                setattr(sys.modules[".".join(parts[: end - 1])], parts[end - 1], module)
    plugins, denoising = sys.modules[PLUGINS], sys.modules[DENOISING]
    plugins.HookRegistry, plugins.HookType = registry(), HookType
    denoising.DenoisingStage, sys.modules[PIPELINES].build_pipeline = (
        type("DenoisingStage", (), dict(vars(_Stage))),
        builder(),
    )
    return types.SimpleNamespace(
        own=False,
        pipelines=sys.modules[PIPELINES],
        plugins=plugins,
        Stage=denoising.DenoisingStage,
        Context=DenoisingContext,
        Policy=CFGPolicy,
        Branch=CFGBranch,
        Euler=FlowMatchEulerDiscreteScheduler,
    )


# -- SGLang's own files


class _Stub(types.ModuleType):
    """A module of which every name is something that takes any call."""

    __path__: ClassVar[list] = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        value = MagicMock(name=f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, site):
        self._site = site

    def find_spec(self, name, path, target=None):
        if name.split(".")[0] != "sglang":
            return None
        if name in OWN:
            return importlib.util.spec_from_file_location(name, self._site / f"{name.replace('.', '/')}.py")
        return importlib.util.spec_from_loader(name, self, is_package=True)

    def create_module(self, spec):
        return _Stub(spec.name)

    def exec_module(self, module):
        pass


class _Names(type):
    """A class that has every name."""

    def __getattr__(cls, name):
        return name


class _PipelineStage:
    """For SGLang's base class of stages: what a denoising loop asks of it."""

    device = torch.device("cpu")
    current_use_nvtx = False

    def __init__(self):
        self.server_args = server_args()
        self._component_residency_manager = MagicMock()

    def progress_bar(self, **_):
        return nullcontext(MagicMock())

    def _apply_nvtx_gate(self, is_warmup):
        return False

    def log_info(self, *_):
        pass

    def _finish_active_component_use(self):
        pass

    def _active_component_stage_name(self):
        return "denoising_stage"


def server_args():
    """Of a server on one device, without anything special."""
    config = MagicMock()
    config.dit_config.hidden_size, config.dit_config.num_attention_heads = 64, 2
    config.get_classifier_free_guidance_scale = lambda batch, scale: scale
    config.slice_noise_pred = lambda noise, latents: noise
    config.postprocess_cfg_noise = lambda batch, noise, conditional: noise
    off = ("enable_breakable_cuda_graph", "enable_torch_compile", "enable_cfg_parallel", "comfyui_mode")
    settings = {"pipeline_config": config, "disable_autocast": True, "disagg_role": "monolithic"}
    return types.SimpleNamespace(**settings, **dict.fromkeys(off, False))


def builder():
    """For SGLang's function ``build_pipeline``: what a test puts there is the pipeline.

    A new one each time, for SGLang puts the hooked function into every module that has the original.
    """
    return lambda server_args: server_args.make()


def of_wheel(site):
    """Has SGLang's own files found, and stubs for all that they import of it besides."""
    sys.meta_path.insert(0, _Finder(site))
    module = importlib.import_module
    module(f"{PIPELINES}.stages.base").PipelineStage = _PipelineStage
    platforms = module(f"{ROOM}.platforms")
    platforms.get_selected_platform_dist, platforms.PLATFORM_PLUGINS_GROUP = lambda: None, "sglang.platforms"
    module("sglang.srt.environ").envs.SGLANG_PLUGINS.get = lambda: ""
    denoising, policy, plugins = module(DENOISING), module(POLICY), module(PLUGINS)
    for name in ("precision_autocast_context", "maybe_nvtx_range", "StageProfiler", "set_forward_context"):
        setattr(denoising, name, lambda *_, **__: nullcontext())
    denoising.AttentionBackendEnum = _Names("AttentionBackendEnum", (), {})
    denoising.envs.SGLANG_CACHE_DIT_ENABLED = False
    denoising.envs.SGLANG_DIFFUSION_CFG_GATE_STEP = 1.0
    for name in ("should_apply_wan_ti2v", "world_group_is_initialized"):
        setattr(denoising, name, lambda *_: False)
    pipelines = module(PIPELINES)
    pipelines.build_pipeline = builder()
    return types.SimpleNamespace(
        own=True,
        pipelines=pipelines,
        plugins=plugins,
        Stage=denoising.DenoisingStage,
        Context=denoising.DenoisingContext,
        Policy=policy.CFGPolicy,
        Branch=policy.CFGBranch,
        Euler=module(f"{SCHEDULERS}.scheduling_flow_match_euler_discrete").FlowMatchEulerDiscreteScheduler,
        DPM=module(f"{SCHEDULERS}.scheduling_dpm_solver_multistep").DPMSolverMultistepScheduler,
        UniPC=module(f"{SCHEDULERS}.scheduling_flow_unipc_multistep").FlowUniPCMultistepScheduler,
    )
