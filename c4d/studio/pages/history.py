"""The page of what was made: each clip with its settings, which a click takes back into the form that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from c4d.cli.rollout import CLIP
from c4d.pipelines import InputError
from c4d.pipelines.results import load
from c4d.studio import show
from c4d.studio.history import asked, asked_of_rollout, both, rolled
from c4d.studio.pages.follow import IN_TURN, QUIET
from c4d.studio.pages.generate import GeneratePage, finished
from c4d.studio.pages.rollout import RolloutPage
from c4d.studio.workshop import Workshop

GENERATE, ROLLOUT = "generate", "rollout"  # tabs


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

    def connect(self, page: GeneratePage, rollout: RolloutPage, tabs: gr.Tabs) -> None:
        """What happens when something is clicked or chosen."""
        self.tab.select(self.listed, None, [self.gallery, self.folders], **QUIET)
        shown = [self.chosen, self.result, self.said, self.again]
        self.gallery.select(self.opened, self.folders, shown, **QUIET)
        forms = [*page.form.inputs, page.speed], rollout.form.inputs

        def again(folder: str) -> list[Any]:
            kept = [[gr.update() for _ in each] for each in forms]
            if (record := rolled(Path(folder))) is not None:
                return [*kept[0], *rollout.again(asked_of_rollout(record)), gr.update(selected=ROLLOUT)]
            try:
                return [*page.again(asked(load(Path(folder)))), *kept[1], gr.update(selected=GENERATE)]
            except InputError as error:  # its model is not there any more
                gr.Warning(str(error))
                return [*kept[0], *kept[1], gr.update()]

        self.again.click(again, self.chosen, [*forms[0], *forms[1], tabs], **IN_TURN)

    def listed(self) -> tuple[Any, list[str]]:
        """The clips that are there now."""
        found = both(self.workshop.root)
        return [(clip, line) for _, clip, line in found], [str(folder) for folder, _, _ in found]

    def opened(self, folders: list[str], event: gr.SelectData) -> tuple[Any, ...]:
        """The clip that was clicked."""
        folder = Path(folders[event.index])
        try:
            if (record := rolled(folder)) is not None:
                return str(folder), show.rolled(folder / CLIP), show.asked(record["asked"]), gr.update(interactive=True)
            return str(folder), *finished(folder), gr.update(interactive=True)
        except ValueError as error:  # it is gone, or was made again, since it was listed
            return None, show.problem(error), "", gr.update(interactive=False)
