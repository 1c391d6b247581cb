"""What a pipeline is given besides a prompt, and what of a model: files, strength, LoRAs, schedulers, lines of JSON."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from c4d.backends import load
from c4d.cli.options import Options
from c4d.cli.prompts import read_prompts, requests_of
from c4d.pipelines import (
    Files,
    InputError,
    Lora,
    Request,
    call_arguments,
    check_loras,
    effective,
    load_pipeline,
    schedule,
    skeleton,
)
from c4d.pipelines.film import pictures
from c4d.pipelines.generate import as_one
from c4d.pipelines.output import write_clip
from tests.cli.conftest import PROMPT, QUICK
from tests.pipes import stable_diffusion, text_to_video, two_experts, wan_parts


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A picture, a second one, and films of 9 and 5 frames."""
    folder = tmp_path_factory.mktemp("given")
    for name, colour in (("a", (200, 30, 30)), ("b", (30, 200, 30))):
        Image.new("RGB", (64, 32), colour).save(folder / f"{name}.png")
    for length in (9, 5):
        write_clip(folder, f"film{length}", torch.rand(length, 3, 256, 256), 8)
    return folder


class Bare:
    """Pipelines with nothing but a call."""

    transformer = SimpleNamespace(config={})
    vae_scale_factor_temporal = 4


class Edit(Bare):
    def __call__(self, image=None, prompt=None): ...


class Refer(Bare):
    def __call__(self, prompt=None, reference_images=None, video=None, mask=None, num_frames=81): ...


class Change(Bare):
    def __call__(self, video=None, prompt=None, strength: float = 0.8, num_inference_steps=10): ...


class GoOn(Bare):
    def __call__(self, prompt=None, image=None, video=None, last_image=None, num_frames=81): ...


class Paint(Bare):
    def __call__(self, prompt=None, image=None, mask_image=None, control_image=None, strength: float = 0.6): ...


class Pose(Bare):
    def __call__(
        self, image=None, pose_video=None, prompt=None, mode: str = "animate", task="", true: bool = False, eta=0.0,
        latents=None, prompt_embeds=None, sigmas=None, **more,
    ): ...  # fmt: skip


class Layout(Bare):
    def __call__(self, prompt=None, video: torch.Tensor | None = None, frames=81): ...


def arguments(pipe, **more):
    return call_arguments(pipe(), Request("a cat", **more))


