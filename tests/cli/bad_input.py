"""What users get wrong, one row a mistake: what was typed, and the words that the one line of error must have.

``TMP`` is the test's folder; it holds ``files`` and, where a row damages one, a copy of the bundled model in
``TMP/model``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

from c4d.backends import BACKENDS
from c4d.bundled import BUNDLED
from c4d.core.methods import METHODS
from c4d.core.text.grammar import FORECASTERS

PROMPT = "a red circle moving left on a black background"
EXAMPLE = BUNDLED["wan-tiny"].example
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
WEIGHTS = "diffusion_pytorch_model.safetensors"
DTYPES = ("float32", "bfloat16", "float16")


class Row(NamedTuple):
    name: str
    words: Sequence[str]  # after a valid `c4d generate`; a whole command if the first is one
    said: Sequence[str]
    files: Mapping[str, str | bytes] = {}
    damage: Callable[[Path], None] | None = None
    code: int = 2
    loads: bool = False  # whether weights must have been read to know


def cache(text: str, *said: str) -> Row:
    return Row(f"cache {text or 'empty'}", ["--cache", text], [repr(text), *said, "c4d methods"])


def config(text: str | bytes, *said: str) -> Row:
    return Row(f"config {text!r}", ["--config", "TMP/job.yaml"], ["TMP/job.yaml", *said], {"job.yaml": text})


def prompts(name: str, content: str | bytes, *said: str) -> Row:
    words = ["generate", "--prompt-file", "TMP/p.txt", "--out", "TMP/out"]
    return Row(f"prompts {name}", words, ["TMP/p.txt", *said], {"p.txt": content})


def model(name: str, damage: Callable[[Path], None], *said: str, words: Sequence[str] = (), loads: bool = False) -> Row:
    words = ["--model", "TMP/model", "--height", "32", "--width", "32", *words]
    return Row(f"model {name}", words, [*said], damage=damage, loads=loads)


# -- damages to a copy of a model, whose files are links


def write(path: str, content: str | bytes | Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / path
        data = content(file.read_bytes()) if callable(content) else content
        file.unlink(missing_ok=True)
        file.write_bytes(data.encode() if isinstance(data, str) else data)

    return damage


def edit(path: str, **values: object) -> Callable[[Path], None]:
    """New values of a JSON file; ... takes one out."""

    def change(data: bytes) -> bytes:
        held = {**json.loads(data), **values}
        return json.dumps({key: value for key, value in held.items() if value is not ...}).encode()

    return write(path, change)


def remove(path: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / path
        for inner in file.iterdir() if file.is_dir() else ():
            inner.unlink()
        file.rmdir() if file.is_dir() else file.unlink()

    return damage


def rename(path: str, name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / path).rename((folder / path).with_name(name))

    return damage


def tensors(path: str, change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        held = load_file(folder / path)
        change(held)
        (folder / path).unlink()
        save_file(held, folder / path, {"format": "pt"})

    return damage


def pickled(name: str, held: object = None) -> Callable[[Path], None]:
    """The transformer's weights as a pickle, or ``held`` in their place."""

    def damage(folder: Path) -> None:
        file = folder / "transformer" / WEIGHTS
        torch.save(load_file(file) if held is None else held, file.with_name(name))
        file.unlink()

    return damage


def sharded(**index: object) -> Callable[[Path], None]:
    """The transformer's weights as the first of the shards of an index."""

    def damage(folder: Path) -> None:
        file = folder / "transformer" / WEIGHTS
        file.rename(file.with_name("first.safetensors"))
        file.with_name(f"{WEIGHTS}.index.json").write_text(json.dumps(index))

    return damage


def index_of(**values: object) -> Callable[[Path], None]:
    return edit("model_index.json", **values)


CUT = {"cut short": lambda data: data[:-100], "too long": lambda data: data + b"0", "empty": b"", "text": "weights"}

