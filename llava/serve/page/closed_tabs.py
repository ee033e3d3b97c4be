"""Frees the memory that gradio holds for tabs that were closed.

gradio deletes the values of a closed tab an hour after their last change and keeps half a megabyte more until there are
ten thousand sessions. Here the last few closed tabs are kept whole, because phones and laptops that were asleep lose
their connection, too, and come back. Tabs that were closed before those are freed at once.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from llava.errors import InvalidRequest

if TYPE_CHECKING:
    from gradio.state_holder import StateHolder

KEPT: Final = 16
"""Number of closed tabs that are kept, in case they reconnect."""
_REMEMBERED: Final = 10_000
"""Number of freed tabs whose names are remembered, to tell their users what happened if they reconnect."""


class ClosedTabs:
    """Closed tabs by gradio's session, oldest first. Belongs to the page's event loop."""

    def __init__(self) -> None:
        self._closed: OrderedDict[str, None] = OrderedDict()
        self._gone: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, tab: object) -> bool:
        """Whether a tab is closed and kept."""
        return tab in self._closed

    def closed(self, tab: str, holder: StateHolder) -> None:
        """Notes that a tab has lost its connection; frees the tab that lost it longest ago, if there are too many."""
        self._closed[tab] = None
        self._closed.move_to_end(tab)
        if tab in holder:
            holder[tab].is_closed = False  # this class decides how long it is kept
        while len(self._closed) > KEPT:
            oldest, _ = self._closed.popitem(last=False)
            holder.delete_state(oldest)
            with holder.lock:
                holder.session_data.pop(oldest, None)
                holder.time_last_used.pop(oldest, None)
            self._gone[oldest] = None
            if len(self._gone) > _REMEMBERED:
                self._gone.popitem(last=False)

    def seen(self, tab: str) -> None:
        """Notes that a tab is open, perhaps again."""
        self._closed.pop(tab, None)

    def check(self, tab: str | None) -> None:
        """Does nothing if the tab's conversation is still here.

        Raises:
            InvalidRequest: the tab has been freed.
        """
        if tab in self._gone:
            raise InvalidRequest(
                "this tab was disconnected for too long. Reload the page; your browser has kept the conversation."
            )