class TestArguments:
    def test_one_picture_or_several(self, given):
        a, b = given / "a.png", given / "b.png"
        assert arguments(Edit, image=a)["image"].size == (64, 32)
        assert Request("a cat", image=(a,)) == Request("a cat", image=a)
        assert [each.getpixel((0, 0)) for each in arguments(Edit, image=(a, b))["image"]] == [
            (200, 30, 30),
            (30, 200, 30),
        ]
        assert len(arguments(Refer, image=a)["reference_images"]) == 1  # a list, also of one
        for pipe in (GoOn, Paint):
            with pytest.raises(InputError, match=f"{pipe.__name__} begins with one picture, and 2 are given"):
                arguments(pipe, image=(a, b))

    def test_what_no_signature_tells(self, given):
        request = Request("a cat", image=(given / "a.png", given / "b.png"))
        said = r"Edit makes nothing of 2 images .RuntimeError: shapes.*give one"
        with pytest.raises(InputError, match=said), as_one(Edit(), request):
            raise RuntimeError("shapes")
        with pytest.raises(RuntimeError, match="shapes"), as_one(Edit(), Request("a cat")):
            raise RuntimeError("shapes")
        said = r"Edit makes nothing of --argument eta .ValueError: not with this.*leave it out"
        with pytest.raises(InputError, match=said), as_one(Edit(), Request("a cat", argument=("eta=1",))):
            raise ValueError("not with this")

    def test_names_of_every_pipeline(self, given):
        a = given / "a.png"
        found = arguments(Paint, image=a, mask=a, control=a, strength=0.5)
        assert found["mask_image"].mode == "L" and found["control_image"].mode == "RGB" and found["strength"] == 0.5
        assert arguments(GoOn, image=a, last_image=a)["last_image"].size == (64, 32)
        assert effective(Layout(), Request("a cat"))["num_frames"] == 81
        with pytest.raises(InputError, match=r"Edit takes no --last-image and no --video and no --mask; .*--image"):
            arguments(Edit, last_image=a, video=a, mask=a)

    def test_a_film_is_the_clip_frame_by_frame(self, given):
        nine, five = given / "film9.mp4", given / "film5.mp4"
        found = arguments(Refer, video=nine, mask=nine)
        assert found["num_frames"] == 9 and {len(found["video"]), len(found["mask"])} == {9}
        assert found["mask"][0].mode == "L" and found["video"][0].size == (256, 256)
        assert len(arguments(Change, video=nine, num_frames=5)["video"]) == 5  # which has no argument of that name
        with pytest.raises(InputError, match=r"differ in length .video has 9 frames, mask has 5"):
            arguments(Refer, video=nine, mask=five)
        with pytest.raises(InputError, match="--frames 9 is more than there is: video has 5"):
            arguments(Change, video=five, num_frames=9)
        with pytest.raises(InputError, match=r"6 frames do not fit Change: .*5 and 9"):
            arguments(Change, video=nine, num_frames=6)

    def test_or_what_the_clip_goes_on_from(self, given):
        found = arguments(GoOn, video=given / "film5.mp4", num_frames=9)
        assert found["num_frames"] == 9 and len(found["video"]) == 5

    def test_a_layout_that_only_the_model_knows(self, given):
        with pytest.raises(InputError, match=r"Layout takes video as a tensor .*--video cannot give"):
            arguments(Layout, video=given / "film5.mp4")

    def test_what_no_option_gives_by_its_own_name(self, given):
        a, five = given / "a.png", given / "film5.mp4"
        found = arguments(Pose, image=a, argument=(f"pose_video=@{five}", "eta=0.5", "mode=replace", "true=true"))
        assert len(found["pose_video"]) == 5 and found["eta"] == 0.5 and found["mode"] == "replace" and found["true"]
        told = Request("a cat", argument=("eta=0.5", f"pose_video=@{five}")).to_dict()
        assert len(told["argument_pose_video_sha256"]) == 64 and json.loads(json.dumps(told)) == told
        assert Request("a cat", argument=()) == Request("a cat")
        for wrong, said in (
            ("size=3", "Pose takes no --argument size; it takes pose_video, mode, task, true, eta$"),
            ("more=3", "Pose takes no --argument more"),
            ("sigmas=[1, 0.5]", "--argument sigmas: steps are counted, and compared, by --steps"),
            ("image=@a", "--argument image: '/?a' is no file|a' is no file"),
            (f"image=@{a}", "--argument image: --image gives it"),
            ("latents=1", "takes no --argument latents"),
            ("generator=1", "takes no --argument generator"),
            ("eta=much", "eta is 'much'; Pose takes a number, such as 0"),
            ("true=1", "true is 1; Pose takes true or false"),
            ("eta=NaN", "NaN is no value"),
            ("task=[1, 1e999]", "1e999 is no value"),
            ("eta=" + 5000 * "9", "too long or too deep a value"),
            ("task=" + 99999 * "[", "too long or too deep a value"),
            ("pose_video=@~nobody-here/a.png", "'~nobody-here/a.png' is no file"),
            ("eta", "NAME=VALUE"),
        ):
            with pytest.raises(InputError, match=said):
                arguments(Pose, image=a, argument=(wrong,))
        with pytest.raises(InputError, match="one of them twice"):
            arguments(Pose, image=a, argument=("eta=1", "eta=2"))

    def test_strength_departs_from_something(self, given):
        with pytest.raises(InputError, match="Change departs from what it is given, by --strength: give --video"):
            arguments(Change)
        with pytest.raises(InputError, match=r"--strength 0.01 of 10 steps leaves none"):
            arguments(Change, video=given / "film5.mp4", strength=0.01)
        for wrong in (0.0, 1.5, float("nan")):
            with pytest.raises(InputError, match="above 0 up to 1"):
                Request("a cat", strength=wrong)

    def test_what_is_no_film(self, given, tmp_path):
        (tmp_path / "a.mp4").write_text("words")
        with pytest.raises(InputError, match=r"video .*a.mp4' cannot be read .*give a film or a picture"):
            arguments(Change, video=tmp_path / "a.mp4")
        with pytest.raises(InputError, match="mask '/no/such' is no file"):
            Request("a cat", mask=Path("/no/such"))
        assert len(pictures(given / "a.png")) == 1

    def test_files_are_known_by_their_bytes(self, given):
        told = Request("a cat", image=(given / "a.png", given / "b.png"), video=given / "film5.mp4").to_dict()
        assert len(set(told["image_sha256"])) == 2 and len(told["video_sha256"]) == 64
        assert json.loads(json.dumps(told)) == told