METHOD_ROWS = [
    cache("", "unknown method ''", *METHODS),
    cache("forra:interval=3", "'forra'", *METHODS),
    cache("@blocks", "unknown method ''"),
    cache("fora", "interval"),
    cache("fora:interwal=3", "'interwal'", "known are interval"),
    cache("fora:interval=x", "'x'", "whole number"),
    cache("fora:interval=0", "at least 1, got 0"),
    cache("fora:interval=3,interval=4", "interval is given twice"),
    cache("lemica:published=wan2.1-t2v-14b-17", "is made for 50 steps", "--steps 50"),
    cache("fora:interval=3+spline", "'spline'", *FORECASTERS),
    cache("fora:interval=3+reuse:order=1", "reuse takes no options"),
    cache("fora:interval=3@middle", "'middle'", "blocks", "attn"),
    cache("fora:interval=3@attn,attn", "attn is given twice"),
    cache("teacache:threshold=0.1", "fit=", "wan2.1-t2v-1.3b", "coefficients="),
    cache("teacache:threshold=0.1,fit=wan9", "'wan9'", "wan2.1-t2v-1.3b"),
    cache("teacache:threshold=0.1,coefficients=1/0", "signal", "time_embedding"),
    cache("teacache:threshold=-1,fit=wan2.1-t2v-1.3b", "above 0, got -1"),
    cache("first-block:threshold=nan", "'nan'", "a number"),
    cache("schedule:computed=1/2", "step 0", "[1, 2]"),
    cache("schedule:computed=0/3/3", "step 3 is listed twice"),
    Row(
        "a fit of another model",
        ["--cache", "teacache:threshold=0.1,fit=hunyuanvideo-t2v"],
        ["fit=hunyuanvideo-t2v", "modulated_input", "WanTransformer3DModel offers time_embedding", "other models"],
    ),
    Row(
        "a signal that the model has not",
        ["--cache", "teacache:threshold=0.1,coefficients=1/0,signal=modulated_input"],
        ["modulated_input", "time_embedding"],
    ),
    Row("a method that hooks nothing", ["--cache", "fora:interval=2@total"], ["total", "attn", "c4d models"]),
]

