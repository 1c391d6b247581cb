"""The page that makes a profile of a model, and draws its front while it grows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import gradio as gr

from c4d.bundled.models import BUNDLED
from c4d.cli.options import GOAL, TuneOptions
from c4d.cli.tune import FRONT, ROWS, WORK, place_of
from c4d.pipelines import InputError, skeleton
from c4d.pipelines.output import Lines
from c4d.studio import front, show
from c4d.studio.form import MORE, Form, sections
from c4d.studio.pages.follow import AT_ONCE, IN_TURN, LONG, Following, words_of
from c4d.studio.pages.generate import defaults_of
from c4d.studio.workshop import Job, Workshop

SHOWN = 12  # lines of progress
MINUTES = 1.0  # of a search, unless somebody says it: a first look


class TunePage:
    """Its widgets, made inside a block of gradio, and what their buttons do."""

    def __init__(self, workshop: Workshop, model: str, allow_pickle: bool) -> None:
        self.workshop, self.allow_pickle = workshop, allow_pickle
        self.following = Following(workshop)
        start, fit = {"model": model, "minutes": MINUTES}, (self._skeleton(model), defaults_of(model))
        self.form = Form(TuneOptions, ("prompt",), start, *fit)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self.form.add("model")
                self.prompts = gr.Textbox(
                    _prompts(model), lines=8, label="prompts, one a line", elem_id="tune-prompts",
                    info="the first half is learned from, the rest is measured on",
                )  # fmt: skip
                self.form.add("minutes", "computed")
                self.replace = gr.Checkbox(False, label="make it again where there is a profile", elem_id="tune-again")
                with gr.Row():
                    self.go = gr.Button("Tune", variant="primary", elem_id="tune", elem_classes="c4d-go")
                    self.halt = gr.Button("Stop", elem_id="tune-stop")
                sections(self.form, ((GOAL, "What to aim for"), *MORE))
            with gr.Column(scale=6, min_width=320, elem_classes="c4d-made"):
                self.front = gr.HTML(front.draw([]), elem_id="front")
                self.lines = gr.HTML(elem_id="lines")
                self.table = gr.HTML(elem_id="rows")

    def connect(self) -> None:
        """What happens when something is clicked."""
        inputs = [self.prompts, self.replace, *self.form.inputs]
        self.go.click(self.tune, inputs, [self.front, self.lines, self.table], **LONG)
        self.halt.click(self.stop, None, None, **AT_ONCE)
        model = self.form.widgets["model"]
        model.input(self.fitted, [model, self.prompts], [self.prompts, *self.form.inputs], **IN_TURN)

    def _skeleton(self, model: str) -> Any:
        return skeleton(model, allow_pickle=self.allow_pickle)

    def fitted(self, model: str, prompts: str) -> list[Any]:
        """Prompts of a bundled ``model`` in the place of those of another one, never of somebody's own; and all widgets
        as its pipeline takes them."""
        try:
            found = self.form.fitted(self._skeleton(model), defaults_of(model))
        except InputError as error:
            gr.Warning(str(error))
            return [gr.update() for _ in range(len(self.form.inputs) + 1)]
        replaced = prompts in {"", *map(_prompts, BUNDLED)}
        return [
            gr.update(value=_prompts(model)) if replaced else gr.update(),
            *(gr.update(**x) for x in found.values()),
        ]

    def tune(self, request: gr.Request, prompts: str, again: bool, *held: Any) -> Iterator[Any]:
        """Makes a profile; yields the front, the lines and the table as they grow."""
        try:
            options = self.form.read(held, allow_pickle=self.allow_pickle, overwrite=again, quiet=True)
        except InputError as error:
            yield show.problem(error), "", ""
            return

        def act(job: Job) -> Path:
            with NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:  # also after the browser was closed
                file.write(prompts)
                file.flush()
                return self.workshop.tuned(replace(options, prompt_file=Path(file.name)), job)

        yield from self._followed(self.following.begin(str(request.session_hash), act), place_of(options))

    def _followed(self, job: Job, out: Path) -> Iterator[Any]:
        lines, rows = list[str](), 0
        for ahead, news in self.following.turns(job):
            lines += news
            found = [front.row_of(each) for each in Lines(out.with_suffix(WORK) / ROWS).read()]
            if news or len(found) != rows or not lines:
                said = _said(lines) if lines else show.waiting(ahead)
                yield front.draw(found), said, front.table(found)
            rows = len(found)
        if (failed := job.done.exception()) is not None:
            yield gr.update(), show.problem(words_of(failed)), gr.update()
            return
        told = json.loads(out.with_suffix(FRONT).read_text(encoding="utf-8"))
        ended = [front.row_of(each) for each in told["rows"]]
        lines.append(f"the profile is {out}; the page Generate takes it from now on")
        yield front.draw(ended, told["recommended"]), _said(lines), front.table(ended, told["recommended"])

    def stop(self, request: gr.Request) -> None:
        """Ends the search of this browser's page; begun again with the same settings it goes on."""
        self.following.stop(str(request.session_hash))


def _prompts(model: str) -> str:
    return "\n".join(BUNDLED[model].prompts) if model in BUNDLED else ""


def _said(lines: Sequence[str]) -> str:
    return f'<div class="c4d-lines">{escape(chr(10).join(lines[-SHOWN:]))}</div>'
