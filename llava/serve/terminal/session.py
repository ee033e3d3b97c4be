"""A chat in progress: its conversation, and what will go with the next question. Knows nothing of a terminal."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from llava.errors import InvalidRequest
from llava.serve.client.conversation import AnswerSettings, Chat, ChatSource, Turn
from llava.serve.client.images import ChatImage


@dataclass
class Session:
    """All that commands change. `chat` itself never changes; a command puts another one in its place."""

    source: ChatSource
    model: str
    """Empty while none is served."""
    address: str = ""
    """Of the server; empty for an engine in this process."""
    settings: AnswerSettings = field(default_factory=AnswerSettings)
    chat: Chat = field(default_factory=Chat)
    waiting: tuple[ChatImage, ...] = ()
    """Images that go with the next question."""
    editing: int | None = None
    """The turn that the next question replaces."""
    file: Path | None = None
    """Where the conversation was last saved or loaded."""

    @property
    def questions(self) -> list[int]:
        """The user's turns, by their places in the conversation."""
        return [index for index, turn in enumerate(self.chat.turns) if turn.role == "user"]

    @property
    def images(self) -> tuple[ChatImage, ...]:
        """Those of the conversation, then those that wait; their places, from 1, are their numbers."""
        return (*self.chat.images, *self.waiting)

    def ask(self, text: str) -> None:
        """Puts a question with the images that wait; in place of an earlier one if that is being edited.

        Raises:
            InvalidRequest: nothing was asked, or the images are too many; nothing has changed.
        """
        before, images = self.chat, self.waiting
        if self.editing is not None:
            before, images = before.upto(self.editing), self.chat.turns[self.editing].images + images
        self.chat = before.ask(text, images)
        self.waiting, self.editing = (), None

    def ask_again(self) -> None:
        """Takes the last answer away, so that its question waits for another one.

        Raises:
            InvalidRequest: nothing was asked yet.
        """
        if not self.questions:
            raise InvalidRequest("nothing was asked yet.")
        self.chat = self.chat.upto(self.questions[-1] + 1)

    def undo(self) -> Turn:
        """Takes the last question away, with its answer; returns it.

        Raises:
            InvalidRequest: there is none.
        """
        if not self.questions:
            raise InvalidRequest("nothing was asked yet, so there is nothing to take back.")
        last = self.chat.turns[self.questions[-1]]
        self.chat = self.chat.upto(self.questions[-1])
        return last

    def drop(self, number: int) -> ChatImage:
        """Takes an image out, from those that wait or from the question that it was sent with; returns it.

        Raises:
            InvalidRequest: there is no such image, or a question would be left with nothing.
        """
        if not 1 <= number <= len(self.images):
            there = f"there are {len(self.images)}" if self.images else "there is none"
            raise InvalidRequest(f"there is no image {number}; {there}. /images lists them.")
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
        """Goes on with another conversation."""
        self.chat, self.file, self.waiting, self.editing = chat, file, (), None

    def _replace(self, index: int, turn: Turn) -> None:
        if not (turn.text or turn.images):
            raise InvalidRequest("the image is all that its question has. /undo takes the whole question back.")
        turns = (*self.chat.turns[:index], turn, *self.chat.turns[index + 1 :])
        self.chat = dataclasses.replace(self.chat, turns=turns)


def _without(images: tuple[ChatImage, ...], place: int) -> tuple[ChatImage, ...]:
    return images[:place] + images[place + 1 :]