OPTION_ROWS = [
    Row("no command", ["c4d"], ["COMMAND"]),
    Row("an unknown command", ["c4d", "paint"], ["'paint'", "generate", "doctor"]),
    Row("a word too many", ["cat.mp4"], ["cat.mp4", "--help"]),
    Row("an unknown option", ["--stebs", "3"], ["--stebs", "--help"]),
    Row("an option cut short", ["--guidance", "3"], ["--guidance", "--help"]),
    Row("an option without its value", ["--seed"], ["--seed", "expected one argument"]),
    Row("a backend", ["--backend", "gpu"], ["'gpu'", "auto", *BACKENDS]),
    Row("a dtype", ["--dtype", "int8"], ["'int8'", *DTYPES]),
    Row(
        "a history dtype",
        ["--cache", "fora:interval=2", "--history-dtype", "fp8"],
        ["dtype of the history 'fp8'", *DTYPES],
    ),
    Row(
        "a memory mode",
        ["--memory", "lots"],
        ["unknown memory mode 'lots'", "components, divided, float8, full, groups"],
    ),
    Row("two places for weights", ["--memory", "groups+full"], ["groups and full both say where weights are"]),
    Row("a size of a group", ["--memory", "groups:blocks=0"], ["blocks is 0", "from 1"]),
    Row("offloading from the host", ["--memory", "groups+tiled"], ["'cpu' computes on the host", "take full, float8"]),
    Row("a budget of nothing", ["--device-memory", "0GiB"], ["--device-memory", "'0GiB' is nothing", "above 0"]),
    Row("a budget of potatoes", ["--cache-memory", "8 potatoes"], ["'8 potatoes' is no size", "units are B, KB"]),
    Row("a budget for no cache", ["--cache-memory", "8GiB", "--cache", "none"], ["--cache-memory needs a method"]),
    Row(
        "a budget that nothing fits",
        ["--cache-memory", "1KiB", "--cache", "fora:interval=2", "--steps", "4"],
        ["nothing fits into 1.00 KiB of cache memory: they take of the device", "in 8 bits", "try a larger budget"],
    ),
    Row("compiled weights of another dtype", ["--memory", "float8", "--compile"], ["--compile", "--memory 'float8'"]),
    Row("a history's place", ["--cache", "fora:interval=2", "--history-on", "disk"], ["'disk'", "device", "host"]),
    Row("no repeats", ["--repeats", "0"], ["repeats is 0", "from 1"]),
    Row("no threads", ["--threads", "0"], ["threads is 0", "from 1"]),
    Row("too many threads", ["--threads", "100000"], ["threads is 100000", "from 1 to", "cores"]),
    Row("no steps", ["--steps", "0"], ["steps is 0", "from 1"]),
    Row("many steps", ["--steps", "many"], ["--steps", "'many'", "whole number"]),
    Row("half a step", ["--steps", "2.5"], ["--steps", "'2.5'", "whole number"]),
    Row("steps with an underscore", ["--steps", "1_0"], ["--steps", "'1_0'", "whole number"]),
    Row("steps in other digits", ["--steps", "٣"], ["--steps", "'٣'", "whole number"]),
    Row("frames below 0", ["--frames", "-3"], ["frames is -3", "from 1"]),
    Row("a height of 0", ["--height", "0"], ["height is 0", "from 1"]),
    Row("a scale of nan", ["--guidance-scale", "nan"], ["nan", "finite"]),
    Row("a scale below 0", ["--guidance-scale", "-1"], ["-1", "from 0"]),
    Row("a scale in words", ["--guidance-scale", "strong"], ["'strong'", "not a number"]),
    Row("endless fps", ["--fps", "inf"], ["fps is inf", "finite"]),
    Row("no fps", ["--fps", "0"], ["fps is 0", "from 0.01"]),
    Row("a frame in a thousand seconds", ["--fps", "0.001"], ["fps is 0.001", "from 0.01"]),
    Row("a seed below 0", ["--seed", "-1"], ["seed is -1", "from 0"]),
    Row("a seed of 64 bits", ["--seed", str(2**63)], [str(2**63), "2^63 - 1"]),
    Row("an empty prompt", ["--prompt", "  "], ["prompt is empty"]),
    Row("a prompt beyond what is read", ["--prompt", "red " * 600], ["601 tokens", "reads 512", "shorten"], loads=True),
    Row("a prompt in bytes", ["--prompt", "caf\udce9"], ["--prompt", "UTF-8"]),
    Row("no picture", ["--image", "/no/such.png"], ["'/no/such.png'", "PNG"]),
    Row("a picture of text", ["--image", "TMP/a.png"], ["TMP/a.png", "PNG"], {"a.png": "no picture"}),
    Row("a picture cut short", ["--image", "TMP/a.png"], ["TMP/a.png", "PNG"], {"a.png": b"\x89PNG\r\n\x1a\n\x00\x00"}),
    Row("an empty picture's name", ["--image", ""], ["--image", "empty"]),
    Row("no film", ["--video", "/no/such.mp4"], ["'/no/such.mp4'", "film"]),
    Row("no strength", ["--strength", "0"], ["strength is 0.0", "above 0 up to 1"]),
    Row("a scheduler", ["--scheduler", "Eular"], ["--scheduler 'Eular'", "known are", "UniPCMultistepScheduler"]),
    Row("no shift", ["--shift", "0"], ["shift is 0.0", "above 0"]),
    Row(
        "a LoRA that is not there",
        ["--lora", "no.safetensors:0.5"],
        ["'no.safetensors:0.5'", "no LoRA on this disk, nor one of the hub"],
    ),
    Row("a revision of what is here", ["--revision", "v1"], ["--revision 'v1'", "hub id", "'wan-tiny'"]),
    Row("a variant that there is not", ["--variant", "fp16"], ["--variant 'fp16'", "drop it"]),
    Row("an empty folder's name", ["--out", ""], ["--out", "empty", ". is this folder"]),
    Row("a folder below no folder", ["--out", "/dev/null/out"], ["'/dev/null/out'", "another folder"]),
    Row("a folder that is a file", ["--out", "TMP/a.txt"], ["TMP/a.txt", "another folder"], {"a.txt": "words"}),
]

