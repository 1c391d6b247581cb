"""Bad input: the exit code, one line with the value, what is known and the way out, and never a traceback."""

from __future__ import annotations

import errno
import os
import shutil
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers

from c4d import MethodError, backends, cached
from c4d.backends.kernels import Kernel, Limits
from c4d.backends.reference import Reference, sdpa
from c4d.cli.options import Options, Parser, add_options, read_options
from c4d.cli.prompts import read_prompts
from c4d.pipelines import GenerationError, InputError, Request, call_arguments, load_pipeline, skeleton
from c4d.pipelines import generate as make_clip
from tests.cli.bad_input import ROWS, WEIGHTS
from tests.cli.conftest import PROMPT

ASSET = Path(str(files("c4d"))) / "bundled/wan_tiny"


@pytest.fixture(autouse=True)
def quiet_libraries():
    """Which of their optional dependencies are missing here is not what is tested."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(verbosity)


@pytest.fixture
def weights(monkeypatch):
    """The models whose weights were asked for."""
    asked = []

    def load(model, **options):
        asked.append(model)
        return load_pipeline(model, **options)

    monkeypatch.setattr("c4d.cli.command.load_pipeline", load)
    return asked


def test_the_table_has_its_hundred():
    assert len(ROWS) >= 100 and len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ascii(row.name)[1:60])
def test_one_clear_line(c4d, generate, weights, tmp_path, row):
    def placed(word):
        return word.replace("TMP", str(tmp_path))

    for name, content in row.files.items():
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    if row.damage is not None:
        shutil.copytree(ASSET, tmp_path / "model", copy_function=os.symlink)
        row.damage(tmp_path / "model")
    words = [placed(word) for word in row.words]
    if words[0] == "c4d":
        words = words[1:]
    elif words[0] != "generate":
        words = [*generate, *words]
    outcome = c4d(*words)
    assert outcome.code == row.code, outcome
    assert outcome.err.startswith("c4d: error: ") and outcome.err.count("\n") == 1 and outcome.out == ""
    for said in row.said:
        assert placed(said) in outcome.err, (said, outcome.err)
    assert bool(weights) == row.loads
    assert not (tmp_path / "out" / "report.json").exists() and (row.loads or not (tmp_path / "out").exists())


def test_debug_shows_where(c4d, generate):
    outcome = c4d(*generate, "--cache", "forra", "--debug")
    assert outcome.code == 2 and "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("c4d: error: method 'forra'")


class TestTheMachine:
    """What is wrong with it rather than with the words."""

    def test_several_ranks(self, fails, generate, weights, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        fails(generate, 2, "WORLD_SIZE=2", "not set: RANK, LOCAL_RANK, MASTER_ADDR", "torchrun")
        assert not weights

    def test_a_backend_that_cannot_run_here(self, fails, generate, weights, monkeypatch):
        monkeypatch.setattr(Reference, "missing", lambda self: "no such device")
        fails([*generate, "--backend", "cpu"], 3, "'cpu'", "no such device", "c4d doctor")
        assert not weights

    def test_a_dtype_that_the_backend_does_not_compute_in(self, fails, generate, weights, monkeypatch):
        monkeypatch.setattr(Reference, "dtypes", (torch.float32,))
        fails([*generate, "--dtype", "float16"], 2, "dtype 'float16'", "backend 'cpu' computes in float32;")
        cached = [*generate, "--cache", "fora:interval=2", "--history-dtype", "bfloat16"]
        fails(cached, 2, "dtype of the history 'bfloat16'", "computes in float32;")
        assert not weights

    def test_a_kernel_is_held_against_the_dtype_of_the_weights(self, fails, c4d, generate, weights, monkeypatch):
        half = Kernel("of half precision", Limits((torch.bfloat16,)), sdpa)
        monkeypatch.setattr(Reference, "attention_kernels", {"half": half})
        fails([*generate, "--attention", "half"], 2, "--attention 'half'", "takes bfloat16, not float32", "c4d doctor")
        assert not weights
        assert c4d(*generate, "--attention", "half", "--dtype", "bfloat16").code == 0

    def test_a_missing_dependency(self, fails, generate, monkeypatch):
        monkeypatch.setitem(backends.BACKENDS, "cpu", "c4d.backends.no_such_module:X")
        fails([*generate, "--backend", "cpu"], 3, "no_such_module")

    def test_files_that_may_not_be_read(self, fails, generate, tmp_path, monkeypatch):
        """Pretended, for the tests may run as one who may read everything."""

        def denied(*_, **__):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        (tmp_path / "p.txt").write_text(PROMPT)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", denied)
            fails(["generate", "--prompt-file", tmp_path / "p.txt"], 2, "p.txt", "Permission denied")
            fails([*generate, "--config", tmp_path / "p.txt"], 2, "p.txt", "Permission denied")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", denied)
            fails(generate, 2, "model_index.json", "Permission denied", "readable")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "is_file", denied)
            fails([*generate, "--model", tmp_path], 2, str(tmp_path), "Permission denied")
        with monkeypatch.context() as patch:
            patch.setattr("tempfile.TemporaryFile", denied)
            fails(generate, 2, "--out", "Permission denied", "another folder")

    def test_a_relative_path_is_no_hub_id(self, fails, generate, tmp_path, monkeypatch):
        (tmp_path / "models").mkdir()
        monkeypatch.chdir(tmp_path)
        fails([*generate, "--model", "models/wan"], 2, "'models/wan'", "does not exist")
        fails([*generate, "--model", "~nobody-here/wan"], 2, "'~nobody-here/wan'", "does not exist")

    def test_what_is_unexpected_is_said_to_be(self, fails, c4d, generate, monkeypatch):
        def fall(*_, **__):
            raise RuntimeError("hole\nin two lines")

        monkeypatch.setattr("c4d.cli.command.produce", fall)
        fails(generate, 1, "RuntimeError", "hole in two lines", "--debug")
        assert "Traceback" in c4d(*generate, "--debug").err


class TestWhatIsNoMistake:
    def options(self, tmp_path, text, *words):
        (tmp_path / "job.yaml").write_text(text)
        parser = Parser()
        add_options(parser)
        return read_options({"config": tmp_path / "job.yaml", **vars(parser.parse_args([*words]))}, parser, Options)

    @pytest.mark.parametrize(
        ("text", "name", "value"),
        [
            ("seed: 012", "seed", 12),  # 10 for YAML itself
            ("prompt: 2026-01-01", "prompt", "2026-01-01"),
            ("prompt: 1_000", "prompt", "1_000"),
            ("prompt: 'no'", "prompt", "no"),
            ("prompt: >\n  two\n  lines", "prompt", "two lines"),
            ("guidance-scale: 3", "guidance_scale", 3.0),
            ("cache: none", "cache", None),
            ("compare: yes", "compare", True),
            ("compare: off", "compare", False),
            ("\ufeffsteps: 3", "steps", 3),
        ],
    )
    def test_a_file_is_read_as_it_is_written(self, tmp_path, text, name, value):
        found = getattr(self.options(tmp_path, text), name)
        assert found == value and type(found) is type(value)

    def test_the_last_of_an_option_given_twice_counts(self, tmp_path):
        assert self.options(tmp_path, "steps: 3", "--steps", "4", "--steps", "5").steps == 5

    @pytest.mark.parametrize(
        "content",
        [b"\xef\xbb\xbfa cat\n# not this\n\n b c \n", b"a cat\r\nb c\r\n", b"a cat\rb c", b"a cat\nb c"],
    )
    def test_prompts_of_any_system(self, tmp_path, content):
        (tmp_path / "p.txt").write_bytes(content)
        assert [each["prompt"] for each in read_prompts(Options(prompt_file=tmp_path / "p.txt"))] == ["a cat", "b c"]

    def test_a_line_ends_where_an_editor_ends_it(self, tmp_path):
        (tmp_path / "p.txt").write_text("a\u2028b\x0cc", encoding="utf-8")
        assert read_prompts(Options(prompt_file=tmp_path / "p.txt")) == [{"prompt": "a\u2028b\x0cc"}]

    @pytest.mark.parametrize("kind", ["shards", "pickles"])
    def test_weights_in_other_files(self, tmp_path, kind):
        shutil.copytree(ASSET, tmp_path / "model")
        before = load_pipeline("wan-tiny", backend=Reference())
        if kind == "shards":
            before.transformer.save_pretrained(tmp_path / "model/transformer", max_shard_size="2MB")
            before.text_encoder.save_pretrained(tmp_path / "model/text_encoder", max_shard_size="100KB")
        else:
            for part, name in (("transformer", "diffusion_pytorch_model.bin"), ("text_encoder", "pytorch_model.bin")):
                torch.save(getattr(before, part).state_dict(), tmp_path / "model" / part / name)
        for single in (tmp_path / "model/transformer" / WEIGHTS, tmp_path / "model/text_encoder/model.safetensors"):
            single.unlink(missing_ok=True)
        if kind == "pickles":
            with pytest.raises(InputError, match="--allow-pickle"):
                load_pipeline(str(tmp_path / "model"), backend=Reference())
        after = load_pipeline(str(tmp_path / "model"), backend=Reference(), allow_pickle=kind == "pickles")
        for part in ("transformer", "text_encoder", "vae"):
            one, other = (getattr(pipe, part).state_dict() for pipe in (before, after))
            assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("allow", [False, True])
def test_a_hub_id_is_downloaded_and_then_checked_like_a_directory(monkeypatch, tmp_path, allow):
    from diffusers import DiffusionPipeline

    asked, folder = [], tmp_path / "model"
    shutil.copytree(ASSET, folder)

    def download(name, **how):
        asked.append((name, how))
        return str(folder)

    monkeypatch.setattr("c4d.pipelines.load.locate", lambda model: (model, False))
    monkeypatch.setattr(DiffusionPipeline, "download", download)
    assert load_pipeline("owner/name", backend=Reference(), allow_pickle=allow).transformer is not None
    assert asked == [("owner/name", {"use_safetensors": None if allow else True})]
    (folder / "vae" / WEIGHTS).unlink()
    with pytest.raises(InputError, match="no other weights"):
        load_pipeline("owner/name", backend=Reference(), allow_pickle=allow)

    def refuse(name, **_):
        raise OSError("Could not find the necessary `safetensors` weights")

    monkeypatch.setattr(DiffusionPipeline, "download", refuse)
    with pytest.raises(InputError, match=r"'owner/name' cannot be downloaded .*Could not find"):
        load_pipeline("owner/name", backend=Reference(), allow_pickle=allow)


class Fake:
    """A pipeline with nothing but a call."""

    transformer = SimpleNamespace(config={"patch_size": 2, "patch_size_t": 1})
    vae_scale_factor_spatial, vae_scale_factor_temporal = 8, 4


class NeedsPose(Fake):
    def __call__(self, pose_video, prompt=None): ...


class NeedsImage(Fake):
    def __call__(self, image, prompt=None, height=720): ...


class TrueGuidance(Fake):
    def __call__(self, prompt=None, negative_prompt=None, true_cfg_scale=1.0, guidance_scale=6.0, height=720): ...


@pytest.mark.parametrize(
    ("pipe", "request_", "said"),
    [
        (NeedsPose(), Request(PROMPT), "needs pose_video: --argument pose_video=VALUE or =@FILE"),
        (NeedsImage(), Request(PROMPT), "NeedsImage needs --image"),
        (NeedsImage(), Request(PROMPT, num_frames=5), "no --frames"),
        (TrueGuidance(), Request(PROMPT, negative_prompt="x"), "true_cfg_scale"),
        (TrueGuidance(), Request(PROMPT, height=100), "96 and 112"),
    ],
)
def test_other_pipelines(pipe, request_, said):
    with pytest.raises(InputError, match=said):
        call_arguments(pipe, request_)


def test_a_pipeline_that_needs_its_parts_is_checked_when_they_are_there(fails, generate, weights, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("no tokenizer")

    monkeypatch.setattr(import_module("c4d.pipelines.skeleton"), "_pipeline", refuse)
    fails([*generate, "--cache", "fora:interval=2@total"], 2, "caches at total")
    assert not weights
    monkeypatch.setattr("c4d.pipelines.load.skeleton", lambda *_, **__: None)
    fails([*generate, "--height", "40"], 2, "height 40")
    assert weights


def test_a_clip_of_nan_is_no_clip():
    class Broken(Fake):
        def __call__(self, prompt, num_inference_steps=1, generator=None, output_type="", callback_on_step_end=None):
            return SimpleNamespace(frames=torch.full((1, 1, 3, 32, 32), torch.nan))

        def set_progress_bar_config(self, **_): ...

    with pytest.raises(GenerationError, match="3072 of 3072"):
        make_clip(Broken(), Request(PROMPT), method=None, backend=Reference(), progress=False)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (dict(model="wan-tiny"), TypeError, "str has no transformer and no U-Net: give a diffusers pipeline"),
        (dict(model=None), TypeError, "NoneType has no transformer"),
        (dict(model=torch.nn.Linear(1, 1)), TypeError, "no spec for Linear, and its forward has no timestep, "),
        (dict(method=3), TypeError, "method is 3; give text such as 'fora:interval=3'"),
        (dict(method=None), TypeError, "method is None"),
        (dict(method={"fora": 3}), TypeError, "method is {'fora': 3}"),
        (dict(method=torch.nn.Linear(1, 1)), TypeError, "method is Linear"),
        (dict(method="fora"), MethodError, "fora needs interval"),
        (dict(method="fora:interval=2@total"), ValueError, "caches at total, but WanTransformer3DModel offers"),
        (dict(spec="WanTransformer3DModel"), TypeError, "spec is 'WanTransformer3DModel'; give a c4d.ModelSpec"),
        (dict(backend=3), TypeError, "backend is 3; give a name from c4d doctor"),
        (dict(backend=torch.device("cpu")), TypeError, "backend is device"),
        (dict(backend="tpu"), ValueError, "unknown backend 'tpu': known are auto"),
        (dict(history_dtype=3), TypeError, "history_dtype is 3; give a torch dtype"),
        (dict(history_dtype="float16"), TypeError, "history_dtype is 'float16'"),
        (
            dict(history_dtype=torch.int16),
            ValueError,
            "floating-point features, or torch.int8 with scales, not torch.int16",
        ),
        (dict(history_dtype=torch.float8_e4m3fn), ValueError, "float8_e4m3fn; backend 'cpu' computes in"),
        (dict(history_on="disk"), ValueError, "unknown place 'disk' for the history: known are device, host"),
        (dict(history_on=None), ValueError, "unknown place None"),
    ],
    ids=lambda value: "",
)
def test_from_python(arguments, error, said):
    arguments = {"model": skeleton("wan-tiny"), "method": "fora:interval=3", **arguments}
    with pytest.raises(error) as caught:
        cached(**arguments)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_bad_prompt_further_down_is_told_before_the_first_is_made(fails, tmp_path):
    (tmp_path / "p.txt").write_text(f"{PROMPT}\n{'red ' * 600}\n")
    fails(["generate", "--prompt-file", tmp_path / "p.txt", "--out", tmp_path / "out"], 2, "601 tokens", "shorten")
    assert not (tmp_path / "out/000").exists()
