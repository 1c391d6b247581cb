"""The page that makes a clip: what to show and how fast; its steps as they are done; the uncached clip beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from c4d.bundled.models import BUNDLED, Defaults
from c4d.cli.options import Options
from c4d.pipelines import InputError, Step, skeleton
from c4d.pipelines.request import FILMS, PICTURES
from c4d.pipelines.results import load
from c4d.studio import show
from c4d.studio.form import MORE, Form, sections
from c4d.studio.history import runs
from c4d.studio.offers import NONE, TEXT, Offer, offers
from c4d.studio.pages.follow import AT_ONCE, IN_TURN, LONG, Following, words_of
from c4d.studio.workshop import Workshop

HERE = "Here the clip appears, with <i>compare</i> beside the uncached one."
DB = (
    "steps: those that are computed; dB: closeness to the uncached clip (PSNR), the mean and the worst of several "
    "prompts"
)


class GeneratePage:
    """Its widgets, made inside a block of gradio, and what their buttons do."""

    def __init__(self, workshop: Workshop, model: str, allow_pickle: bool) -> None:
        self.workshop, self.allow_pickle = workshop, allow_pickle
        self.following = Following(workshop)
        example = BUNDLED[model].example if model in BUNDLED else None
        start = {"model": model, "prompt": example, "compare": True}
        fit: dict[str, Any] = {"pipe": self.skeleton(model), "defaults": defaults_of(model)}
        self.form = Form(Options, without=("quality",), values=start, **fit)
        first = self.offered(model, None)
        about, prompts = _about(model)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self.form.add("model", **about)
                self.form.add("prompt", **prompts)
                with gr.Row():
                    self.form.add(*PICTURES, *FILMS, min_width=200)
                self.speed = gr.Radio(
                    _choices(first), value=first[1].value, label="speed", info=DB, elem_classes="c4d-offers"
                )
                self.form.add("cache", visible=False)
                with gr.Row(elem_classes="c4d-line"):
                    self.form.add("compare", label="compare with the uncached clip", info=None, min_width=120)
                    self.form.add("seed", "strength", info=None, min_width=120)
                with gr.Row():
                    self.go = gr.Button("Generate", variant="primary", elem_id="generate", elem_classes="c4d-go")
                    self.halt = gr.Button("Stop", elem_id="stop")
                with gr.Accordion("LoRA", open=False):
                    self.form.add("lora")
                    self.upload = gr.UploadButton("Upload a LoRA", file_types=[".safetensors"], size="sm")
                sections(self.form, MORE)
            with gr.Column(scale=6, min_width=320, elem_classes="c4d-made"):
                self.result = gr.HTML(show.hint(HERE), elem_id="result")
                self.steps = gr.HTML(elem_id="steps")
                self.said = gr.HTML(elem_id="said")
        self.shown = [self.steps, self.result, self.said]

    def connect(self, page: gr.Blocks) -> None:
        """What happens when something is clicked or chosen, and when the ``page`` opens."""
        widgets, inputs = self.form.widgets, [self.speed, *self.form.inputs]
        counted = [widgets["model"], widgets["steps"]]
        made = self.go.click(self.generate, inputs, self.shown, **LONG)
        self.halt.click(self.stop, None, None, **AT_ONCE)
        self.speed.input(_written, self.speed, widgets["cache"], **IN_TURN)
        widgets["model"].input(self.fitted, [*counted, widgets["prompt"]], [*self.form.inputs, self.speed], **IN_TURN)
        self.upload.upload(self.uploaded, [self.upload, widgets["lora"]], widgets["lora"], **IN_TURN)
        for event in (widgets["steps"].change, made.then, page.load):  # the last two: what was measured meanwhile
            event(self.chosen, counted, self.speed, **IN_TURN)

    # -- what the model is asked before it is loaded

    def skeleton(self, model: str) -> Any:
        """The pipeline of ``model`` without its weights. Raises :class:`InputError`."""
        return skeleton(model, allow_pickle=self.allow_pickle)

    def offered(self, model: str, steps: int | None) -> list[Offer]:
        return offers(model, self.skeleton(model), steps, runs(self.workshop.root).values())

    def chosen(self, model: str, steps: int | str | None) -> Any:
        """The picker again, for another number of steps (as text, while it is written) or with what was measured."""
        count = int(steps) if steps and str(steps).isdecimal() else None
        try:
            return gr.update(choices=_choices(self.offered(model, count)))
        except InputError:  # which was said when the model was chosen
            return gr.update()

    def fitted(self, model: str, steps: int | str | None, prompt: str) -> list[Any]:
        """All widgets as the pipeline of ``model`` takes them, the picker last; a prompt that it understands in the
        place of another model's example."""
        try:
            found = self._fitted(model)
        except InputError as error:
            gr.Warning(str(error))
            return [gr.update() for _ in range(len(self.form.inputs) + 1)]
        examples = {each.example for each in BUNDLED.values()}
        if model in BUNDLED and prompt in {"", *examples} - {BUNDLED[model].example}:
            found["prompt"]["value"] = BUNDLED[model].example
        return [*(gr.update(**each) for each in found.values()), self.chosen(model, steps)]

    def _fitted(self, model: str) -> dict[str, dict[str, Any]]:
        found = self.form.fitted(self.skeleton(model), defaults_of(model))
        found["model"], found["prompt"] = _about(model)
        return found

    def uploaded(self, file: str, lines: str | None) -> str:
        """The ``lines`` of LoRAs, with an uploaded one behind them."""
        return "\n".join(filter(None, [lines, str(self.workshop.kept_file(Path(file)))]))

    # -- a clip

    def read(self, speed: str, held: Sequence[Any]) -> Options:
        """The options of the page. Raises :class:`InputError`."""
        said: dict[str, Any] = {"allow_pickle": self.allow_pickle}
        if speed != TEXT:
            said |= {"cache": None} if speed == NONE else {"cache": "auto", "quality": speed}
        options = self.form.read(held, **said)
        return options if options.cache is not None else self.form.read(held, **said, compare=False)

    def generate(self, request: gr.Request, speed: str, *held: Any) -> Iterator[tuple[str, str, str]]:
        """Makes a clip; yields its steps, the result and words about it as they come."""
        try:
            options = self.read(speed, held)
        except InputError as error:
            yield show.problem(error), "", ""
            return
        job = self.following.begin(str(request.session_hash), lambda job: self.workshop.clip(options, job))
        steps: dict[str, Step] = {}
        for ahead, news in self.following.turns(job):
            steps |= {each.label: each for each in news}
            yield show.progress(steps.values()) if steps else show.waiting(ahead), "", ""
        if (failed := job.done.exception()) is not None:
            yield show.problem(words_of(failed)), "", ""
            return
        yield show.progress(steps.values()), *finished(job.done.result())

    def stop(self, request: gr.Request) -> None:
        """Ends the clip of this browser's page."""
        self.following.stop(str(request.session_hash))

    def again(self, told: dict[str, Any]) -> list[Any]:
        """Updates of the widgets that make what ``told`` says again; the last one is of the picker.

        Raises :class:`InputError` for a model that is not there any more."""
        offered, fitted = self.offered(told["model"], told.get("steps")), self._fitted(told["model"])
        speed = next((each.value for each in offered if each.method == told["cache"]), TEXT)
        speed = NONE if told["cache"] == NONE else speed
        filled = self.form.filled(told)
        filled["cache"] = {"value": told["cache"], "visible": speed == TEXT}
        found = [gr.update(**{**fitted[name], **filled[name]}) for name in self.form.widgets]
        return [*found, gr.update(choices=_choices(offered), value=speed)]


def finished(folder: Path) -> tuple[str, str]:
    """A result, and words about it."""
    record = load(folder)
    return show.result(folder, record), show.said(record)


def defaults_of(model: str) -> Defaults | None:
    """Those of a bundled model."""
    return BUNDLED[model].defaults if model in BUNDLED else None


def _about(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What changes of the widgets of model and prompt: what a bundled model is, and which prompts it understands."""
    if model not in BUNDLED:
        return {"info": "a diffusers directory, or a hub id"}, {"info": "what to show"}
    about, _, prompts = BUNDLED[model].about.partition(" Prompts: ")
    return {"info": about}, {"info": prompts}


def _choices(found: Sequence[Offer]) -> list[tuple[str, str]]:
    return [(each.label, each.value) for each in found]


def _written(speed: str) -> Any:
    return gr.update(visible=speed == TEXT)
