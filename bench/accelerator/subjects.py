"""Transformers of their published sizes with random weights, made on the device, and their inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.accelerator.machine import Machine

SCALE = 0.02  # of matrices; norms are 1 and biases 0, so that nothing overflows however deep the model is


@dataclass(frozen=True)
class Size:
    """A class of diffusers with its configuration; ``latents`` and ``text`` tokens of a request; what drives it.

    ``stacks`` are its lists of blocks, ``query`` the module of each block that computing it calls once. ``branches``
    are the forwards of a step. ``cache_dit`` names what its adapter needs to know.
    """

    cls: str
    config: Mapping[str, Any]
    latents: tuple[int, ...]
    text: int
    stacks: tuple[str, ...]
    query: str
    pattern: str
    branches: tuple[str, ...] = ("cond",)


WAN = {"in_channels": 16, "out_channels": 16, "qk_norm": "rms_norm_across_heads"}
WAN_1 = {**WAN, "num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30}
SMALL = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 3}
BOTH = ("transformer_blocks", "single_transformer_blocks")
GUIDED = ("cond", "uncond")
FLUX, WAN3D, HUNYUAN = "FluxTransformer2DModel", "WanTransformer3DModel", "HunyuanVideoTransformer3DModel"
SIZES = {
    # Published configurations: what they leave out is the class's default.
    "flux": Size(FLUX, {"guidance_embeds": True}, (1, 4096, 64), 512, BOTH, "attn.to_q", "Pattern_1"),
    "wan": Size(WAN3D, WAN_1, (1, 16, 21, 60, 104), 512, ("blocks",), "attn1.to_q", "Pattern_2", GUIDED),
    "wan14b": Size(WAN3D, WAN, (1, 16, 21, 90, 160), 512, ("blocks",), "attn1.to_q", "Pattern_2"),
    "hunyuan": Size(HUNYUAN, {}, (1, 16, 33, 90, 160), 256, BOTH, "attn.to_q", "Pattern_0"),
}
SMALL_FLUX = {"in_channels": 16, "num_single_layers": 3, "joint_attention_dim": 32, "pooled_projection_dim": 16}
SMALL_WAN = {**WAN, **SMALL, "ffn_dim": 64, "text_dim": 32, "freq_dim": 32, "rope_max_seq_len": 64}
SMALL_HUNYUAN = {"num_single_layers": 3, "num_refiner_layers": 1, "text_embed_dim": 32, "pooled_projection_dim": 16}
AXES = (4, 6, 6)
TINY = {
    "flux": Size(
        FLUX, {**SMALL, **SMALL_FLUX, "guidance_embeds": True, "axes_dims_rope": AXES}, (1, 16, 16), 8, BOTH,
        "attn.to_q", "Pattern_1",
    ),
    "wan": Size(WAN3D, SMALL_WAN, (1, 16, 2, 8, 8), 8, ("blocks",), "attn1.to_q", "Pattern_2", GUIDED),
    "wan14b": Size(WAN3D, SMALL_WAN, (1, 16, 2, 8, 8), 8, ("blocks",), "attn1.to_q", "Pattern_2"),
    "hunyuan": Size(
        HUNYUAN, {**SMALL, **SMALL_HUNYUAN, "rope_axes_dim": AXES}, (1, 16, 2, 8, 8), 8, BOTH, "attn.to_q",
        "Pattern_0",
    ),
}  # fmt: skip


class Subject:
    """A model on the device and the inputs of one request; ``ran`` counts the blocks that were computed."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.size = (TINY if machine.rehearsal else SIZES)[name]
        self.machine = machine
        self.dtype = torch.bfloat16 if not machine.rehearsal else torch.float32
        self.before = machine.allocated()
        self.model: Any = made(machine, self.size, self.dtype)
        self.latents = machine.rand(*self.size.latents, dtype=torch.float32)
        self.inputs = self._inputs()
        self.held = machine.allocated() - self.before
        self.weights = sum(p.nbytes for p in self.model.parameters())
        self.ran = 0
        for path in self.size.stacks:
            for block in getattr(self.model, path):
                block.get_submodule(self.size.query).register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.ran += 1

    @property
    def blocks(self) -> int:
        return sum(len(getattr(self.model, path)) for path in self.size.stacks)

    def hidden(self) -> int:
        """Bytes of what enters the module after the blocks."""
        seen: list[int] = []
        handle = self.model.norm_out.register_forward_pre_hook(lambda module, args: seen.append(args[0].nbytes))
        with self.emptied():
            self.call(self.latents, torch.full((1,), 500.0, device=self.machine.device), "cond")
        handle.remove()
        return seen[0]

    @contextmanager
    def emptied(self) -> Iterator[None]:
        """The model without its blocks: embedding and head."""
        with self.untouched():
            for path in self.size.stacks:
                setattr(self.model, path, nn.ModuleList())
            yield

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Afterwards takes away what a system leaves when it is switched off: forwards and marks of its own, other
        lists of blocks, the lists in another order (of which diffusers' hooks take the first block)."""
        children = dict(self.model._modules)
        own = {module: dict(module.__dict__) for module in self.model.modules()}
        try:
            yield
        finally:
            self.model._modules.clear()
            self.model._modules.update(children)
            for module, before in own.items():
                # diffusers' registry of hooks remembers the registries below it, of which some now go.
                for name in (module.__dict__.keys() - before.keys()) | ({"_diffusers_hook"} & module.__dict__.keys()):
                    del module.__dict__[name]
                if "forward" in before:
                    module.__dict__["forward"] = before["forward"]

    def call(self, x: Tensor, t: Tensor, branch: str) -> Tensor:
        """One pass; ``t`` in thousandths, as schedulers give it."""
        x = x.to(self.dtype)
        with self.model.cache_context(branch):
            if self.size.cls == FLUX:
                out = self.model(hidden_states=x, timestep=t / 1000, return_dict=False, **self.inputs)
            else:
                out = self.model(hidden_states=x, timestep=t, return_dict=False, **self.inputs)
        result: Tensor = out[0]
        return result

    def _inputs(self) -> dict[str, Tensor]:
        config, machine = self.model.config, self.machine
        width = {FLUX: "joint_attention_dim", WAN3D: "text_dim", HUNYUAN: "text_embed_dim"}[self.size.cls]
        text = machine.rand(1, self.size.text, config[width], dtype=self.dtype, seed=1)
        if self.size.cls == WAN3D:
            return {"encoder_hidden_states": text}
        pooled = machine.rand(1, config.pooled_projection_dim, dtype=self.dtype, seed=2)
        inputs = {"encoder_hidden_states": text, "pooled_projections": pooled}
        if self.size.cls == HUNYUAN:
            ones = torch.ones(1, self.size.text, dtype=self.dtype, device=machine.device)
            guidance = torch.full((1,), 6000.0, dtype=self.dtype, device=machine.device)
            return {**inputs, "encoder_attention_mask": ones, "guidance": guidance}
        side = int(self.size.latents[1] ** 0.5)
        ids = torch.zeros(side, side, 3)
        ids[..., 1], ids[..., 2] = torch.arange(side)[:, None], torch.arange(side)
        return {
            **inputs,
            "guidance": torch.full((1,), 3.5, device=machine.device),
            "txt_ids": torch.zeros(self.size.text, 3, device=machine.device),
            "img_ids": ids.reshape(-1, 3).to(machine.device),
        }


def made(machine: Machine, size: Size, dtype: torch.dtype) -> Any:
    """Parameters never exist on the host; buffers (tables of angles) are as the class computes them."""
    import diffusers
    from accelerate import init_empty_weights

    cls = getattr(diffusers, size.cls)
    with init_empty_weights(include_buffers=False):
        model = cls(**size.config)
    generator = machine.generator()
    exact = tuple(getattr(cls, "_keep_in_fp32_modules", None) or ())  # loading keeps these in fp32 too
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                own = torch.float32 if any(part in exact for part in [*path.split("."), name]) else dtype
                x = torch.empty(parameter.shape, dtype=own, device=machine.device)
                fill: Callable[[Tensor], Any] = torch.Tensor.zero_ if name == "bias" else lambda x: x.fill_(1)
                x.normal_(0, SCALE, generator=generator) if x.ndim > 1 else fill(x)
                module._parameters[name] = nn.Parameter(x, requires_grad=False)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(machine.device)
    return model.eval()
