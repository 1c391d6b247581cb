"""Every legal division of some devices, and what is said of those that are not."""

from __future__ import annotations

import json

import pytest
import torch

from c4d.cli.main import main
from c4d.core.example import Size
from c4d.core.runtime.history import HistoryConfig
from c4d.core.text.grammar import parse
from c4d.models import SPECS, spec_for
from c4d.parallel import Degrees, SequenceParallel
from c4d.parallel.degrees import possible
from c4d.plan.model import planned
from c4d.plan.run import PlanError, Setup, run
from c4d.plan.table import Planner, Speeds, fewest_heads
from tests.tiny import CASES

SPEEDS = Speeds(tflops=1e-6, bandwidth=1e-3, across=1e-4, node=8)
ANY = SequenceParallel()


def planner(name="wan-t2v", method="taylorseer-lite:interval=2,order=1@blocks", branches=2, **config):
    case = CASES[name]
    model = case.build(**config).to("meta")
    given = {**case.inputs(), "hidden_states": torch.empty(case.latents), "timestep": torch.ones(1)}
    setup = Setup(model, spec_for(model), given, method and parse(method), 4, branches)
    return Planner(setup, fewest_heads(setup))


@pytest.mark.parametrize("world", [1, 2, 6, 7, 12, 96, 1024])
def test_all_legal_divisions_are_there_the_fastest_first(world):
    found = planner(num_attention_heads=12)
    rows = found.rows(world, ANY, SPEEDS)
    assert {row.degrees for row in rows} == {d for d in possible(world, 12, 2) if d.data == 1}
    times = [row.seconds[0] for row in rows]
    assert times == sorted(times) and times[0] > 0


def test_cache_of_a_rank_is_that_of_its_run():
    """The line through two runs meets every other one, where tokens divide and where they do not."""
    for method in (
        "taylorseer-lite:interval=2,order=1@blocks",
        "fora:interval=2",
        "taylorseer-lite:interval=2,order=1",
    ):
        found = planner("flux", method)
        for ranks in (3, 7):
            (row,) = found.rows(ranks, SequenceParallel(1, ranks, 1), None)
            assert row.cache == run(found.setup, ranks).cache


def test_each_branch_holds_its_own():
    found = planner()
    both, apart = (found.rows(2, SequenceParallel(cfg=n), None)[0] for n in (1, 2))
    alone = found.rows(1, ANY, None)[0]
    assert apart.cache * 2 == both.cache * 2 == alone.cache
    assert apart.sent["cfg"] > 0 and "ulysses" not in apart.sent


def test_a_method_that_measures_has_two_times():
    slow, fast = planner(method="first-block:threshold=0.1").rows(1, ANY, SPEEDS)[0].seconds
    assert slow > fast
    same = planner().rows(1, ANY, SPEEDS)[0].seconds
    assert same[0] == same[1]


def test_links_between_machines_are_slower():
    found = planner(method=None, num_attention_heads=16)
    seconds = {r.degrees: r.seconds[0] for r in found.rows(16, SequenceParallel(cfg=1), SPEEDS)}
    across, inside = seconds[Degrees(16, 1)], seconds[Degrees(8, 2)]
    fast = Speeds(SPEEDS.tflops, SPEEDS.bandwidth, SPEEDS.bandwidth, 8)
    same = {r.degrees: r.seconds[0] for r in found.rows(16, SequenceParallel(cfg=1), fast)}
    assert across - same[Degrees(16, 1)] > inside - same[Degrees(8, 2)] > 0


def test_history_on_the_host_is_not_on_the_device():
    found = planner()
    there = planner()
    there.setup = Setup(**{**vars(found.setup), "storage": HistoryConfig(place="host")})
    one, other = found.rows(1, ANY, None)[0], there.rows(1, ANY, None)[0]
    assert one.cache == other.cache > 0 and one.memory - one.activations - one.cache == other.memory - other.activations


def test_what_is_said_of_numbers_that_do_not_fit():
    found = planner(num_attention_heads=12)
    said = found.remark(7)
    assert said.startswith("12 heads do not divide by 7: ulysses 7 fills them up with 2 of zeros; 6 or 12 divide them")
    assert found.remark(6) is None
    with pytest.raises(PlanError, match=r"ulysses=7 does not fit 8 ranks, 12 heads .*possible are: "):
        found.rows(8, SequenceParallel(ulysses=7), None)
    with pytest.raises(PlanError, match="devices is 1025; allowed are whole numbers from 1 to 1024"):
        found.rows(1025, ANY, None)
    guided = planner(method="cfg-cache:interval=2")
    assert all(row.degrees.cfg == 1 for row in guided.rows(4, ANY, None))


