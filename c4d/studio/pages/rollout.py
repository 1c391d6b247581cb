"""The page of a clip that plays while it is made, block by block."""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import gradio as gr

from c4d.bundled.models import ROLLING
from c4d.cli.options import RolloutOptions
from c4d.cli.rollout import CLIP
from c4d.pipelines import InputError
from c4d.studio import show
from c4d.studio.form import MORE, Form, sections
from c4d.studio.pages.follow import AT_ONCE, LONG, Following, words_of
from c4d.studio.workshop import Job, Workshop

HERE = "Here the clip plays while it is made, from the first frames on."
SENT = 8  # blocks that an update carries, so that none is missed where a browser is slow


class RolloutPage:
    """Its widgets, made inside a block of gradio, and what their buttons do."""

    def __init__(self, workshop: Workshop, allow_pickle: bool) -> None:
        self.workshop, self.allow_pickle = workshop, allow_pickle
        self.following = Following(workshop)
        self.prompts: dict[str, queue.SimpleQueue[str]] = {}  # of a session: what is to be shown from now on
        self.numbers = itertools.count(1)
        model = next(iter(ROLLING))
        self.form = Form(RolloutOptions, values={"model": model, "prompt": ROLLING[model].example, "seconds": 5.0})
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self.form.add("model", "prompt", "seconds", "seed")
                with gr.Row():
                    self.go = gr.Button("Roll out", variant="primary", elem_id="roll", elem_classes="c4d-go")
                    self.halt = gr.Button("Stop", elem_id="roll-stop")
                with gr.Row(equal_height=True):
                    self.next = gr.Textbox(label="from now on", placeholder="another prompt, while it rolls", scale=4)
                    self.turn = gr.Button("Change", scale=1, elem_id="turn")
                sections(self.form, MORE)
            with gr.Column(scale=6, min_width=320, elem_classes="c4d-made"):
                self.stream = gr.HTML(show.hint(HERE), elem_id="stream")
                self.film = gr.HTML(elem_id="rolled")

    def connect(self) -> None:
        """What happens when something is clicked."""
        self.go.click(self.roll, self.form.inputs, [self.stream, self.film], **LONG)
        self.halt.click(self.stop, None, None, **AT_ONCE)
        self.turn.click(self.change, self.next, None, **AT_ONCE)

    def roll(self, request: gr.Request, *held: Any) -> Iterator[Any]:
        """Makes a clip; yields its blocks as they come, and at last its file."""
        try:
            options = self.form.read(held, allow_pickle=self.allow_pickle)
        except InputError as error:
            yield show.problem(error), ""
            return
        session = str(request.session_hash)
        asked = self.prompts[session] = queue.SimpleQueue()

        def act(job: Job) -> Any:
            def on_block(frames: Any, fps: float) -> str | None:
                job.tell((frames, fps))
                with suppress(queue.Empty):
                    return asked.get_nowait()
                return None

            return self.workshop.roll(options, job, on_block)

        job, run = self.following.begin(session, act), next(self.numbers)
        blocks, frames, fps, began = list[show.Block](), 0, 1.0, time.monotonic()
        for ahead, news in self.following.turns(job):
            for each, rate in news:
                blocks.append(show.block(len(blocks), each))
                frames, fps = frames + len(each), rate
            if not blocks:
                began = time.monotonic()
                yield show.waiting(ahead), ""
            elif news:
                said = f"{frames} frames, {frames / fps:.1f} s of film, in {time.monotonic() - began:.1f} s"
                yield show.stream(run, fps, blocks[-max(SENT, len(news)) :], said, ended=False), gr.update()
        self.prompts.pop(session, None)
        if (failed := job.done.exception()) is not None:
            yield show.problem(words_of(failed)), ""
            return
        said = f"{frames} frames, {frames / fps:.1f} s of film: plays from the start again"
        clip = job.done.result() / CLIP
        kept = show.links({clip: "Download the clip"}) if clip.is_file() else ""
        yield show.stream(run, fps, blocks[-SENT:], said, ended=True), kept

    def again(self, told: dict[str, Any]) -> list[Any]:
        """Updates of the widgets that make what ``told`` says again."""
        return [gr.update(**each) for each in self.form.filled(told).values()]

    def stop(self, request: gr.Request) -> None:
        """Ends the clip of this browser's page; what was made is kept."""
        self.following.stop(str(request.session_hash))

    def change(self, prompt: str, request: gr.Request) -> None:
        """Another prompt from the next block on."""
        asked = self.prompts.get(str(request.session_hash))
        if asked is None or not prompt.strip():
            gr.Warning("nothing rolls here, or the prompt is empty: roll out, then change it")
        else:
            asked.put(prompt)
