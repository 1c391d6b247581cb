"""Bad input: the exit code, the value, what is known, the way out, and never a traceback."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from PIL import Image

from c4d import backends
from c4d.backends.reference import Reference
from c4d.core.methods import METHODS
from c4d.models import SPECS
from c4d.pipelines import EMBEDDED, GenerationError, InputError, Request, call_arguments
from c4d.pipelines import generate as make_clip
from tests.cli.conftest import PROMPT


@pytest.fixture
def no_loading(monkeypatch):
    """For what must be refused before any weight is read."""

    def load(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("c4d.cli.load_pipeline", load)


@pytest.mark.usefixtures("no_loading")
class TestBeforeLoading:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--cache", "forra:interval=3"], ["'forra'", *METHODS]),
            (["--cache", "fora:interwal=3"], ["'interwal'", "interval"]),
            (["--cache", "fora:interval=x"], ["'x'", "whole number"]),
            (["--cache", "teacache:threshold=0.1,coefficients=1/0,signal=modulated_input"], ["modulated_input"]),
            (["--cache", "fora:interval=2@total"], ["total", "attn"]),
            (["--backend", "gpu"], ["'gpu'", "auto", *backends.BACKENDS]),
            (["--dtype", "int8"], ["'int8'", "float32", "bfloat16", "float16"]),
            (["--cache", "fora:interval=2", "--history-dtype", "fp8"], ["'fp8'", "float32"]),
            (["--cache", "fora:interval=2", "--history-on", "disk"], ["'disk'", "device", "host"]),
            (["--cache", "fora:interval=2", "--compile"], ["--compile", "fora:interval=2", "@stack"]),
            (["--compare"], ["--compare", "--cache"]),
            (["--history-on", "host"], ["--history-on host", "--cache"]),
            (["--repeats", "0"], ["0", "from 1"]),
            (["--threads", "0"], ["0", "from 1"]),
            (["--steps", "0"], ["steps is 0", "from 1"]),
            (["--frames", "-3"], ["frames is -3", "from 1"]),
            (["--steps", "many"], ["--steps", "'many'", "whole number"]),
            (["--guidance-scale", "nan"], ["nan", "finite"]),
            (["--fps", "inf"], ["inf", "finite"]),
            (["--seed", "-1"], ["-1", "from 0"]),
            (["--stebs", "3"], ["--stebs", "--help"]),
            (["--prompt", "  "], ["empty"]),
            (["--image", "/no/such.png"], ["/no/such.png", "PNG"]),
            (["--out", "/dev/null/out"], ["/dev/null/out", "another folder"]),
            (["--config", "/no/such.yaml"], ["/no/such.yaml", "cannot be read"]),
            (["--prompt-file", "some.txt"], ["--prompt", "--prompt-file", "keep one"]),
        ],
        ids=lambda value: " ".join(value)[:40] if value and value[0].startswith("--") else "",
    )
    def test_options(self, fails, generate, words, said):
        fails([*generate, *words], 2, *said)

    def test_no_prompt(self, fails, tmp_path):
        fails(["generate", "--out", tmp_path], 2, "--prompt", "--prompt-file", PROMPT)

    def test_a_prompt_file_that_is_not_there(self, fails, tmp_path):
        fails(["generate", "--prompt-file", tmp_path / "p.txt", "--out", tmp_path], 2, "p.txt", "cannot be read")

    @pytest.mark.parametrize(("content", "said"), [(b"# nothing\n\n", "no prompt"), (b"\xff\xfe", "UTF-8")])
    def test_prompt_files(self, fails, tmp_path, content, said):
        (tmp_path / "p.txt").write_bytes(content)
        fails(["generate", "--prompt-file", tmp_path / "p.txt", "--out", tmp_path], 2, "p.txt", said)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("stebs: 3", ["'stebs'", "steps", "guidance-scale", "cache"]),
            ("config: other.yaml", ["'config'", "known are"]),
            ("- steps", ["no options"]),
            ("steps: [1, 2]", ["steps", "[1, 2]"]),
            ("compare: 3", ["compare", "true or false"]),
            ("prompt: yes", ["prompt", "quotes"]),
            ("steps: many", ["--steps", "'many'"]),
            ("a: b: c", ["not valid YAML"]),
        ],
    )
    def test_config_files(self, fails, generate, tmp_path, content, said):
        (tmp_path / "job.yaml").write_text(content)
        fails([*generate, "--config", tmp_path / "job.yaml"], 2, *said)

    def test_several_ranks(self, fails, generate, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        fails(generate, 2, "WORLD_SIZE=2", "sequence parallelism", "one rank")

    def test_a_backend_that_cannot_run_here(self, fails, generate, monkeypatch):
        monkeypatch.setattr(Reference, "missing", lambda self: "no such device")
        fails([*generate, "--backend", "cpu"], 3, "'cpu'", "no such device", "c4d doctor")

    def test_a_missing_dependency(self, fails, generate, monkeypatch):
        monkeypatch.setitem(backends.BACKENDS, "cpu", "c4d.backends.no_such_module:X")
        fails([*generate, "--backend", "cpu"], 3, "no_such_module")

    @pytest.mark.parametrize("model", ["{}/nothing", "./nothing", "nothing", "{}/", "/etc/passwd"])
    def test_models_that_are_none(self, fails, generate, tmp_path, model):
        model = model.format(tmp_path)
        fails([*generate, "--model", model], 2, repr(model), *EMBEDDED, "directory", "hub id")

    def test_a_relative_path_is_no_hub_id(self, fails, generate, tmp_path, monkeypatch):
        (tmp_path / "models").mkdir()
        monkeypatch.chdir(tmp_path)
        fails([*generate, "--model", "models/wan"], 2, "'models/wan'", "does not exist")

    def test_a_hub_id_that_is_not_there(self, fails, generate):
        fails([*generate, "--model", "no-such-owner/no-such-model"], 2, "no-such-owner/no-such-model", "hub")

    @pytest.mark.parametrize(
        ("part", "said"),
        [
            ({"transformer": ["diffusers", "FluxTransformer2DModel"]}, ["FluxTransformer2DModel", *SPECS]),
            ({"transformer": ["diffusers", "NoSuchModel"]}, ["NoSuchModel", "diffusers"]),
            ({"unet": ["diffusers", "UNet2DConditionModel"]}, ["no transformer", *SPECS]),
        ],
    )
    def test_pipelines_that_are_not_supported(self, fails, generate, tmp_path, part, said):
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "SomePipeline", **part}))
        fails([*generate, "--model", tmp_path], 2, *said)


def test_no_command(fails):
    fails([], 2, "COMMAND")
    fails(["paint"], 2, "'paint'", "generate", "doctor")


def test_a_picture_for_a_text_to_video_model(fails, generate, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    fails([*generate, "--image", tmp_path / "a.png"], 2, "WanPipeline takes no --image", "--prompt")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--height", "40"], ["height 40", "multiples of 16", "32 and 48"]),
        (["--width", "8"], ["width 8", "nearest is 16"]),
        (["--frames", "12"], ["12 frames", "4k + 1", "9 and 13"]),
        (["--width", "528"], ["width 528", "at most 512"]),
        (["--guidance-scale", "1", "--negative-prompt", "noise"], ["--negative-prompt", "guidance scale 1"]),
    ],
    ids=lambda value: " ".join(value)[:30],
)
def test_what_the_pipeline_would_change_silently(fails, generate, words, said):
    fails([*generate, *words], 2, *said)


def test_what_is_unexpected_is_said_to_be(fails, c4d, generate, monkeypatch):
    def fall(*_, **__):
        raise KeyError("hole")

    monkeypatch.setattr("c4d.cli.produce", fall)
    fails(generate, 1, "KeyError", "hole", "--debug")
    assert "Traceback" in c4d(*generate, "--debug").err


class Fake:
    """A pipeline with nothing but a call."""

    transformer = SimpleNamespace(config={"patch_size": 2, "patch_size_t": 1})
    vae_scale_factor_spatial, vae_scale_factor_temporal = 8, 4


class NeedsVideo(Fake):
    def __call__(self, video, prompt=None): ...


class NeedsImage(Fake):
    def __call__(self, image, prompt=None, height=720): ...


class TrueGuidance(Fake):
    def __call__(self, prompt=None, negative_prompt=None, true_cfg_scale=1.0, guidance_scale=6.0, height=720): ...


@pytest.mark.parametrize(
    ("pipe", "request_", "said"),
    [
        (NeedsVideo(), Request(PROMPT), "needs video"),
        (NeedsImage(), Request(PROMPT), "NeedsImage needs --image"),
        (NeedsImage(), Request(PROMPT, num_frames=5), "no --frames"),
        (TrueGuidance(), Request(PROMPT, negative_prompt="x"), "true_cfg_scale"),
        (TrueGuidance(), Request(PROMPT, height=100), "96 and 112"),
    ],
)
def test_other_pipelines(pipe, request_, said):
    with pytest.raises(InputError, match=said):
        call_arguments(pipe, request_)


def test_a_clip_of_nan_is_no_clip(monkeypatch):
    import torch

    class Broken(Fake):
        def __call__(self, prompt, num_inference_steps=1, generator=None, output_type="", callback_on_step_end=None):
            return SimpleNamespace(frames=torch.full((1, 1, 3, 32, 32), torch.nan))

        def set_progress_bar_config(self, **_): ...

    with pytest.raises(GenerationError, match="3072 of 3072"):
        make_clip(Broken(), Request(PROMPT), method=None, backend=Reference(), progress=False)
