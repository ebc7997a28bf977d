"""A session as the side that asks sees it (docs/spec/rdpa.md, sections 3 and 6), and the little that a
side which holds nothing must serve: PING and NOTIFY.

One thread: time passes while somebody waits (`Session.wait`, `Session.pump`), and only then are frames
sent again, heart-beats sent and notices taken.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Callable, Protocol

from frames import Code, Frame, Verb
from messages import error_text

IDS_REMEMBERED = 1_024
REQUESTS_MAX = 256
BULK_WINDOW_BYTES = 4 * 1024 * 1024
PING_EVERY_S, SILENT_AFTER_S = 3.0, 15.0
CONTROL_WAIT_S, BULK_WAIT_S, WAIT_MAX_S, GIVE_UP_S = 20.0, 60.0, 120.0, 300.0
BUSY_WAIT_S = 0.1


class Link(Protocol):
    """What carries frames."""

    def send(self, frame: Frame) -> None: ...

    def receive(self, timeout_s: float) -> Frame | None: ...

    def close(self) -> None: ...


class Refused(Exception):
    """The peer answered with an error (section 8)."""

    def __init__(self, verb: Verb, code: int, text: str) -> None:
        self.code = Code(code)
        super().__init__(f"{verb.name}: {self.code.name}: {text}")


class PeerFault(Exception):
    """The peer broke the protocol; the connection is over (sections 2 and 6)."""


class Silent(Exception):
    """The peer said nothing for too long (section 3)."""


class TooSlow(Exception):
    """No answer within the time that the caller gave, or that a request may take."""


# Takes each reply; says whether the request is answered with it.
Collect = Callable[[Frame], bool]


@dataclass
class Request:
    """One of our requests, from its queue to its answer."""

    frame: Frame
    collect: Collect
    asked_at: float
    wait_s: float
    next_at: float = 0.0
    sent: bool = False
    resting: bool = False
    settled: bool = False
    replies: list[Frame] = field(default_factory=list)
    error: Exception | None = None

    @property
    def id(self) -> int:
        return self.frame.request

    def answer(self) -> Frame:
        """The last reply of a settled request."""
        if self.error is not None:
            raise self.error
        return self.replies[-1]


def _one_reply(_: Frame) -> bool:
    return True


class Session:
    """The state of one connection."""

    def __init__(self, link: Link, notice: Callable[[Frame], Code | None] | None = None) -> None:
        self._link = link
        self._notice = notice
        self._open: OrderedDict[int, Request] = OrderedDict()
        self._last_id = 0
        self._answered: OrderedDict[int, Frame] = OrderedDict()
        self._newest_served = 0
        self._heard_at = self._pinged_at = time.monotonic()
        self.requests_max, self.bulk_window_bytes = REQUESTS_MAX, BULK_WINDOW_BYTES
        self.pongs = 0

    def limit(self, requests_max: int, bulk_window_bytes: int) -> None:
        """Takes the limits of WELCOME: the smaller of each counts (section 3)."""
        self.requests_max = min(self.requests_max, requests_max)
        self.bulk_window_bytes = min(self.bulk_window_bytes, bulk_window_bytes)

    def close(self) -> None:
        self._link.close()

    # Asking

    def ask(self, frame: Frame, collect: Collect = _one_reply) -> Request:
        """Queues a request under the next id; it goes when the rules of section 3 allow it."""
        self._last_id += 1
        now = time.monotonic()
        wait_s = BULK_WAIT_S if frame.bulk else CONTROL_WAIT_S
        request = Request(replace(frame, request=self._last_id), collect, now, wait_s)
        self._open[request.id] = request
        self._send_what_may_go()
        return request

    def call(self, frame: Frame, collect: Collect = _one_reply, timeout_s: float = 5) -> Frame:
        """Asks and waits for the answer."""
        return self.wait(self.ask(frame, collect), timeout_s)

    def cancel(self, request: Request) -> None:
        """CANCEL of section 4: saves work, has no other meaning and no answer."""
        if request.sent and not request.settled:
            self._link.send(Frame(Verb.CANCEL, request=request.id))
        self._settle(request, TooSlow("cancelled"))

    def wait(self, request: Request, timeout_s: float = 5) -> Frame:
        """Waits until the request is settled; its last reply, or its error."""
        until = time.monotonic() + timeout_s
        while not request.settled:
            left = until - time.monotonic()
            if left <= 0:
                raise TooSlow(f"{request.frame.verb.name} has no answer after {timeout_s} s")
            self.pump(left)
        return request.answer()

    def pump(self, timeout_s: float) -> None:
        """Lets some time pass: at most so much, less when a frame comes."""
        now = time.monotonic()
        self._beat(now)
        self._repeat(now)
        self._send_what_may_go()
        frame = self._link.receive(min(timeout_s, max(0.0, self._next_event() - now)))
        if frame is None:
            return
        self._heard_at = time.monotonic()
        if frame.reply:
            self._take_reply(frame)
        else:
            self._serve(frame)

    # What may be sent

    def _send_what_may_go(self) -> None:
        """Control before bulk (section 3, Classes), then in the order of ids."""
        queued = [request for request in self._open.values() if not request.sent and not request.resting]
        for request in sorted(queued, key=lambda request: request.frame.bulk):
            if self._may_go(request):
                request.sent, request.next_at = True, time.monotonic() + request.wait_s
                self._link.send(request.frame)

    def _may_go(self, request: Request) -> bool:
        unanswered = [other for other in self._open.values() if other.sent or other.resting]
        oldest = next(iter(self._open))
        return (
            len(unanswered) < self.requests_max
            and request.id < oldest + IDS_REMEMBERED
            and self._fence_allows(request)
            and self._window_allows(request, unanswered)
        )

    def _fence_allows(self, request: Request) -> bool:
        """Section 4, FENCE: lower ids are settled before it, higher ones go after it."""
        if request.frame.verb is Verb.FENCE:
            return next(iter(self._open)) == request.id
        fences = (other.id for other in self._open.values() if other.frame.verb is Verb.FENCE)
        return all(request.id < fence for fence in fences)

    def _window_allows(self, request: Request, unanswered: list[Request]) -> bool:
        """Section 3, Classes: a payload larger than the window may go alone."""
        if not request.frame.bulk:
            return True
        under_way = sum(len(other.frame.payload) for other in unanswered if other.frame.bulk)
        return not under_way or under_way + len(request.frame.payload) <= self.bulk_window_bytes

    # Time

    def _next_event(self) -> float:
        times = [request.next_at for request in self._open.values() if request.sent or request.resting]
        quiet_since = max(self._heard_at, self._pinged_at)
        return min(times + [quiet_since + PING_EVERY_S, self._heard_at + SILENT_AFTER_S])

    def _beat(self, now: float) -> None:
        """Section 3, Heart-beats."""
        if now >= self._heard_at + SILENT_AFTER_S:
            raise Silent(f"the peer said nothing for {SILENT_AFTER_S} s")
        if now >= max(self._heard_at, self._pinged_at) + PING_EVERY_S:
            self._pinged_at = now
            self._link.send(Frame(Verb.PING, offset=int(now * 1000)))

    def _repeat(self, now: float) -> None:
        """Section 6: again after waits that double, until given up."""
        for request in list(self._open.values()):
            if now >= request.asked_at + GIVE_UP_S:
                self._settle(request, TooSlow(f"{request.frame.verb.name} was given up"))
            elif (request.sent or request.resting) and now >= request.next_at:
                if request.sent:
                    request.wait_s = min(2 * request.wait_s, WAIT_MAX_S)
                request.sent = request.resting = False

    # Replies

    def _take_reply(self, frame: Frame) -> None:
        """Section 6: one without a request is ignored, one of another verb is the peer's fault."""
        if frame.verb is Verb.PING:
            self.pongs += 1
            return
        request = self._open.get(frame.request)
        if request is None:
            return
        if frame.verb is not request.frame.verb:
            raise PeerFault(f"{frame.verb.name} in reply to {request.frame.verb.name}")
        if frame.status == Code.BUSY:
            self._rest(request)
        elif frame.status:
            text = error_text(frame.payload)
            self._settle(request, Refused(frame.verb, frame.status, text))
        else:
            self._collect(request, frame)

    def _collect(self, request: Request, frame: Frame) -> None:
        request.replies.append(frame)
        try:
            if request.collect(frame):
                self._settle(request)
        except PeerFault:
            self._settle(request, PeerFault("a reply that is not one"))
            raise
        except Exception as error:  # kept for who waits: the session itself goes on
            self._settle(request, error)

    def _rest(self, request: Request) -> None:
        request.sent, request.resting = False, True
        request.next_at = time.monotonic() + BUSY_WAIT_S

    def _settle(self, request: Request, error: Exception | None = None) -> None:
        request.settled, request.error = True, error
        self._open.pop(request.id, None)

    # Serving

    def _serve(self, frame: Frame) -> None:
        if frame.verb is Verb.PING:
            self._link.send(replace(frame, reply=True))
        elif frame.verb is not Verb.CANCEL and frame.request + IDS_REMEMBERED > self._newest_served:
            self._link.send(self._remembered(frame))

    def _remembered(self, frame: Frame) -> Frame:
        """Section 6: a duplicate gets the same answer and nothing is done again."""
        known = self._answered.get(frame.request)
        if known is not None and known.verb is not frame.verb:
            raise PeerFault(f"request {frame.request} is {known.verb.name} and {frame.verb.name}")
        if known is None:
            known = Frame(frame.verb, reply=True, status=self._served(frame), request=frame.request)
            self._newest_served = max(self._newest_served, frame.request)
            self._answered[frame.request] = known
            if len(self._answered) > IDS_REMEMBERED:
                self._answered.popitem(last=False)
        return known

    def _served(self, frame: Frame) -> int:
        """We hold nothing, so that only notices are of use to us."""
        if frame.verb is not Verb.NOTIFY or self._notice is None:
            return Code.UNSUPPORTED
        return self._notice(frame) or 0