CONTRADICTIONS = [
    Row(
        "two sources of prompts in a file",
        ["generate", "--config", "TMP/job.yaml"],
        ["keep one"],
        {"job.yaml": "prompt: a\nprompt-file: b"},
    ),
    Row("two sources of prompts", ["--prompt-file", "some.txt"], ["--prompt", "--prompt-file", "keep one"]),
    Row("no prompt", ["generate", "--out", "TMP/out"], ["--prompt", "--prompt-file", EXAMPLE]),
    Row("compare without a cache", ["--compare"], ["--compare", "--cache"]),
    Row("compare with cache none", ["--compare", "--cache", "none"], ["--compare", "--cache"]),
    Row("a history's dtype without a cache", ["--history-dtype", "float16"], ["--history-dtype", "--cache"]),
    Row("a history's place without a cache", ["--history-on", "host"], ["--history-on host", "--cache"]),
    Row(
        "compiled blocks and a method inside them",
        ["--cache", "fora:interval=2", "--compile"],
        ["--compile", "'fora:interval=2'", "@blocks"],
    ),
    Row(
        "a picture for text-to-video",
        ["--image", "TMP/a.ppm"],
        ["WanPipeline takes no --image", "--prompt"],
        {"a.ppm": b"P6 1 1 255 abc"},
    ),
    Row(
        "no guidance but a negative prompt",
        ["--guidance-scale", "1", "--negative-prompt", "noise"],
        ["--negative-prompt", "guidance scale 1", "raise"],
    ),
    Row("a strength of text-to-video", ["--strength", "0.5"], ["WanPipeline takes no --strength"]),
    Row(
        "two kinds of negative prompts",
        ["--negative-prompt", "a", "--negative-prompt-file", "TMP/n.txt"],
        ["--negative-prompt-file", "keep one"],
        {"n.txt": "b"},
    ),
    Row("a height between patches", ["--height", "40"], ["height 40", "multiples of 16", "32 and 48"]),
    Row("a width below a patch", ["--width", "8"], ["width 8", "nearest is 16"]),
    Row("frames between latents", ["--frames", "12"], ["12 frames", "4k + 1", "9 and 13"]),
    Row("a width beyond the model's places", ["--width", "528"], ["width 528", "at most 512"]),
    Row("frames beyond the model's places", ["--frames", "257"], ["frames 257", "at most 253"]),
]

CONFIG_ROWS = [
    config("stebs: 3", "'stebs'", "steps", "guidance-scale", "cache"),
    config("config: other.yaml", "'config'", "known are"),
    config("debug: true", "'debug'", "known are"),
    config("steps: 3\nsteps: 4", "steps is given twice", "line 2", "keep one"),
    config("guidance-scale: 3\nguidance_scale: 4", "guidance_scale is given twice"),
    config("- steps", "no options", "name: value"),
    config("", "no options"),
    config("# nothing\n", "no options"),
    config("steps", "no options"),
    config("steps: [1, 2]", "steps is '[1, 2]'"),
    config("steps: {a: 1}", "steps is '{a: 1}'"),
    config("steps:", "steps is ''"),
    config("steps: many", "--steps", "'many'", "whole number"),
    config("steps: 0x10", "--steps", "'0x10'", "whole number"),
    config("compare: 3", "compare is '3'", "true or false"),
    config("compare: 'true'", "compare", "true or false"),
    config("negative-prompt: no", "negative-prompt is 'no'", "in quotes"),
    config("negative-prompt: null", "negative-prompt is 'null'", "in quotes"),
    config("image: !!python/name:os.system", "image is", "one text"),
    config("? [a, b]\n: 3", "unknown option '[a, b]'", "known are"),
    config("<<: {steps: 3}", "unknown option '<<'"),
    config("a: b: c", "not valid YAML"),
    config("a: 1\n---\nb: 2", "not valid YAML", "another document in line 2"),
    config("[" * 2000, "not valid YAML"),
    config("image: 'caf\xe9'".encode("latin-1"), "UTF-8"),
    config("steps: 3".encode("utf-16"), "UTF-8"),
    config('image: "a\\0b"')._replace(said=["--image", "zero byte"]),
    Row("config that is not there", ["--config", "/no/such.yaml"], ["'/no/such.yaml'", "cannot be read"]),
    Row("config that is a folder", ["--config", "TMP"], ["cannot be read", "directory"]),
]

PROMPT_ROWS = [
    prompts("empty", "", "no prompt", "one a line"),
    prompts("comments", "# nothing\n\n", "no prompt"),
    prompts("of a byte order mark alone", b"\xef\xbb\xbf", "no prompt"),
    prompts("in latin-1", "caf\xe9".encode("latin-1"), "UTF-8"),
    prompts("in UTF-16", "a cat".encode("utf-16"), "UTF-8"),
    prompts("in UTF-16 without a mark", "a cat".encode("utf-16-le"), "zero byte", "UTF-8"),
    prompts("binary", bytes(range(256)), "UTF-8"),
    Row(
        "prompts that are not there",
        ["generate", "--prompt-file", "TMP/p.txt", "--out", "TMP/out"],
        ["TMP/p.txt", "No such"],
    ),
    Row(
        "prompts that are a folder",
        ["generate", "--prompt-file", "TMP", "--out", "TMP/out"],
        ["directory", "text file"],
    ),
]