# -- schedulers


def test_another_scheduler():
    pipe = skeleton("wan-tiny")
    schedule(pipe, "FlowMatchEulerDiscreteScheduler", None)
    assert type(pipe.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler" and pipe.scheduler.config.shift == 3.0
    schedule(pipe, "DPMSolverMultistepScheduler", 5.0)
    config = pipe.scheduler.config
    assert (config.flow_shift, config.use_flow_sigmas, config.prediction_type) == (5.0, True, "flow_prediction")
    schedule(pipe, None, 7.0)
    assert type(pipe.scheduler).__name__ == "DPMSolverMultistepScheduler" and pipe.scheduler.config.flow_shift == 7.0


def test_a_shift_takes_the_place_of_one_by_size():
    pipe = skeleton("flux-tiny")
    pipe.scheduler.register_to_config(use_dynamic_shifting=True)
    schedule(pipe, None, 2.0)
    assert pipe.scheduler.config.use_dynamic_shifting is False and pipe.scheduler.config.shift == 2.0


@pytest.mark.parametrize(
    ("model", "name", "shift", "said"),
    [
        ("wan-tiny", "DDIMScheduler", None, "'DDIMScheduler' does not fit WanPipeline .*known are .*UniPCMultistep"),
        ("wan-tiny", "NoSuchScheduler", None, "known are .*FlowMatchEulerDiscreteScheduler"),
        ("flux-tiny", "FlowMatchHeunDiscreteScheduler", None, "does not fit FluxPipeline"),  # is handed noise levels
        ("glyph-dit", "EulerDiscreteScheduler", None, "does not fit DiTPipeline"),  # which scales no noise
        ("glyph-dit", "FlowMatchEulerDiscreteScheduler", None, "does not fit DiTPipeline"),
        ("glyph-dit", None, 3.0, "--shift is of flows, and DDIMScheduler"),
        ("wan-tiny", None, 0.0, "shift is 0.0"),
    ],
)
def test_a_scheduler_that_does_not_fit(model, name, shift, said):
    with pytest.raises(InputError, match=said):
        schedule(skeleton(model), name, shift)


def test_a_pipeline_that_scales_its_noise_takes_more():
    pipe = stable_diffusion()
    schedule(pipe, "EulerDiscreteScheduler", None)
    assert type(pipe.scheduler).__name__ == "EulerDiscreteScheduler"


def test_a_scheduler_is_part_of_the_result(c4d, fails, generate, tmp_path):
    words = [*generate, "--scheduler", "FlowMatchEulerDiscreteScheduler", "--shift", "5"]
    assert c4d(*words).code == 0
    asked = json.loads((tmp_path / "out/report.json").read_text())["asked"]
    assert (asked["scheduler"], asked["shift"]) == ("FlowMatchEulerDiscreteScheduler", 5.0)
    assert "kept" in c4d(*words).out
    fails(generate, 2, "another job", "scheduler: 'FlowMatchEulerDiscreteScheduler' there, None asked for")


# -- LoRAs


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """One for the self-attentions of wan-tiny, as diffusers saves it."""
    from diffusers import WanPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    transformer = load_pipeline("wan-tiny", backend=load("cpu")).transformer
    torch.manual_seed(0)
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "to_v"], init_lora_weights=False))
    folder = tmp_path_factory.mktemp("lora")
    WanPipeline.save_lora_weights(folder, get_peft_model_state_dict(transformer))
    return folder / "pytorch_lora_weights.safetensors"


