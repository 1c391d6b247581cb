"""``c4d studio``: the pages, and the server that they are on until the process ends."""

from __future__ import annotations

import threading
from pathlib import Path

from c4d.cli.options import StudioOptions
from c4d.cli.signals import Stops
from c4d.core.importing import importing
from c4d.pipelines import InputError, check_writable

with importing("gradio", "pip install 'c4d[studio]'"):
    import gradio as gr

from c4d.studio.pages.generate import GeneratePage
from c4d.studio.pages.history import GENERATE, ROLLOUT, HistoryPage
from c4d.studio.pages.rollout import RolloutPage
from c4d.studio.pages.tune import TunePage
from c4d.studio.workshop import Workshop

ASSETS = Path(__file__).parents[1] / "assets"
FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # a page needs nothing from elsewhere


def run(options: StudioOptions, stops: Stops) -> None:
    """Serves the pages until it is interrupted. Raises :class:`InputError` for a model or a port that cannot be."""
    if not 0 < options.port < 2**16:
        raise InputError(f"port is {options.port!r}; allowed are whole numbers from 1 to {2**16 - 1}")
    check_writable(options.out)
    with Workshop(options.out) as workshop:
        page = pages(workshop, options.model, options.allow_pickle)
        where = serve(page, workshop, options.host, options.port, options.max_upload)
        print(f"c4d studio at {where} (Ctrl-C ends it); clips in {options.out}", flush=True)
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def pages(workshop: Workshop, model: str = "wan-tiny", allow_pickle: bool = False) -> gr.Blocks:
    """All pages over one workshop, which begin with ``model``. Raises :class:`InputError` for one that is none."""
    with gr.Blocks(title="c4d studio", analytics_enabled=False) as whole:
        gr.Markdown("## c4d studio")
        with gr.Tabs() as tabs:
            with gr.Tab("Generate", id=GENERATE):
                generate = GeneratePage(workshop, model, allow_pickle)
            with gr.Tab("History", id="history") as second:
                history = HistoryPage(workshop, second)
            with gr.Tab("Rollout", id=ROLLOUT):
                rollout = RolloutPage(workshop, allow_pickle)
            with gr.Tab("Tune", id="tune"):
                tune = TunePage(workshop, model, allow_pickle)
        generate.connect(whole)
        history.connect(generate, rollout, tabs)
        rollout.connect()
        tune.connect()
    return whole


def serve(
    page: gr.Blocks, workshop: Workshop, host: str, port: int | None, max_upload: int = StudioOptions.max_upload
) -> str:
    """Begins to serve ``page`` on ``port`` (None: a free one); returns its address.

    A file of more than ``max_upload`` bytes is refused while it comes. Raises :class:`InputError`.
    """
    try:
        _, local, _ = page.queue().launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            max_file_size=max_upload,
            ssr_mode=False,
            allowed_paths=[str(workshop.root.resolve())],
            theme=gr.themes.Base(primary_hue="emerald", neutral_hue="slate", font=FONTS[0], font_mono=FONTS[1]),
            css_paths=[ASSETS / "studio.css"],
            head=f"<script>{(ASSETS / 'studio.js').read_text(encoding='utf-8')}</script>",
            footer_links=[],
        )
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port} ({error}); name another --host or --port") from error
    return str(local)
