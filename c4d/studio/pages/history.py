"""The page of what was made: each clip with its settings, which a click takes back into the form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from c4d.pipelines.results import load
from c4d.studio import show
from c4d.studio.history import asked, runs, thumbnail
from c4d.studio.pages.follow import IN_TURN, QUIET
from c4d.studio.pages.generate import GeneratePage, finished
from c4d.studio.workshop import Workshop


class HistoryPage:
    """Its widgets, made inside a block of gradio, and what their buttons do."""

    def __init__(self, workshop: Workshop, tab: gr.Tab) -> None:
        self.workshop, self.tab = workshop, tab
        self.folders = gr.State([])
        self.chosen = gr.State(None)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self.gallery = gr.Gallery(
                    label="newest first", columns=3, object_fit="contain", allow_preview=False, elem_id="gallery",
                    height="auto", fit_columns=False,
                )  # fmt: skip
                self.again = gr.Button("Take these settings", variant="primary", interactive=False, elem_id="again")
            with gr.Column(scale=6, min_width=320):
                self.result = gr.HTML(elem_id="past")
                self.said = gr.HTML()

    def connect(self, page: GeneratePage, tabs: gr.Tabs, generate: gr.Tab) -> None:
        """What happens when something is clicked or chosen."""
        self.tab.select(self.listed, None, [self.gallery, self.folders], **QUIET)
        shown = [self.chosen, self.result, self.said, self.again]
        self.gallery.select(self.opened, self.folders, shown, **QUIET)
        form = [*page.form.inputs, page.speed]
        self.again.click(lambda folder: page.again(asked(load(Path(folder)))), self.chosen, form, **IN_TURN).then(
            lambda: gr.update(selected=generate.id), None, tabs, **QUIET
        )

    def listed(self) -> tuple[Any, list[str]]:
        """The clips that are there now."""
        found = runs(self.workshop.root)
        return [thumbnail(*each) for each in found.items()], [str(folder) for folder in found]

    def opened(self, folders: list[str], event: gr.SelectData) -> tuple[Any, ...]:
        """The clip that was clicked."""
        folder = folders[event.index]
        try:
            return folder, *finished(Path(folder)), gr.update(interactive=True)
        except ValueError as error:  # it is gone, or was made again, since it was listed
            return None, show.problem(error), "", gr.update(interactive=False)