PLACES = [
    *(
        Row(f"model {where}", ["--model", where], [*BUNDLED, "directory", "hub id"])
        for where in ("TMP/nothing", "./nothing", "nothing", "", "TMP", "/etc/passwd", "a/b/c", "x" * 5000)
    ),
    Row(
        "a hub id that is not there", ["--model", "no-such-owner/no-such-model"], ["no-such-owner/no-such-model", "hub"]
    ),
]

INDEX_ROWS = [
    model("index empty", write("model_index.json", ""), "model_index.json", "JSON", "download"),
    model("index that is a list", write("model_index.json", "[]"), "model_index.json", "object"),
    model("index in git-lfs", write("model_index.json", LFS), "model_index.json", "git lfs pull"),
    model("index without a pipeline", index_of(_class_name=...), "pipeline", "None"),
    model("index of an unknown pipeline", index_of(_class_name="NoPipeline"), "'NoPipeline'", "diffusers", "upgrade"),
    model("index with a pipeline in a list", index_of(_class_name=["a", "b"]), "['a', 'b']"),
    model("index without a decoder", index_of(vae=...), "TMP/model", "vae", "WanPipeline needs it"),
    model("index with a null decoder", index_of(vae=[None, None]), "vae", "WanPipeline needs it"),
    model("index of an unknown decoder", index_of(vae=["diffusers", "NoVae"]), "vae", "'NoVae'", "upgrade"),
    model("index of an unknown tokenizer", index_of(tokenizer=["transformers", "No"]), "tokenizer", "'No'", "upgrade"),
    model(
        "index of a missing component",
        index_of(transformer_2=["diffusers", "WanTransformer3DModel"]),
        "transformer_2",
        "download",
    ),
    model(
        "with something else for a transformer",
        index_of(transformer=["diffusers", "AutoencoderTiny"]),
        "AutoencoderTiny",
        "no timestep",
        "c4d models lists them",
    ),
    model(
        "with an unknown transformer", index_of(transformer=["diffusers", "NoSuchModel"]), "'NoSuchModel'", "diffusers"
    ),
    model("without a transformer", index_of(transformer=[None, None]), "none of transformer, ", "unet"),
    model("of malformed components", index_of(transformer="WanTransformer3DModel"), "none of transformer, "),
    model(
        "that needs a picture", index_of(_class_name="WanImageToVideoPipeline"), "WanImageToVideoPipeline needs --image"
    ),
    model(
        "that needs what no option gives",
        index_of(_class_name="WanVideoToVideoPipeline"),
        "WanVideoToVideoPipeline takes no --frames",
    ),
]

