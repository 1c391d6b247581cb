"""The pages in this process, without a browser: widgets of every option, what they read, what a click yields."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

gr = pytest.importorskip("gradio", reason="pip install 'c4d[studio]'")

from c4d.bundled.models import BUNDLED  # noqa: E402
from c4d.cli.options import CLUSTER, RANKS, WHERE, Options, RolloutOptions, TuneOptions  # noqa: E402
from c4d.pipelines import InputError, skeleton  # noqa: E402
from c4d.studio.form import NOT_HERE, Form  # noqa: E402
from c4d.studio.history import asked, runs  # noqa: E402
from c4d.studio.offers import NONE, TEXT  # noqa: E402
from c4d.studio.pages.app import pages  # noqa: E402
from c4d.studio.pages.generate import GeneratePage  # noqa: E402
from c4d.studio.pages.history import HistoryPage  # noqa: E402
from c4d.studio.pages.tune import TunePage  # noqa: E402
from c4d.studio.workshop import Workshop  # noqa: E402

BROWSER = SimpleNamespace(session_hash="one")


def form(kind=Options, **values):
    with gr.Blocks():
        made = Form(kind, values=values)
        made.add(*made.fields)
    return made


@pytest.fixture
def workshop(tmp_path):
    with Workshop(tmp_path / "out") as made:
        made.root.mkdir()
        yield made


@pytest.fixture
def page(workshop):
    with gr.Blocks():
        return GeneratePage(workshop, "wan-tiny", False)


def held(made, **values):
    """What the widgets hold, as a browser sends it."""
    return [values.get(name, widget.value) for name, widget in made.widgets.items()]


@pytest.mark.parametrize("kind", [Options, RolloutOptions, TuneOptions])
def test_every_option_of_a_command_has_a_widget(kind):
    shared = (RANKS, CLUSTER, WHERE)
    wanted = {each.name for each in fields(kind) if each.metadata["group"] not in shared} - NOT_HERE
    made = form(kind)
    assert set(made.widgets) == wanted and len(wanted) > 20
    assert made.read(held(made)) == kind()  # as they are, they say what the command says by itself


def test_what_widgets_hold_is_read_as_the_command_line_reads_it(tmp_path):
    made = form()
    given = dict(
        prompt="a dot", steps="12", guidance_scale="3.14159265", seed=2**40, cache="none", compile=True, memory=""
    )
    pictures = [(str(tmp_path / name), None) for name in ("a.png", "b\nc.png")]
    options = made.read(held(made, **given, image=pictures, lora="one.safetensors:0.5\n\ntwo.safetensors"))
    assert options.steps == 12 and options.guidance_scale == 3.14159265 and options.seed == 2**40 and options.compile
    assert options.cache is None and options.memory is None
    assert options.image == (tmp_path / "a.png", tmp_path / "b\nc.png")
    assert options.lora == ("one.safetensors:0.5", "two.safetensors")
    assert form(TuneOptions).read(held(form(TuneOptions), computed="20/14")).computed == (20, 14)
    with pytest.raises(InputError, match="--computed: '1x' is not a whole number"):
        form(TuneOptions).read(held(form(TuneOptions), computed="20/1x"))


def test_only_what_the_pipeline_takes_is_shown():
    made = form()
    shown = {}
    for model in BUNDLED:
        updates = made.fitted(skeleton(model), BUNDLED[model].defaults)
        shown[model] = {name for name, update in updates.items() if update.get("visible", True)}
    assert {"frames", "negative_prompt", "height"} <= shown["wan-tiny"] and "image" not in shown["wan-tiny"]
    assert "frames" not in shown["flux-tiny"] and "height" in shown["flux-tiny"]
    assert "height" not in shown["glyph-dit"] and "guidance_scale" in shown["glyph-dit"]
    assert updates["steps"]["placeholder"] == "50"
    empty = [name for name, widget in made.widgets.items() if isinstance(widget, gr.Number) and widget.value is None]
    assert not empty  # gradio shows those as 0, and sends it


def test_a_film_may_be_cut_where_the_pipeline_has_no_word_for_its_length():
    class Change:
        def __call__(self, video=None, prompt=None, strength: float = 0.8, num_inference_steps=10): ...

    made = form()
    updates = made.fitted(Change(), None)
    assert updates["frames"]["visible"] and updates["video"]["visible"] and not updates["image"]["visible"]
    assert updates["strength"]["placeholder"] == "0.8"


def test_only_pictures_and_films_are_taken(tmp_path):
    file = tmp_path / "film.zip"
    file.touch()
    widgets = form().widgets
    for name, taken in {"video": ".mp4", "mask": ".png", "last_image": ".jpg"}.items():
        data = widgets[name].data_model
        with pytest.raises(gr.Error, match="Invalid file type"):
            widgets[name].preprocess(data.from_json({"path": str(file), "meta": {"_type": "gradio.FileData"}}))
        other = {"path": str(file.with_suffix(taken)), "meta": {"_type": "gradio.FileData"}}
        assert widgets[name].preprocess(data.from_json(other)) == str(file.with_suffix(taken))


def test_what_a_record_says_is_taken_back(page, tmp_path):
    """Several pictures, a LoRA with its scale, and a scheduler."""
    options = dict(
        model="wan-tiny", prompt="x", steps=4, cache="fora:interval=2", seed=3, scheduler="DDIMScheduler",
        image=["a.png", "b.png"], argument=["true_cfg_scale=4"],
        lora=[{"path": "a.safetensors", "scale": 0.1234567}, {"path": "b.safetensors", "scale": 1.0, "expert": True}],
    )  # fmt: skip
    found = dict(zip(page.form.widgets, page.again(asked({"asked": options})), strict=False))
    assert found["lora"]["value"] == "a.safetensors:0.1234567\nb.safetensors:1.0@transformer_2"
    assert found["argument"]["value"] == "true_cfg_scale=4" and found["image"]["value"] == ["a.png", "b.png"]
    assert found["scheduler"]["value"] == "DDIMScheduler" and "UniPCMultistepScheduler" in found["scheduler"]["choices"]


def test_a_click_yields_steps_and_then_the_result(page, workshop):
    given = held(page.form, steps="4", frames="5", cache="fora:interval=2")
    yielded = list(page.generate(BROWSER, TEXT, *given))
    assert any("step 2 of 4" in each[0] and "c4d-player" not in each[1] for each in yielded)
    steps, result, said = yielded[-1]
    assert "fewer" in steps and 'data-view="difference"' in result and result.count("data:image/webp") == 3
    assert "times as fast" in result and "data:image/svg+xml" in said and "seed 0" in said

    (folder,) = runs(workshop.root)
    links = re.findall(r'href="gradio_api/file=([^"]*)" download="([^"]*)"', result)
    assert [Path(where).name for where, _ in links] == ["video.mp4", "report.html", "uncached.mp4"]
    assert all(Path(where).is_file() and name == f"{folder.name}-{Path(where).name}" for where, name in links)
    with gr.Blocks(), gr.Tab("h") as tab:
        history = HistoryPage(workshop, tab)
    shown, folders = history.listed()
    assert folders == [str(folder)] and shown[0][0].endswith("video.mp4")
    again = history.opened(folders, SimpleNamespace(index=0))
    assert again[0] == folders[0] and again[1] == result
    *updates, picker = page.again(asked(runs(workshop.root)[folder]))
    filled = [update["value"] for update in updates]
    assert picker["value"] == TEXT
    options = page.read(TEXT, filled)
    assert (options.steps, options.frames, options.cache, options.compare) == (4, 5, "fora:interval=2", True)


def test_a_profile_is_tuned_by_what_its_pipeline_takes(workshop):
    with gr.Blocks():
        tune = TunePage(workshop, "glyph-dit", False)
    assert not tune.form.widgets["video"].visible and not tune.form.widgets["height"].visible
    prompts, *updates = tune.fitted("wan-tiny", tune.prompts.value)
    shown = dict(zip(tune.form.widgets, updates, strict=True))
    assert "moving" in prompts["value"] and tune.fitted("wan-tiny", "mine")[0] == gr.update()
    assert shown["height"] == {**gr.update(visible=True, placeholder="32")}
    with pytest.warns(UserWarning, match="does not exist"):
        assert set(map(str, tune.fitted("/no/such", ""))) == {str(gr.update())}


def test_a_search_that_waits_is_made_also_after_its_browser_was_closed(workshop, monkeypatch):
    go, read = Event(), []

    def run(options, stops, tell):
        read.append(options.prompt_file.read_text())

    monkeypatch.setattr("c4d.cli.tune.run", run)
    workshop.begin(lambda job: go.wait(30))
    with gr.Blocks():
        tune = TunePage(workshop, "wan-tiny", False)
    shown = tune.tune(BROWSER, "one\ntwo", False, *held(tune.form))
    assert "1 job before this one" in next(shown)[1]
    shown.close()
    go.set()
    workshop.begin(lambda job: None).done.result()
    assert read == ["one\ntwo"]


def test_a_lora_is_uploaded(page, workshop, tmp_path):
    file = tmp_path / "one.safetensors"
    file.write_bytes(b"weights")
    lines = page.uploaded(str(file), page.uploaded(str(file), None) + ":0.5")
    options = page.read(NONE, held(page.form, lora=lines))
    kept = Path(options.lora[1])
    assert options.lora == (f"{kept}:0.5", str(kept)) and kept.read_bytes() == b"weights"
    assert kept.parent == workshop.root / "uploads"


def test_speed_becomes_options(page):
    given = held(page.form)
    assert page.read("fast", given).quality == "fast" and page.read("fast", given).cache == "auto"
    plain = page.read(NONE, given)
    assert plain.cache is None and not plain.compare  # with nothing cached there is nothing to compare
    told = {**asked_of(page.read("fast", given)), "cache": "profile:wan-tiny,quality=fast"}
    assert page.again(told)[-1]["value"] == "fast"  # the method of that offer


def asked_of(options):
    return {each.name: value for each in fields(options) if (value := getattr(options, each.name)) is not None}


def test_errors_are_said_on_the_page(page):
    wrong = list(page.generate(BROWSER, TEXT, *held(page.form, cache="fora:interval=<x>")))[-1]
    assert "c4d-problem" in wrong[0] and "&lt;x&gt;" in wrong[0] and not wrong[1]
    small = list(page.generate(BROWSER, NONE, *held(page.form, height="33")))[-1]
    assert "height 33" in small[0]


def test_the_page_asks_nobody_else(workshop):
    """It is whole without a network: no telemetry, no fonts, no scripts from elsewhere."""
    made = pages(workshop)
    assert made.analytics_enabled is False
    assert not [each for each in made.blocks.values() if "http" in str(getattr(each, "value", ""))]
    for asset in (Path(__file__).parents[2] / "c4d/studio/assets").iterdir():
        assert "http" not in asset.read_text() and "import " not in asset.read_text()
