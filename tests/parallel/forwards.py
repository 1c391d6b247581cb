"""One forward on several ranks is that of one process: every model, and every shape that does not divide."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from c4d import SequenceParallel
from c4d.parallel import attention
from c4d.parallel.mesh import build
from tests.parallel.job import BOTH, CPU, WAYS, Case, bits, error, gathered, rank, same, sharded
from tests.tiny import CASES, qwen_inputs, rand, text
from tests.tiny import Case as Model

EXACT = 5e-6  # of fp32 predictions, whose largest are about 2


def words(batch: int, count: int) -> dict[str, Any]:
    return dict(encoder_hidden_states=rand(batch, count, 16, seed=1))


def vace(frames: int) -> Callable[[], dict[str, Any]]:
    return lambda: dict(**words(1, 12), control_hidden_states=3.0 * rand(1, 6, frames, 10, 10, seed=5))


def hunyuan(*rows: list[int]) -> Callable[[], dict[str, Any]]:
    """HunyuanVideo's inputs for one sample a mask."""

    def inputs() -> dict[str, Any]:
        return dict(
            **words(len(rows), len(rows[0])),
            encoder_attention_mask=torch.tensor(rows, dtype=torch.float32),
            pooled_projections=rand(len(rows), 8, seed=2),
            guidance=torch.full((len(rows),), 6000.0),
        )

    return inputs


def flux(
    batch: int, count: int, control: bool = False, rows: list[list[bool]] | None = None
) -> Callable[[], dict[str, Any]]:
    """FLUX's inputs; ``rows`` say which words are masked by arguments that go to its attentions."""
    given = torch.tensor(rows) if rows else None

    def inputs() -> dict[str, Any]:
        mask = None if given is None else dict(attention_mask=F.pad(given, (0, 15), value=True)[:, None, None])
        more = dict(
            controlnet_block_samples=[rand(batch, 15, 48, seed=5)],
            controlnet_single_block_samples=[rand(batch, 15, 48, seed=6), rand(batch, 15, 48, seed=7)],
        )
        return dict(
            **words(batch, count),
            pooled_projections=rand(batch, 8, seed=2),
            txt_ids=torch.arange(3.0 * count).reshape(count, 3),
            img_ids=torch.cartesian_prod(torch.zeros(1), torch.arange(3.0), torch.arange(5.0)),
            guidance=torch.full((batch,), 3.5),
            **({} if mask is None else dict(joint_attention_kwargs=mask)),
            **(more if control else {}),
        )

    return inputs


def hunyuan_image(first: tuple[int, ...], second: tuple[int, ...]) -> Callable[[], dict[str, Any]]:
    """HunyuanImage's inputs for texts of these lengths from its two encoders."""
    return lambda: dict(
        **text(*first, tokens=max(*first, 2)),
        **text(*second, tokens=6, seed=2, suffix="_2"),
        guidance=torch.full((len(first),), 3250.0),
        timestep_r=torch.full((len(first),), 400.0),
    )


def qwen(
    *images: tuple[int, int, int],
    lengths: tuple[int, ...] = (),
    batch: int = 1,
    rows: list[list[int]] | None = None,
    control: int = 0,
) -> Callable[[], dict[str, Any]]:
    """Qwen-Image's inputs; ``rows`` are masks with holes, ``control`` the number of tokens with residuals."""

    def inputs() -> dict[str, Any]:
        found = qwen_inputs(*images, lengths=lengths or (7,) * len(rows or ()), batch=batch)
        if rows:
            found["encoder_hidden_states"] = rand(len(rows), len(rows[0]), 16, seed=1)
            found["encoder_hidden_states_mask"] = torch.tensor(rows)
        if control:
            found["controlnet_block_samples"] = [rand(batch, control, 48, seed=5), rand(batch, control, 48, seed=6)]
        return found

    return inputs