PART_ROWS = [
    model("without a folder", remove("transformer"), "transformer", "missing", "download"),
    model("without a configuration", remove("transformer/config.json"), "transformer", "no config.json"),
    model("with half a configuration", write("transformer/config.json", lambda data: data[:50]), "config.json", "JSON"),
    model("with a configuration in latin-1", write("vae/config.json", b'{"a": "\xe9"}'), "config.json", "JSON"),
    model("with a configuration in git-lfs", write("vae/config.json", LFS), "config.json", "git lfs pull"),
    model(
        "with words for layers", edit("transformer/config.json", num_layers="x"), "transformer", "WanTransformer3DModel"
    ),
    model("with a decoder of words", edit("vae/config.json", z_dim="x"), "vae", "AutoencoderKLWan"),
    model("with a layer more", edit("transformer/config.json", num_layers=9), "transformer", "missing", "blocks.8."),
    model("with layers fewer", edit("transformer/config.json", num_layers=4), "transformer", "unknown", "blocks.4."),
    model(
        "with wider layers",
        edit("transformer/config.json", ffn_dim=256),
        "transformer",
        "another shape",
        "(512, 128) for (256, 128)",
    ),
    model("with another decoder", edit("vae/config.json", z_dim=9), "vae", "another shape"),
    model(
        "with a tensor fewer",
        tensors(f"transformer/{WEIGHTS}", lambda t: t.pop("proj_out.bias")),
        "tensors missing: 1 (proj_out.bias)",
    ),
    model(
        "with a decoder's tensor fewer",
        tensors(f"vae/{WEIGHTS}", lambda t: t.pop(sorted(t)[0])),
        "vae",
        "tensors missing: 1 (",
    ),
    model("without weights", remove(f"transformer/{WEIGHTS}"), "transformer", WEIGHTS, "no other weights"),
    model(
        "with weights of a variant",
        rename(f"transformer/{WEIGHTS}", "diffusion_pytorch_model.fp16.safetensors"),
        f"no {WEIGHTS}",
        "only diffusion_pytorch_model.fp16.safetensors",
    ),
    *(
        model(f"with weights {how}", write(f"transformer/{WEIGHTS}", data), WEIGHTS, "cut short or damaged")
        for how, data in CUT.items()
    ),
    model("with a decoder cut short", write(f"vae/{WEIGHTS}", CUT["cut short"]), "vae", "cut short or damaged"),
    model(
        "with an encoder cut short",
        write("text_encoder/model.safetensors", CUT["cut short"]),
        "text_encoder",
        "cut short or damaged",
    ),
    model("with weights in git-lfs", write(f"transformer/{WEIGHTS}", LFS), WEIGHTS, "git lfs pull"),
    model(
        "with a pickle",
        pickled("diffusion_pytorch_model.bin"),
        "diffusion_pytorch_model.bin",
        "run code",
        "safetensors",
        "--allow-pickle",
    ),
    model("with a pickle of another name", pickled("model.ckpt"), "model.ckpt", "safetensors", "--allow-pickle"),
    model(
        "with a pickle of another name, allowed",
        pickled("model.ckpt"),
        "model.ckpt",
        "convert them to safetensors",
        words=["--allow-pickle"],
    ),
    model(
        "with a pickle of code",
        pickled("diffusion_pytorch_model.bin", Path("x")),
        "diffusion_pytorch_model.bin",
        "tensors alone",
        "convert it",
        words=["--allow-pickle"],
    ),
    model(
        "with a pickle of a list",
        pickled("diffusion_pytorch_model.bin", [1]),
        "diffusion_pytorch_model.bin",
        "damaged",
        words=["--allow-pickle"],
    ),
    model(
        "with a pickle of too little",
        pickled("diffusion_pytorch_model.bin", {"a": torch.zeros(1)}),
        "transformer",
        "missing",
        words=["--allow-pickle"],
    ),
    model(
        "with a pickled encoder",
        rename("text_encoder/model.safetensors", "pytorch_model.bin"),
        "pytorch_model.bin",
        "--allow-pickle",
    ),
    model(
        "with an index of shards without any",
        sharded(weight_map={"a": "one.safetensors", "b": "two.safetensors"}),
        "one.safetensors, two.safetensors",
        "2 files",
    ),
    model("with an index of no map", sharded(metadata={}), f"{WEIGHTS}.index.json", "weight_map"),
    model(
        "with a shard that lacks a tensor",
        sharded(weight_map={"lost.weight": "first.safetensors"}),
        "first.safetensors",
        "lost.weight",
    ),
    model("without a scheduler", remove("scheduler"), "scheduler", "missing"),
    model("with half a scheduler", write("scheduler/scheduler_config.json", "{"), "scheduler_config.json", "JSON"),
    model(
        "without a scheduler's configuration",
        remove("scheduler/scheduler_config.json"),
        "scheduler",
        "UniPCMultistepScheduler",
    ),
    model(
        "with an impossible scheduler",
        edit("scheduler/scheduler_config.json", solver_type="x"),
        "scheduler",
        "UniPCMultistepScheduler",
    ),
    model("with half a tokenizer", write("tokenizer/tokenizer.json", lambda data: data[:99]), "tokenizer.json", "JSON"),
    model("with a tokenizer in git-lfs", write("tokenizer/spiece.model", LFS), "spiece.model", "git lfs pull"),
    model(
        "with an empty tokenizer", write("tokenizer/tokenizer.json", "{}"), "tokenizer", "cannot be loaded", loads=True
    ),
    model(
        "with an encoder's tensor fewer",
        tensors("text_encoder/model.safetensors", lambda t: t.pop("encoder.final_layer_norm.weight")),
        "text_encoder",
        "tensors missing: 1 (encoder.final_layer_norm.weight)",
        loads=True,
    ),
    model(
        "with a wider encoder",
        edit("text_encoder/config.json", d_model=32),
        "text_encoder",
        "tensors of another shape",
        "(64, 64) for (64, 32)",
        loads=True,
    ),
]

ROWS = [
    *METHOD_ROWS,
    *OPTION_ROWS,
    *CONTRADICTIONS,
    *CONFIG_ROWS,
    *PROMPT_ROWS,
    *PLACES,
    *INDEX_ROWS,
    *PART_ROWS,
]
