"""The table of metrics: what each gives, and what is said of those that cannot be measured."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from c4d.metrics import scores
from c4d.metrics.networks import FRAMES, clip_score, lpips
from c4d.metrics.scores import METRICS, asked_for, loaded
from tests.networks import clip_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("clip")
    clip_model(made)
    return made


def frames(count=3, side=32, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_the_clip_score_is_the_cosine_of_each_frame_and_the_prompt(folder):
    from transformers import AutoTokenizer, CLIPModel

    model, words = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    clip, wanted = frames(FRAMES + 2), []
    mean, std = (torch.tensor(json.loads((folder / "processor_config.json").read_text())["image_processor"][name])
                 for name in ("image_mean", "image_std"))  # fmt: skip
    for frame in clip:  # of the very size that the model takes
        pixels = ((frame * 255).round() / 255 - mean[:, None, None]) / std[:, None, None]
        with torch.no_grad():
            out = model(**words("a red circle", return_tensors="pt"), pixel_values=pixels[None])
        wanted.append(100 * max(torch.cosine_similarity(out.image_embeds, out.text_embeds).item(), 0.0))
    score = clip_score(str(folder))
    assert score(clip, clip, "a red circle") == pytest.approx(sum(wanted) / len(wanted), rel=1e-4)
    assert score(clip, clip, "a red circle") > 1.0
    score(clip, clip, "a red circle moving left on a black background, and on and on " * 9)  # which is cut


def test_a_model_that_lacks_weights_gives_no_score(folder, tmp_path):
    """transformers would make them up."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = load_file(tmp_path / "model.safetensors")
    kept = {name: x for name, x in whole.items() if "projection" not in name}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks 2 weights of a CLIP model, such as text_projection"):
        clip_score(str(tmp_path))


class Distance(torch.nn.Module):
    """In the place of lpips.LPIPS: the authors' signature and shapes, [N, 3, H, W] to [N, 1, 1, 1]."""

    def __init__(self, net="alex", verbose=True):
        super().__init__()
        self.net = net
        assert not verbose

    def forward(self, one, other, normalize=False):
        assert one.shape[0] <= FRAMES and normalize, "pixels from 0 to 1"
        return (one - other).abs().mean((1, 2, 3), keepdim=True)


def test_lpips_is_the_mean_over_the_frames(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=Distance))
    one, other = frames(FRAMES + 5), frames(FRAMES + 5, seed=1)
    assert lpips("alex")(one, other, "") == pytest.approx((one - other).abs().mean().item())


def test_scales_of_torchmetrics():
    pytest.importorskip("torchmetrics")
    (measure,) = [each for each in loaded({})[0] if each.metric.name == "MS-SSIM"]
    clip, other = frames(2, 176), frames(2, 176, seed=1)
    mixed = 0.9 * clip + 0.1 * other
    assert measure(clip, clip, "") == pytest.approx(1.0, abs=1e-5)
    assert 0.999 > measure(mixed, clip, "") > measure(other, clip, "")
    assert measure(clip[..., :175], clip[..., :175], "") is None


def test_what_is_asked_for(folder):
    assert asked_for(["lpips", f"clip={folder}"]) == {"lpips": "alex", "clip": str(folder)}
    assert asked_for(["lpips=vgg"]) == {"lpips": "vgg"} and asked_for([]) == {}
    for words, says in (
        ("fid", "known are lpips, clip=…"), ("PSNR", "need no asking"), ("clip", "clip=… is a folder or hub id"),
        ("clip=", "clip=… is a folder"), ("lpips=resnet", "TORCH_HOME: alex, vgg, squeeze"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            asked_for([words])


def test_what_cannot_be_measured_is_said_and_never_stands_in(monkeypatch, folder):
    def broken(source):
        raise OSError("no weights\nhere")

    table = [replace(METRICS[0], package="no_such_package", install="it"), *METRICS[1:]]
    place = next(i for i, metric in enumerate(table) if metric.name == "LPIPS")
    table[place] = replace(table[place], package=None, load=broken)
    monkeypatch.setattr(scores, "METRICS", tuple(table))
    measures, lacking = loaded({"lpips": "vgg", "clip": str(folder)})
    assert lacking[table[0]] == "not installed here (pip install it)"
    said = lacking[table[place]]
    assert said.startswith("cannot be loaded (OSError: no weights here); --metrics lpips=… is the network, whose")
    assert {each.metric.name for each in measures}.isdisjoint({"PSNR", "LPIPS"})
    assert measures[-1].label == f"CLIP score ({folder})" and not measures[-1].metric.close
    names = [each.metric.name for each in loaded({})[0]]
    assert "CLIP score" not in names, "nobody asked for it"


def test_frames_that_are_too_small():
    (measure,) = [each for each in loaded({})[0] if each.metric.name == "SSIM"]
    assert measure(frames(side=7), frames(side=7), "") == 1.0 and measure(frames(side=6), frames(side=6), "") is None