def variants() -> dict[str, Model]:
    """Models of 4 heads by what is special about them; their tokens divide by 2 and by 4 only where it says so."""

    def of(name: str, **change: Any) -> Model:
        return replace(CASES[name], **change)

    odd, few = (1, 4, 3, 10, 10), (1, 4, 1, 2, 6)  # 75 tokens and 3
    pictures = (1, 3, 5), (1, 2, 3)  # of 15 and 6 tokens
    holes = [[1, 0, 1, 1, 0, 1, 0], [1, 1, 1, 0, 0, 1, 1]]
    return {
        "wan, even": of("wan-t2v"),
        "wan": of("wan-t2v", latents=odd),
        "wan, batch of 2": of("wan-t2v", latents=(2, *odd[1:]), inputs=lambda: words(2, 12)),
        "wan, 3 tokens": of("wan-t2v", latents=few),
        "wan, image": of("wan-i2v", latents=(1, 8, *odd[2:])),
        "wan, timesteps of each token": of("wan-ti2v", latents=odd),
        "wan, vace": of("wan-vace", latents=odd, inputs=vace(3)),
        "wan, vace with fewer hints": of("wan-vace", latents=odd, inputs=vace(2)),
        "hunyuan": of("hunyuan-t2v", latents=(1, 4, 3, 5, 5)),
        "hunyuan, mixed lengths of text": of(
            "hunyuan-t2v", latents=(2, 4, 3, 5, 5), inputs=hunyuan([1] * 6 + [0] * 6, [1] * 9 + [0] * 3)
        ),
        "hunyuan, text masked in the middle": of(
            "hunyuan-t2v", latents=(2, 4, 3, 5, 5), inputs=hunyuan([1, 0, 1, 1, 0, 1, 0], [1, 1, 1, 0, 0, 1, 1])
        ),
        "hunyuan, one word": of("hunyuan-t2v", latents=(1, 4, 3, 5, 5), inputs=hunyuan([1, 0, 0])),
        "hunyuan, 3 tokens": of("hunyuan-t2v", latents=(1, 4, 1, 1, 3)),
        "hunyuan, image": of("hunyuan-i2v-concat", latents=(1, 9, 3, 5, 5)),
        "hunyuan, first frame given": of("hunyuan-i2v-replace", latents=(1, 4, 3, 5, 5)),
        "flux": of("flux", latents=(1, 15, 16), inputs=flux(1, 7)),
        "flux, batch of 2": of("flux", latents=(2, 15, 16), inputs=flux(2, 7)),
        "flux, one word": of("flux", latents=(1, 15, 16), inputs=flux(1, 1)),
        "flux, controlnet": of("flux-controlnet", latents=(1, 15, 16), inputs=flux(1, 7, control=True)),
        "flux, text masked in the middle": of(
            "flux", latents=(2, 15, 16), inputs=flux(2, 7, rows=[list(map(bool, row)) for row in holes])
        ),
        "hunyuan-image, mixed lengths of text": of(
            "hunyuan-image-two-texts", latents=(2, 4, 3, 5), inputs=hunyuan_image((9, 4), (0, 3))
        ),
        "hunyuan-image, few words and tokens": of(
            "hunyuan-image-two-texts", latents=(1, 4, 1, 3), inputs=hunyuan_image((1,), (0,))
        ),
        "hunyuan-image, refiner": of("hunyuan-image-refiner", latents=(1, 8, 3, 3, 5)),
        "qwen": of("qwen", latents=(1, 15, 16), inputs=qwen(pictures[0])),
        "qwen, mixed lengths of text": of("qwen-masked", latents=(2, 15, 16), inputs=qwen(pictures[0], lengths=(9, 4))),
        "qwen, text masked in the middle": of("qwen-masked", latents=(2, 15, 16), inputs=qwen(pictures[0], rows=holes)),
        "qwen, one word and 3 tokens": of("qwen-masked", latents=(1, 3, 16), inputs=qwen((1, 1, 3), lengths=(1,))),
        "qwen, edit": of("qwen-edit", latents=(2, 21, 16), inputs=qwen(*pictures, lengths=(9, 4))),
        "qwen, controlnet": of("qwen-controlnet", latents=(1, 15, 16), inputs=qwen(pictures[0], control=15)),
    }


VARIANTS = variants()
HEADS = {1: 3, 2: 3, 4: 6}  # by how many ranks share them: heads that do not divide


@functools.cache
def alone(name: str, heads: int) -> tuple[Any, Tensor, Tensor]:
    """The model, what it is given, and what it makes of it in this process."""
    case = VARIANTS[name]
    extra = {"added_kv_proj_dim": 12 * heads} if name == "wan, image" else {}
    model = case.build(num_attention_heads=heads, **extra)
    x = rand(*case.latents, seed=3)
    return model, x, case.run(model, x, 500.0)


