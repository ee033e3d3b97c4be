"""Builds the widgets that the tabs share: the message box, the list of models and the settings of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import gradio as gr

from llava.images.formats import FILE_SUFFIXES
from llava.serve.client.answer_settings import SETTINGS, AnswerSettings
from llava.serve.client.images import SHAPES

LATEX: Final[list[dict[str, str | bool]]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]
"""Formula delimiters of the chatbots. A single dollar is none of them: answers mention prices more often."""
MAX_PASTED: Final = 100_000
"""Longest text that is pasted as text; gradio turns a longer one into a file."""


class AnswerControls:
    """The widgets for the system prompt and for each setting of an answer that has a label."""

    def __init__(self) -> None:
        defaults = AnswerSettings()
        self._shape = gr.Radio(
            list(SHAPES),
            value=defaults.shape,
            label="Images that are not square",
            info="Crop: up to the model; most cut to the centre. Resize: squeezed. Pad: borders added.",
        )
        with gr.Accordion("Parameters", open=False):
            self._system = gr.Textbox(
                label="System prompt", info="Empty uses the model's own.", lines=2, max_lines=8, max_length=20_000
            )
            self._sliders: dict[str, gr.Slider] = {}
            for name, info in SETTINGS.items():
                if info.label:
                    low, high, step = info.slider
                    value = getattr(defaults, name)
                    self._sliders[name] = gr.Slider(
                        low, high, value=value, step=step, label=info.label, info=info.hint or None
                    )

    @property
    def components(self) -> list[Any]:
        """The widgets, as inputs of an event."""
        return [self._shape, self._system, *self._sliders.values()]

    def read(self, values: Sequence[Any]) -> tuple[AnswerSettings, str]:
        """Returns the settings and the system prompt from the values of `components`."""
        shape, system, *numbers = values
        settings = {
            # Whole numbers may come as floats.
            name: type(getattr(AnswerSettings(), name))(number)
            for name, number in zip(self._sliders, numbers, strict=True)
        }
        return AnswerSettings(shape=shape, **settings), str(system or "").strip()


def model_list(label: str, name: str) -> gr.Dropdown:
    """Returns an empty list of models, to be filled when the page opens.

    It accepts names that are not in it: the served models change while a page is open, and the controller's error
    about a missing model says more than gradio's.
    """
    return gr.Dropdown([], label=label, elem_id=name, allow_custom_value=True)


def message_box(name: str, *, render: bool = True) -> gr.MultimodalTextbox:
    """Returns the box in which a question is typed and images are dropped, pasted or chosen."""
    return gr.MultimodalTextbox(
        label="Message",
        show_label=False,
        placeholder="Ask about an image",
        # Browsers do not count all of these as images.
        file_types=["image", *FILE_SUFFIXES],
        file_count="multiple",
        sources=["upload"],
        max_lines=8,
        max_plain_text_length=MAX_PASTED,
        elem_id=name,
        elem_classes="llava-box",
        render=render,
    )
