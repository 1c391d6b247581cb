"""Published checkpoints of distilled models, under their authors' names, onto the transformer of diffusers."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save_file

from c4d.causal.checkpoint import CheckpointError, load_checkpoint
from tests.pipes import transformer
from tests.tiny import WAN

NAMES = (  # of diffusers -> of Wan, as its checkpoints have them
    (r"condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"condition_embedder\.time_proj", "time_projection.1"),
    (r"\.norm2\.", ".norm3."),
    (r"attn1", "self_attn"),
    (r"attn2", "cross_attn"),
    (r"to_out\.0", "o"),
    (r"to_([qkv])\.", r"\1."),
    (r"ffn\.net\.0\.proj", "ffn.0"),
    (r"ffn\.net\.2", "ffn.2"),
    (r"proj_out", "head.head"),
    (r"^scale_shift_table", "head.modulation"),
    (r"scale_shift_table", "modulation"),
)


def of_wan(name):
    for pattern, there in NAMES:
        name = re.sub(pattern, there, name)
    return name


@pytest.fixture(scope="module")
def published():
    """A model's weights on the names of Wan."""
    return {of_wan(name): x for name, x in transformer(seed=5, **WAN).state_dict().items()}


def equal(model, other):
    return all(torch.equal(x, y) for x, y in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "prefix",
    ["model.", "model._fsdp_wrapped_module.", "module.model.", "_orig_mod.model._checkpoint_wrapped_module.", ""],
)
def test_the_average_is_taken_under_any_wrapper(tmp_path, published, prefix):
    path = tmp_path / "model.pt"
    average = {prefix + name: x for name, x in published.items()}
    torch.save({"generator": {name: 0 * x for name, x in average.items()}, "generator_ema": average}, path)
    model, want = transformer(seed=6, **WAN), transformer(seed=5, **WAN)
    assert not equal(model, want)
    loaded = load_checkpoint(model, path)
    assert equal(model, want)
    assert loaded.part == "generator_ema" and len(loaded.taken) == len(published) and not loaded.left
    assert loaded.taken[prefix + "blocks.0.self_attn.q.weight"] == "blocks.0.attn1.to_q.weight"
    assert loaded.lines()[1:] == ["not read: generator"]
    load_checkpoint(model, path, "generator")
    assert not any(x.any() for x in model.state_dict().values())


def test_weights_alone_and_names_of_diffusers(tmp_path, published):
    for i, state in enumerate((published, transformer(seed=5, **WAN).state_dict())):
        path = tmp_path / f"{i}.safetensors"
        save_file({name: x.contiguous() for name, x in state.items()}, path)
        model = transformer(seed=6, **WAN)
        assert load_checkpoint(model, path).part is None
        assert equal(model, transformer(seed=5, **WAN))


def test_what_does_not_fit_is_told_and_nothing_is_loaded(tmp_path, published):
    path = tmp_path / "model.pt"

    def fails(state, said, part=None):
        torch.save(state, path)
        model = transformer(seed=6, **WAN)
        with pytest.raises(CheckpointError, match=said):
            load_checkpoint(model, path, part)
        assert equal(model, transformer(seed=6, **WAN))

    less = {name: x for name, x in published.items() if "blocks.1." not in name}
    fails({"generator": less}, r"is without blocks\.1\..* and \d+ more: it is no checkpoint of this WanTransformer")
    wide = {name: x.repeat(2, *[1] * (x.ndim - 1)) if name == "head.head.bias" else x for name, x in published.items()}
    fails({"generator": wide}, r"has another shape of proj_out.bias \[32\] for \[16\]")
    fails({"generator": published}, "has no part 'generator_ema'; it has generator", "generator_ema")
    fails([1], "holds list, no tensors by name")
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(transformer(**WAN), path)
    with pytest.raises(CheckpointError, match="is no file"):
        load_checkpoint(transformer(**WAN), tmp_path / "absent.pt")


def test_what_the_transformer_has_no_place_for_is_left_out_and_named(tmp_path, published):
    path = tmp_path / "model.pt"
    torch.save({"generator": {**published, "freqs": torch.ones(3)}}, path)
    loaded = load_checkpoint(transformer(**WAN), path)
    assert loaded.left == ("freqs",)
    assert loaded.lines()[-1] == "left out, for the transformer has no such: freqs"