def spread(name: str, model: Any, how: SequenceParallel, case: Model, x: Tensor) -> Tensor:
    """A forward on all ranks; where text goes through the blocks too, its copies end as the same bits."""
    streams: list[Tensor] = []
    with sharded(model, how):
        if name.startswith(("hunyuan", "flux", "qwen")):
            place = 1 if name.startswith("hunyuan") else 0  # of the text in what a block returns
            last = (getattr(model, "single_transformer_blocks", None) or model.transformer_blocks)[-1]
            handle = last.register_forward_hook(lambda module, args, out: streams.append(out[place]))
        got = case.run(model, x, 500.0)
    if streams:
        handle.remove()
    same(bits(*streams, got))
    return got


def forward(name: str, how: SequenceParallel, heads: int) -> None:
    model, x, want = alone(name, heads)
    found = error(spread(name, model, how, VARIANTS[name], x), want)
    assert found <= EXACT, found


def narrow(name: str, how: SequenceParallel) -> None:
    """bf16: the error is that of bf16, not of the spreading, which may double what roundings there are by its own."""
    case = VARIANTS[name]
    _, x, truth = alone(name, 4)
    model = case.build(num_attention_heads=4).to(torch.bfloat16)
    inputs = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in case.inputs().items()}
    case = replace(case, inputs=lambda: inputs)
    want = case.run(model, x.to(torch.bfloat16), 500.0)
    far, usual = error(spread(name, model, how, case, x.to(torch.bfloat16)), truth), error(want, truth)
    assert far <= 2 * usual, (far, usual)


def exact_attention(how: SequenceParallel) -> None:
    """sp_attention alone, in fp64, for numbers of tokens, heads and words that no model here has."""
    backend = CPU
    kernels = attention.Kernels.of(backend)
    here, made = rank(), how.degrees(len(gathered(0)), node=4, heads=4, branches=1)
    mesh = build(made, here, backend.group, 60.0)
    for length, heads, count, kept in product((9, 5, 1), (4, 3, 1), (0, 1, 5), (None, (5, 2), (1, 0), (0, 0))):
        if kept is not None and count < 5:
            continue
        x, text = (
            [torch.stack([rand(n, heads, 6, seed=17 * i + b) for b in range(2)]).double() for i in range(at, at + 3)]
            for n, at in ((length, 0), (count, 3))
        )
        n = -(-length // made.world)
        mine = tuple(F.pad(y, (0, 0, 0, 0, 0, n * made.world - length))[:, here * n :][:, :n] for y in x)
        given = attention.Text(tuple(text), kept) if count else None
        out, said = attention.sp_attention(mine, length, kernels, mesh.ulysses, mesh.ring, given)
        mask = torch.ones(2, 1, 1, length + count, dtype=torch.bool)
        for sample, seen in enumerate(kept or ()):
            mask[sample, ..., length + seen :] = False
        q, k, v = (torch.cat(pair, 1) for pair in zip(x, text, strict=True))
        want = backend.attention(q, k, v, mask=mask, kernel="math")
        valid = max(0, min(n, length - here * n))
        shape = (length, heads, count, kept)
        assert valid == 0 or error(out[:, :valid], want[:, here * n :][:, :valid]) < 1e-6, shape
        assert said is None or error(said, want[:, length:]) < 1e-6, shape
        assert said is not None or not count, shape


# What depends on how tokens, heads and words are exchanged, on every way of spreading; the rest is cut and gathered
# alike on all.
EXCHANGED = (
    "wan",
    "wan, batch of 2",
    "wan, 3 tokens",
    "hunyuan, mixed lengths of text",
    "hunyuan, text masked in the middle",
    "hunyuan, one word",
    "hunyuan, 3 tokens",
    "flux",
    "flux, text masked in the middle",
    "qwen, mixed lengths of text",
    "qwen, edit",
)
THREE = ("wan", "hunyuan, mixed lengths of text", "flux")


def cases(world: int) -> dict[str, Case]:
    found: dict[str, Case] = {}
    for way, how in WAYS[world].items():
        for name in VARIANTS if way == BOTH[world] else EXCHANGED:
            found[f"{way}, {name}"] = functools.partial(forward, name, how, 4)
        heads = HEADS[how.ulysses or 1]
        for name in THREE:
            found[f"{way}, {name}, {heads} heads"] = functools.partial(forward, name, how, heads)
        for name in (*THREE[1:], "hunyuan, text masked in the middle"):
            found[f"{way}, {name}, bf16"] = functools.partial(narrow, name, how)
        found[f"{way}, attention alone"] = functools.partial(exact_attention, how)
    return found
