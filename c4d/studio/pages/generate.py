"""The page that makes a clip: what to show and how fast; its steps as they are done; the uncached clip beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from c4d.bundled.models import BUNDLED
from c4d.cli.options import Options
from c4d.pipelines import InputError, Step, skeleton
from c4d.pipelines.results import load
from c4d.studio import show
from c4d.studio.form import MORE, Form, sections
from c4d.studio.history import runs
from c4d.studio.offers import NONE, TEXT, Offer, offers
from c4d.studio.pages.follow import Following, words_of
from c4d.studio.workshop import Workshop

SPEED = ("cache", "quality")  # options that the picker stands for
FILES = ("video.mp4", "image.png", "uncached.mp4", "uncached.png", "report.html", "report.json")  # to take away
EMPTY = "", gr.update(visible=False), ""  # no result


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
                self.files = gr.File(
                    label="files", file_count="multiple", interactive=False, visible=False, elem_id="files"
                )
                self.said = gr.HTML(elem_id="said")
        self.shown = [self.steps, self.result, self.files, self.said]

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
            self.chosen, [widgets["model"], widgets["steps"]], self.speed, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip
        for event in (widgets["model"].change, page.load):
            event(
                self.fitted, [widgets["model"], widgets["prompt"]], [*self.form.inputs, self.speed],
                show_progress="hidden", api_visibility="private",
            )  # fmt: skip

    # -- what the model is asked before it is loaded

    def offered(self, model: str, steps: int | None) -> list[Offer]:
        records = runs(self.workshop.root).values()
        return offers(model, skeleton(model, allow_pickle=self.allow_pickle), steps, records)

    def chosen(self, model: str, steps: int | str | None) -> Any:
        """The picker again, for another number of steps (as text, while it is written) or with what was measured."""
        count = int(steps) if steps and str(steps).isdecimal() else None
        return gr.update(choices=_choices(self.offered(model, count)))

    def fitted(self, model: str, prompt: str) -> list[Any]:
        """All widgets as the pipeline of ``model`` takes them, the picker last; a ``prompt`` that it understands in
        place of another model's example."""
        try:
            pipe = skeleton(model, allow_pickle=self.allow_pickle)
            found = self.form.fitted(pipe, BUNDLED[model].defaults if model in BUNDLED else None)
            picker = gr.update(choices=_choices(self.offered(model, None)))
        except InputError as error:
            gr.Warning(str(error))
            return [gr.update() for _ in range(len(self.form.inputs) + 1)]
        if model in BUNDLED and prompt in ("", *(each.example for each in BUNDLED.values())):
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
            yield show.problem(error), *EMPTY, gr.update()
            return
        job = self.following.begin(str(request.session_hash), lambda job: self.workshop.clip(options, job))
        steps: dict[str, Step] = {}
        for ahead, news in self.following.turns(job):
            steps |= {each.label: each for each in news}
            shown = show.progress(steps.values()) if steps else show.waiting(ahead)
            yield shown, *EMPTY, gr.update()
        if (failed := job.done.exception()) is not None:
            yield show.problem(words_of(failed)), *EMPTY, gr.update()
            return
        folder = job.done.result()
        yield show.progress(steps.values()), *finished(folder), self.chosen(options.model, options.steps)

    def stop(self, request: gr.Request) -> None:
        """Ends the clip of this browser's page."""
        self.following.stop(str(request.session_hash))

    def again(self, told: dict[str, Any]) -> list[Any]:
        """Updates of the widgets that make what ``told`` says again; the last one is of the picker."""
        offered = self.offered(told["model"], told.get("steps"))
        speed = next((each.value for each in offered if each.method == told["cache"]), TEXT)
        speed = NONE if told["cache"] == NONE else speed
        found = self.form.filled(told)
        found[list(self.form.widgets).index("cache")] = gr.update(value=told["cache"], visible=speed == TEXT)
        return [*found, gr.update(choices=_choices(offered), value=speed)]


def finished(folder: Path) -> tuple[str, Any, str]:
    """A result: the clip, the files, the words."""
    record = load(folder)
    files = [str(folder / name) for name in FILES if (folder / name).is_file()]
    return show.result(folder, record), gr.update(value=files, visible=True), show.said(record)


def _choices(found: Sequence[Offer]) -> list[tuple[str, str]]:
    return [(each.label, each.value) for each in found]


def _written(speed: str) -> Any:
    return gr.update(visible=speed == TEXT)
