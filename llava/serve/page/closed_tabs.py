"""Lets go of what gradio keeps for tabs that were closed.

gradio marks a closed tab's session, deletes its values when their last change is an hour ago, and keeps the rest, half
a megabyte, until there are ten thousand sessions. Here the last few closed tabs are kept whole, because a phone that
comes back from its pocket and a laptop that wakes up have lost their connection, too; those before them go at once.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from llava.errors import InvalidRequest

if TYPE_CHECKING:
    from gradio.state_holder import StateHolder

KEPT: Final = 16
"""Closed tabs whose conversations wait for their return."""
_REMEMBERED: Final = 10_000
"""Names of tabs that were let go, so that one of them gets a sentence when it returns after all."""


class ClosedTabs:
    """Tabs by gradio's session, in the order in which they were closed. Belongs to the page's event loop."""

    def __init__(self) -> None:
        self._closed: OrderedDict[str, None] = OrderedDict()
        self._gone: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, tab: object) -> bool:
        """Whether a tab is closed and may return."""
        return tab in self._closed

    def closed(self, tab: str, holder: StateHolder) -> None:
        """A tab has lost its connection; lets go of the one that did so longest ago, if there are too many."""
        self._closed[tab] = None
        self._closed.move_to_end(tab)
        if tab in holder:
            holder[tab].is_closed = False  # how long it is kept is decided here
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
        """A tab has shown that it is open, perhaps again."""
        self._closed.pop(tab, None)

    def check(self, tab: str | None) -> None:
        """
        Raises:
            InvalidRequest: nothing is known of this tab's conversation any more.
        """
        if tab in self._gone:
            raise InvalidRequest(
                "this tab was without a connection for too long. Reload the page; the conversation is kept in this "
                "browser."
            )