def test_a_lora_changes_the_clip_by_its_scale(c4d, fails, generate, lora, tmp_path):
    clips = {}
    for name, words in {"none": [], "zero": ["--lora", f"{lora}:0"], "one": ["--lora", lora.parent]}.items():
        assert c4d(*generate[:-1], tmp_path / name, *words).code == 0
        clips[name] = (tmp_path / name / "video.mp4").read_bytes()
    assert clips["none"] == clips["zero"] != clips["one"]
    asked = json.loads((tmp_path / "one/report.json").read_text())["asked"]
    assert asked["lora"] == [Lora.read(str(lora)).to_dict()] and asked["lora"][0]["scale"] == 1.0
    fails([*generate[:-1], tmp_path / "one", "--lora", f"{lora}:0.5"], 2, "another job", "'scale': 0.5")


def test_two_loras_add_up(lora):
    twice, double = ((Lora.read(f"{lora}:0.5"),) * 2, (Lora.read(str(lora)),))
    layers = [
        load_pipeline("wan-tiny", backend=load("cpu"), loras=loras).transformer.blocks[0].attn1.to_q
        for loras in (twice, double)
    ]
    x = torch.rand(1, 3, layers[0].in_features)
    assert torch.allclose(layers[0](x), layers[1](x), atol=1e-5) and len(layers[0].active_adapters) == 2


def damaged(lora, folder, **change):
    from safetensors.torch import load_file, save_file

    held = load_file(lora)
    first = next(iter(held))
    held |= {name.replace("__", "."): change(held[first]) for name, change in change.items()}
    save_file(held, folder / "lora.safetensors")
    return folder / "lora.safetensors"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("transformer__blocks__99__attn1__to_q__lora_A__weight", "unknown to it: 1 of"),
        ("connector__blocks__0__attn1__to_q__lora_A__weight", "unknown to it: 1 of"),
        ("transformer__blocks__0__attn1__to_q__lora_A__weight", "of another shape: 1 of"),
    ],
)
def test_a_lora_of_another_model(lora, tmp_path, name, said):
    wrong = damaged(lora, tmp_path, **{name: lambda tensor: torch.zeros(2, tensor.shape[1] + 1)})
    with pytest.raises(InputError, match=f"does not fit WanPipeline: tensors {said}"):
        check_loras(skeleton("wan-tiny"), [Lora.read(str(wrong))])


def test_what_is_no_lora(fails, generate, tmp_path, lora, monkeypatch):
    fails([*generate, "--lora", "owner/name:0.5"], 2, "'owner/name:0.5' is not on this disk", "hf download")
    fails([*generate, "--lora", f"{lora}@transformer_2"], 2, "WanPipeline has no transformer_2 that takes one")
    fails([*generate, "--lora", f"{lora}:inf"], 2, "the scale is inf")
    (tmp_path / "loras").mkdir()
    with monkeypatch.context() as here:
        here.chdir(tmp_path)
        for text in ("loras/mistyped", "loras/a/b.safetensors", "./owner/name", "../owner", "~nobody-here/name"):
            with pytest.raises(InputError, match="no LoRA on this disk, nor one of the hub"):
                Lora.read(text, local_files_only=True)
    (tmp_path / "cut.safetensors").write_bytes(lora.read_bytes()[:-9])
    fails([*generate, "--lora", tmp_path / "cut.safetensors"], 2, "cut short")
    words = ["generate", "--model", "glyph-dit", "--prompt", "A", "--lora", lora, "--out", tmp_path / "out"]
    fails(words, 2, "DiTPipeline takes no LoRA")


