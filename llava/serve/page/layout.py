"""Lays out the page: title, list of models, notices and tabs."""

from __future__ import annotations

from importlib import resources
from typing import Any, Final

import gradio as gr

from llava.serve.page.arena_tab import ArenaTab
from llava.serve.page.chat_tab import ChatTab
from llava.serve.page.context import PageContext
from llava.serve.page.models import ModelListing, choose, notice
from llava.serve.page.widgets import model_list

REFRESH_S: Final = 5.0
_STORAGE: Final = "llava-conversation"

_TITLE: Final = "# LLaVA\nAsk the large language-and-vision assistant about your images."
_TERMS: Final = """LLaVA makes mistakes, even when it sounds sure: check anything important. Do not upload anything that
you must not share with the operator of this page."""


def build(context: PageContext) -> gr.Blocks:
    """Returns the page, to be mounted with the options of `look`."""
    with gr.Blocks(title="LLaVA", analytics_enabled=False, fill_width=True, delete_cache=(300, 3600)) as page:
        run_id = gr.Textbox(context.run_id, visible="hidden", label="run")
        kept = gr.BrowserState("", storage_key=_STORAGE, secret=_STORAGE)
        with gr.Row(elem_classes="llava-top"):
            if not context.settings.embed:
                gr.Markdown(_TITLE, elem_classes="llava-title")
            model = model_list("Model", "llava-model")
        warning = gr.Markdown(visible=False, elem_id="llava-notice", elem_classes="llava-notice")
        with gr.Tabs():
            with gr.Tab("Chat", id="chat"):
                chat = ChatTab(context, model, run_id, kept)
            with gr.Tab("Arena", id="arena"):
                anonymous = ArenaTab(context, run_id, anonymous=True)
            with gr.Tab("Side by side", id="side-by-side"):
                named = ArenaTab(context, run_id, anonymous=False)
        if not context.settings.embed:
            gr.Markdown(f"{_TERMS} {_privacy(context)}", elem_classes="llava-terms")
        _let_go_of_closed_tabs(context, page)
        _keep_models(context, page, [model, *anonymous.dropdowns, *named.dropdowns], warning)
        chat.restore_on(page.load)
    page.queue(
        max_size=16 * context.settings.concurrency,
        default_concurrency_limit=context.settings.concurrency,
        api_open=False,
    )
    return page


def look() -> dict[str, Any]:
    """Returns the options for theme and style sheet. Fonts are the system's, so nothing is fetched from elsewhere."""
    theme: gr.themes.Base = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    # gradio's own colours have less contrast than the 4.5 to 1 of WCAG AA.
    theme = theme.set(
        block_title_text_color="*primary_700",
        block_title_text_color_dark="white",
        block_label_text_color="*primary_700",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        checkbox_label_background_fill_selected="*primary_600",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )
    return {
        "theme": theme,
        "css_paths": [str(resources.files("llava.serve.page") / "page.css")],
    }


def _let_go_of_closed_tabs(context: PageContext, page: gr.Blocks) -> None:
    async def closed(request: gr.Request) -> None:
        if request.session_hash:
            context.closed_tabs.closed(request.session_hash, page.state_holder)

    page.unload(closed)


def _keep_models(context: PageContext, page: gr.Blocks, dropdowns: list[gr.Dropdown], warning: gr.Markdown) -> None:
    """Fills the lists of models when the page opens, and again whenever the served models change."""
    seen = gr.State(None)  # None until `opened` has read the model that the page's address asks for
    outputs = [seen, warning, *dropdowns]

    def updates(served: ModelListing, chosen: list[str | None], problem: str = "") -> list[Any]:
        text = problem or notice(served, context.settings.controller)
        lists = [gr.update(choices=list(served.names), value=name) for name in chosen]
        return [served, gr.update(value=text, visible=bool(text)), *lists]

    async def opened(request: gr.Request) -> list[Any]:
        served = await context.models.now(fresh=context.settings.model_list_mode == "reload")
        wanted = request.query_params.get("model")
        if wanted and wanted not in served.names:  # its worker may just have registered
            served = await context.models.now(fresh=True)
        first, problem = choose(served, wanted)
        others = [
            served.names[min(i, len(served.names) - 1)] if served.names else None for i in range(len(dropdowns) - 1)
        ]
        return updates(served, [first, *others], problem)

    async def ticked(request: gr.Request, known: ModelListing | None, *chosen: str | None) -> list[Any]:
        if request.session_hash:
            context.closed_tabs.seen(request.session_hash)
        served = await context.models.now()
        if known is None or served == known:
            return [gr.skip() for _ in outputs]
        first = served.names[0] if served.names else None
        return updates(served, [name if name in served.names else first for name in chosen])

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
    page.load(opened, None, outputs, **quiet)
    gr.Timer(REFRESH_S).tick(ticked, [seen, *dropdowns], outputs, **quiet)


def _privacy(context: PageContext) -> str:
    log = context.settings.log_dir
    if log is None:
        return (
            "This server stores no conversations and no images; uploaded files are deleted within an hour. Your "
            "browser keeps the last conversation until you clear it."
        )
    stored = "your messages and images, the answers and your votes"
    stored += ", and your network address" if context.settings.log_addresses else ""
    return (
        f"**This page keeps a log** on the server: {stored}. Your browser keeps the last conversation until you clear "
        "it."
    )
