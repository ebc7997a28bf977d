"""What can go wrong, and whose fault it is."""

from __future__ import annotations

from typing import Literal

Fault = Literal["peer", "weather", "ours"]


class Error(Exception):
    """Something could not be done.

    ``text`` says what was expected, what was found and what to do next; ``fault`` is "peer" (the other
    side broke the protocol), "weather" (loss, a full disk, a time-out: try again) or "ours" (a wrong
    argument or setting on this side); ``code`` is the holder's word when it refused, or None.
    """

    def __init__(self, text: str, fault: Fault = "ours", code: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.fault = fault
        self.code = code


class RefusedError(Error):
    """The holder refused; ``code`` says why, such as "no such region" or "conflict"."""


class ConnectionLost(Error):
    """There is no connection, or no more. What is asked next connects again."""