def test_a_model_that_cannot_be_spread():
    found = planner("dit", None, 1)
    if spec_for(found.setup.transformer).sharding is None:
        with pytest.raises(
            PlanError, match=r"DiT\w+ cannot be spread over 4 devices: .*; use 1, or one for each prompt"
        ):
            found.rows(4, ANY, None)


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.request is not None])
def test_published_defaults_make_a_plan(name):
    """A class alone, with one block of each kind for the time's sake."""
    model = planned(name, torch.bfloat16).transformer
    spec = spec_for(model)
    for stack in spec.stacks:
        del model.get_submodule(stack.path)[1:]
    size = Size(128, 256, 5 if "3D" in name else 1, dtype=torch.bfloat16)
    one = run(Setup(model, spec, spec.request(model, size), None, 2))
    assert one.forwards[0].flops > 0 and one.tokens == (5 // 4 + 1 if "3D" in name else 1) * 8 * 16
    with pytest.raises(ValueError, match="height is 100; this model takes multiples of 16"):
        spec.request(model, Size(100, 128))


def said(capsys, *words):
    code = main(["plan", *words])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_the_command(capsys, tmp_path):
    speeds = ["--tflops", "0.1", "--bandwidth", "1"]
    how = ["--devices", "1/4/7", "--cache", "taylorseer-lite:interval=2@blocks", "--steps", "4", *speeds]
    code, out, _ = said(capsys, *how)
    assert code == 0 and "7 devices: " in out and "text_encoder: " in out and "predicted" in out
    code, out, _ = said(capsys, *how, "--json")
    found = json.loads(out)
    assert code == 0 and {row["devices"] for row in found["rows"]} == {1, 4, 7}
    assert found["others"]["vae"] > 0 and all(row["memory"] > row["cache"] > 0 for row in found["rows"])
    folder = tmp_path / "transformer"
    folder.mkdir()
    config = {"_class_name": "FluxTransformer2DModel", "num_layers": 1, "num_single_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    code, out, _ = said(capsys, "--model", str(folder), "--height", "64", "--width", "64", "--steps", "2")
    assert code == 0 and "no time is predicted" in out and str(folder) in out


CASES_OF_FILES = {
    "flop": '{"part": "attention", "case": "a", "shape": [1, 9000, 2, 64], "masked": false, "flop": 2e12, '
    '"kernels": {"auto": {"ms": 4.0}}}',
    "link": '{"part": "cards", "case": "times, 8 ranks", "ranks": 8, "times": {"all-to-all of queries, x": '
    '{"gb_s": 150.0}}}',
}


@pytest.mark.parametrize("model", ["wan-tiny", "flux-tiny"])  # with decoders that are not the published ones
def test_a_bundled_model_holds_what_was_planned_for_it(capsys, tmp_path, model):
    asked = ["--model", model, "--cache", "taylorseer:interval=2", "--steps", "3"]
    assert main(["plan", *asked, "--dtype", "float32", "--devices", "1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert main(["generate", *asked, "--prompt", "a red circle", "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert row["cache"] == json.loads((tmp_path / "out/report.json").read_text())["session"]["peak_bytes"]


def test_speeds_of_a_file(capsys, tmp_path):
    file = tmp_path / "cases.jsonl"
    file.write_text("\n".join(CASES_OF_FILES.values()))
    code, out, _ = said(capsys, "--measured", str(file), "--steps", "2", "--json")
    speeds = json.loads(out)["speeds"]
    assert code == 0 and (speeds["tflops"], speeds["bandwidth"], speeds["across"]) == (500.0, 150.0, 18.75)
    file.write_text(CASES_OF_FILES["flop"])
    code, _, err = said(capsys, "--measured", str(file))
    assert code == 2 and "'cards': measure it, or give --bandwidth" in err


WRONG = {
    "a model": (["--model", "nowhere"], "model 'nowhere' is nothing to plan for; give a class"),
    "a home": (["--model", "~nobody-here/wan"], "'~nobody-here/wan' is nothing to plan for"),
    "a class": (
        ["--model", "DiTTransformer2DModel"],
        "does not know how pipelines of DiTTransformer2DModel turn pixels",
    ),
    "no size": (["--model", "FluxTransformer2DModel"], "no size: give --height and --width"),
    "a size": (["--height", "33"], "height is 33; this model takes multiples of"),
    "frames": (["--frames", "6"], "frames is 6; this model takes 1 and more by multiples of 4"),
    "half of the speeds": (["--tflops", "3"], "give the other one, too"),
    "a speed": (["--tflops", "0", "--bandwidth", "1"], "tflops is 0; it has to be above 0"),
    "both": (["--measured", "x", "--tflops", "1"], "keep one"),
    "a file": (["--measured", "nowhere"], "'nowhere' is no cases.jsonl of bench/accelerator"),
    "a method": (["--cache", "fora:interval=0"], "fora"),
    "branches": (["--branches", "3"], "branches is 3; allowed are 1 and 2"),
    "devices": (["--devices", "0"], "0 devices: devices is 0; allowed are whole numbers from 1 to 1024"),
    "degrees": (["--devices", "7", "--ulysses", "4"], "7 devices: ulysses=4 does not fit 7 ranks"),
    "a dtype of the history": (["--history-dtype", "int4"], "int4"),
    "a dtype": (["--dtype", "int8"], "unknown dtype 'int8'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_input_is_one_line(capsys, what):
    words, wanted = WRONG[what]
    code, out, err = said(capsys, *words)
    assert code == 2 and not out and wanted in err and err.count("\n") == 1, (code, out, err)