def test_a_lora_of_the_hub_that_was_fetched_before(lora, tmp_path, monkeypatch):
    """As huggingface_hub keeps what it fetched."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    kept = tmp_path / "models--owner--name"
    for path, content in {"refs/main": b"abc", "snapshots/abc/fast/v1.safetensors": lora.read_bytes()}.items():
        (kept / path).parent.mkdir(parents=True, exist_ok=True)
        (kept / path).write_bytes(content)
    found = Lora.read("owner/name/fast/v1.safetensors:0.5", local_files_only=True)
    assert (found.scale, found.sha256) == (0.5, Lora.read(str(lora)).sha256)
    with pytest.raises(InputError, match=r"pytorch_lora_weights.safetensors of owner/name was not fetched before"):
        Lora.read("owner/name", local_files_only=True)


def test_loras_of_two_experts(tmp_path):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = two_experts()[0]
    pipe.save_pretrained(tmp_path / "model")
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    pipe.save_lora_weights(tmp_path, get_peft_model_state_dict(pipe.transformer))
    loras = [Lora.read(f"{tmp_path}:0.5"), Lora.read(f"{tmp_path}:2@transformer_2")]
    check_loras(skeleton(str(tmp_path / "model")), loras)
    loaded = load_pipeline(str(tmp_path / "model"), backend=load("cpu"), loras=loras)
    for part, name, scale in ((loaded.transformer, "lora_0", 0.5), (loaded.transformer_2, "lora_1", 2.0)):
        layer = part.blocks[0].attn1.to_q
        x = torch.rand(1, 3, layer.in_features)
        added = layer.lora_B[name](layer.lora_A[name](x))
        assert list(layer.lora_A) == [name]
        assert torch.allclose(layer(x) - layer.base_layer(x), scale * added, atol=1e-5)


# -- which files of a model


def test_a_variant_of_the_weights(fails, generate, tmp_path):
    pipe = text_to_video()[0]
    pipe.transformer.save_pretrained(tmp_path / "plain")
    pipe.save_pretrained(tmp_path / "model", variant="other")
    assert not (tmp_path / "model/transformer/diffusion_pytorch_model.safetensors").exists()
    loaded = load_pipeline(str(tmp_path / "model"), backend=load("cpu"), files=Files(variant="other"))
    assert torch.equal(loaded.transformer.patch_embedding.weight, pipe.transformer.patch_embedding.weight)
    model = [*generate, "--model", tmp_path / "model"]
    fails(model, 2, "only model.other.safetensors")
    fails([*generate, "--variant", "fp16"], 2, "--variant 'fp16': no weights in")
    fails([*generate, "--variant", "../x"], 2, "no part of a file's name")
    fails(
        [*generate, "--revision", "main"], 2, "--revision 'main' is of a hub id, and model 'wan-tiny' is on this disk"
    )


def test_what_was_not_fetched(fails, generate, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("nothing is asked of the hub")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    words = [*generate, "--model", "no-owner/no-name", "--local-files-only", "--revision", "v1"]
    fails(words, 2, "'no-owner/no-name' cannot be found among what was fetched", "--revision, drop --local-files-only")


# -- prompt files


def lines(tmp_path, *said, name="p.jsonl"):
    (tmp_path / name).write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in said))
    return tmp_path / name


def test_lines_of_json(tmp_path):
    file = lines(
        tmp_path, {"prompt": "a", "seed": 7}, "", {"prompt": "b", "image": ["x.png", "y.png"]}, {"prompt": "c"}
    )
    found = requests_of(Options(prompt_file=file, seed=3, negative_prompt="dim"))
    assert [each["seed"] for each in found] == [7, 4, 5] and {each["negative_prompt"] for each in found} == {"dim"}
    assert found[1]["image"] == (tmp_path / "x.png", tmp_path / "y.png")
    plain = lines(tmp_path, '{"prompt": "a"}', name="p.txt")
    assert read_prompts(Options(prompt_file=plain)) == [{"prompt": '{"prompt": "a"}'}]  # a text is a text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a cat", "line 1 of prompt file .* is no JSON"),
        ("[1]", "no object with a prompt"),
        ({"seed": 1}, "no object with a prompt"),
        ({"prompt": "a", "sed": 1}, "unknown 'sed' .*known are prompt, seed"),
        ({"prompt": "a", "seed": "1"}, "seed is '1' .*a whole number"),
        ({"prompt": "a", "image": []}, "image is .* a list of texts"),
        ({"prompt": "a", "video": ["x"]}, "video is .*takes a text$"),
        ({"prompt": "a", "negative_prompt": "b"}, "--negative-prompt is given, and .* of its own"),
    ],
)
def test_lines_that_are_none(tmp_path, line, said):
    with pytest.raises(InputError, match=said):
        requests_of(Options(prompt_file=lines(tmp_path, line), negative_prompt="dim"))


def test_a_file_of_negative_prompts(tmp_path):
    file = lines(tmp_path, "a", "b", name="p.txt")
    one, two, three = (lines(tmp_path, *"xyz"[:n], name=f"n{n}.txt") for n in (1, 2, 3))

    def negatives(path, **more):
        found = requests_of(Options(prompt_file=file, negative_prompt_file=path, **more))
        return [each["negative_prompt"] for each in found]

    assert negatives(one) == ["x", "x"] and negatives(two) == ["x", "y"]
    with pytest.raises(InputError, match="has 3 lines for 2 prompts"):
        negatives(three)
    with pytest.raises(InputError, match="keep one"):
        negatives(one, negative_prompt="dim")


def test_each_line_has_its_seed_in_the_result(c4d, fails, tmp_path):
    file = lines(tmp_path, {"prompt": PROMPT, "seed": 7}, {"prompt": PROMPT, "negative_prompt": "dim"})
    words = ["generate", "--prompt-file", file, *QUICK, "--quiet", "--out", tmp_path / "out"]
    assert c4d(*words).code == 0
    asked = [json.loads((tmp_path / f"out/00{i}/report.json").read_text())["asked"] for i in range(2)]
    assert [each["seed"] for each in asked] == [7, 1] and [each["negative_prompt"] for each in asked] == [None, "dim"]
    tune = ["tune", "--prompt-file", file, "--steps", "4", "--out", tmp_path / "p.json"]
    fails(tune, 2, "c4d tune runs prompts that differ in their text alone")


# -- through the command line, and shown


def test_a_film_is_changed(c4d, given, tmp_path):
    from diffusers import FlowMatchEulerDiscreteScheduler, WanVideoToVideoPipeline

    from tests.pipes import transformer

    parts, config = wan_parts()
    parts["scheduler"] = FlowMatchEulerDiscreteScheduler(shift=3.0)
    WanVideoToVideoPipeline(**parts, transformer=transformer(**config)).save_pretrained(tmp_path / "model")
    words = ["generate", "--model", tmp_path / "model", "--prompt", PROMPT, "--height", 32, "--width", 32, "--quiet"]
    film = ["--video", given / "film9.mp4", "--frames", 5, "--strength", 0.5, "--steps", 8]
    outcome = c4d(*words, *film, "--cache", "taylorseer-lite:interval=2", "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    record = json.loads((tmp_path / "out/report.json").read_text())
    assert record["clip"]["frames"] == 5 and set(record["session"]["timelines"].values()) == {"CrCr"}
    assert record["settings"]["strength"] == 0.5 and record["settings"]["video"].endswith("film9.mp4")
    assert len(record["asked"]["video_sha256"]) == 64


@pytest.mark.parametrize("found", [True, False])
def test_the_page_is_shown(c4d, generate, monkeypatch, tmp_path, found):
    shown = []
    monkeypatch.setattr("webbrowser.open", lambda address: shown.append(address) or found)
    outcome = c4d(*generate, "--open")
    assert outcome.code == 0 and shown == [(tmp_path / "out/report.html").as_uri()]
    assert ("note: --open found no browser here" in outcome.out) is not found


def test_a_file_of_options_names_several(c4d, given, fails, tmp_path):
    (tmp_path / "job.yaml").write_text(f"prompt: {PROMPT}\nimage: [{given / 'a.png'}, {given / 'b.png'}]\n")
    fails(["generate", "--config", tmp_path / "job.yaml"], 2, "WanPipeline takes no --image")
