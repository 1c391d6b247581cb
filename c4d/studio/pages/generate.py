"""The page that makes a clip: what to show, how fast, each step as it is done, and the result beside the uncached one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from c4d.bundled.models import BUNDLED
from c4d.cli.options import Options
from c4d.pipelines import InputError, Stepped, skeleton
from c4d.pipelines.results import load
from c4d.studio import show
from c4d.studio.form import MORE, Form, sections
from c4d.studio.history import runs
from c4d.studio.offers import NONE, TEXT, Offer, offers
from c4d.studio.pages.follow import Following, words_of
from c4d.studio.workshop import Workshop

SPEED = ("cache", "quality")  # options that the picker stands for
FILES = ("video.mp4", "image.png", "uncached.mp4", "uncached.png", "report.html", "report.json")  # to take away


class GeneratePage:
    """Its widgets, made inside a block of gradio, and what their buttons do."""

    def __init__(self, workshop: Workshop, model: str, allow_pickle: bool) -> None:
        self.workshop, self.allow_pickle = workshop, allow_pickle
        self.following = Following(workshop)
        example = BUNDLED[model].example if model in BUNDLED else None
        start = {"model": model, "prompt": example, "compare": True}
        self.form = Form(Options, without=("quality",), values=start)
        first = self.offered(model, None)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self.form.add("model", "prompt")
                self.speed = gr.Radio(_choices(first), value=first[1].value, label="speed", elem_classes="c4d-offers")
                self.form.add("cache", visible=False)
                self.form.add("compare", "seed")
                with gr.Row():
                    self.go = gr.Button("Generate", variant="primary", elem_id="generate")
                    self.halt = gr.Button("Stop", elem_id="stop")
                self.form.add("image", visible=False)
                sections(self.form, MORE)
            with gr.Column(scale=6, min_width=320):
                self.steps = gr.HTML(elem_id="steps")
                self.result = gr.HTML(elem_id="result")
                self.said = gr.HTML(elem_id="said")
                self.files = gr.File(label="files", file_count="multiple", visible=False, elem_id="files")
        self.shown = [self.steps, self.result, self.said, self.files]

    def connect(self, page: gr.Blocks) -> None:
        """What happens when something is clicked or chosen, and when the ``page`` opens."""
        widgets, inputs = self.form.widgets, [self.speed, *self.form.inputs]
        self.go.click(
            self.generate, inputs, [*self.shown, self.speed], concurrency_limit=None, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip
        self.halt.click(self.stop, None, None, queue=False, api_visibility="private")
        self.speed.change(_written, self.speed, widgets["cache"], show_progress="hidden", api_visibility="private")
        widgets["steps"].change(
            self.chosen, [widgets["model"], widgets["steps"], self.speed], self.speed, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip
        fitted = [*self.form.inputs, self.speed]
        widgets["model"].change(self.fitted, [widgets["model"], self.speed], fitted, api_visibility="private")
        fit = partial(self.fitted, prompt=False)
        page.load(fit, [widgets["model"], self.speed], fitted, show_progress="hidden", api_visibility="private")

    # -- what the model is asked before it is loaded

    def offered(self, model: str, steps: int | None) -> list[Offer]:
        records = runs(self.workshop.root).values()
        return offers(model, skeleton(model, allow_pickle=self.allow_pickle), steps, records)

    def chosen(self, model: str, steps: int | None, speed: str) -> Any:
        """The picker again, for another number of steps or with what was measured since."""
        return gr.update(choices=_choices(self.offered(model, steps)), value=speed)

    def fitted(self, model: str, speed: str, prompt: bool = True) -> list[Any]:
        """All widgets as the pipeline of ``model`` takes them; a ``prompt`` that it understands in place of the last."""
        try:
            pipe = skeleton(model, allow_pickle=self.allow_pickle)
            found = self.form.fitted(pipe, BUNDLED[model].defaults if model in BUNDLED else None)
            picker = gr.update(choices=_choices(self.offered(model, None)), value=speed)
        except InputError as error:
            gr.Warning(str(error))
            return [gr.update() for _ in range(len(self.form.inputs) + 1)]
        if prompt and model in BUNDLED:
            found[list(self.form.widgets).index("prompt")] = gr.update(value=BUNDLED[model].example)
        return [*found, picker]

    # -- a clip

    def read(self, speed: str, held: Sequence[Any]) -> Options:
        """The options of the page. Raises :class:`InputError`."""
        said: dict[str, Any] = {"allow_pickle": self.allow_pickle}
        if speed != TEXT:
            said |= {"cache": None} if speed == NONE else {"cache": "auto", "quality": speed}
        options = self.form.read(held, **said)
        return options if options.cache is not None else self.form.read(held, **said, compare=False)

    def generate(self, request: gr.Request, speed: str, *held: Any) -> Iterator[Any]:
        """Makes a clip; yields what is shown meanwhile, and at last the result."""
        try:
            options = self.read(speed, held)
        except InputError as error:
            yield show.problem(error), "", "", gr.update(visible=False), gr.update()
            return
        job = self.following.begin(str(request.session_hash), lambda job: self.workshop.clip(options, job))
        steps: dict[str, Stepped] = {}
        for ahead, news in self.following.turns(job):
            steps |= {each.label: each for each in news}
            shown = show.progress(steps.values()) if steps else show.waiting(ahead)
            yield shown, *([gr.update()] * 3 if steps else ["", "", gr.update(visible=False)]), gr.update()
        error = job.done.exception()
        if error is not None:
            yield show.problem(words_of(error)), "", "", gr.update(visible=False), gr.update()
            return
        folder = job.done.result()
        yield show.progress(steps.values()), *finished(folder), self.chosen(options.model, options.steps, speed)

    def stop(self, request: gr.Request) -> None:
        """Ends the clip of this browser's page."""
        self.following.stop(str(request.session_hash))

    def again(self, told: dict[str, Any]) -> list[Any]:
        """Updates of the widgets that make what ``told`` says again; the last one is of the picker."""
        found = self.form.filled({**told, "quality": "balanced"})
        found[list(self.form.widgets).index("cache")] = gr.update(value=told["cache"], visible=told["cache"] != NONE)
        return [*found, gr.update(value=NONE if told["cache"] == NONE else TEXT)]


def finished(folder: Path) -> tuple[str, str, Any]:
    """A result: the clip, the words, the files."""
    record = load(folder)
    files = [str(folder / name) for name in FILES if (folder / name).is_file()]
    return show.result(folder, record), show.said(record), gr.update(value=files, visible=True)


def _choices(found: Sequence[Offer]) -> list[tuple[str, str]]:
    return [(each.label, each.value) for each in found]


def _written(speed: str) -> Any:
    return gr.update(visible=speed == TEXT)
