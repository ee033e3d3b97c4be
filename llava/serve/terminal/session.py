"""Holds a chat in progress: its conversation and what is sent with the next question. Independent of a terminal."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from llava.errors import InvalidRequest
from llava.serve.client.answer_settings import AnswerSettings
from llava.serve.client.conversation import Chat, ChatSource, Turn
from llava.serve.client.images import ChatImage


@dataclass
class Session:
    """The state that commands change. A `Chat` is immutable; commands replace it."""

    source: ChatSource
    model: str
    """Name of the model that answers; empty as long as none is served."""
    address: str = ""
    """URL of the server; empty for an engine in this process."""
    settings: AnswerSettings = field(default_factory=AnswerSettings)
    chat: Chat = field(default_factory=Chat)
    waiting: tuple[ChatImage, ...] = ()
    """Images that are sent with the next question."""
    editing: int | None = None
    """Index of the turn that the next question replaces; None if no question is being edited."""
    file: Path | None = None
    """File that the conversation was last saved to or loaded from."""

    @property
    def questions(self) -> list[int]:
        """Indices of the user's turns."""
        return [index for index, turn in enumerate(self.chat.turns) if turn.role == "user"]

    @property
    def images(self) -> tuple[ChatImage, ...]:
        """The images of the conversation, then those for the next question; users number them from 1 in this order."""
        return (*self.chat.images, *self.waiting)

    def ask(self, text: str) -> None:
        """Adds a question with the images for it, or replaces the question that is being edited.

        Raises:
            InvalidRequest: the question is empty, or there are too many images. Nothing has changed.
        """
        before, images = self.chat, self.waiting
        if self.editing is not None:
            before, images = before.upto(self.editing), self.chat.turns[self.editing].images + images
        self.chat = before.ask(text, images)
        self.waiting, self.editing = (), None

    def ask_again(self) -> None:
        """Removes the last answer, so that its question can be answered again.

        Raises:
            InvalidRequest: there is no question yet.
        """
        if not self.questions:
            raise InvalidRequest("there is no question to answer yet.")
        self.chat = self.chat.unanswered()

    def undo(self) -> Turn:
        """Removes the last question and its answer; returns the question.

        Raises:
            InvalidRequest: there is no question yet.
        """
        if not self.questions:
            raise InvalidRequest("there is no question to remove yet.")
        last = self.chat.turns[self.questions[-1]]
        self.chat = self.chat.upto(self.questions[-1])
        return last

    def drop(self, number: int) -> ChatImage:
        """Removes an image from the next question or from the question that it was sent with; returns it.

        Raises:
            InvalidRequest: there is no such image, or its question would be empty without it.
        """
        if not 1 <= number <= len(self.images):
            if not self.images:
                raise InvalidRequest("there are no images yet.")
            raise InvalidRequest(f"there is no image {number}; the last one is {len(self.images)}. /images lists them.")
        image, sent = self.images[number - 1], len(self.chat.images)
        if number > sent:
            self.waiting = _without(self.waiting, number - 1 - sent)
            return image
        place = number - 1
        for index in self.questions:
            turn = self.chat.turns[index]
            if place < len(turn.images):
                self._replace(index, dataclasses.replace(turn, images=_without(turn.images, place)))
                break
            place -= len(turn.images)
        return image

    def begin(self, chat: Chat, file: Path | None = None) -> None:
        """Switches to another conversation."""
        self.chat, self.file, self.waiting, self.editing = chat, file, (), None

    def _replace(self, index: int, turn: Turn) -> None:
        if not (turn.text or turn.images):
            raise InvalidRequest("the question would be empty without this image. /undo removes the whole question.")
        turns = (*self.chat.turns[:index], turn, *self.chat.turns[index + 1 :])
        self.chat = dataclasses.replace(self.chat, turns=turns)


def _without(images: tuple[ChatImage, ...], place: int) -> tuple[ChatImage, ...]:
    return images[:place] + images[place + 1 :]
