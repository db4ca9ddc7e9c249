"""Reads a live turn as a page does."""

from tests.waiting import PATIENCE_S, WaitRanOut
from webapp.chat.messages import ContentDelta, Failed, Finished, ReasoningDelta


def watch(live, position=0, timeout_s=PATIENCE_S):
    """All events until the end."""
    events = []
    while not (events and isinstance(events[-1], (Finished, Failed))):
        new, position = live.events_after(position, timeout_s)
        if not new:
            raise WaitRanOut(f"nothing came for {timeout_s} s after {events}")
        events += new
    return events


def text_of(events, kind=ContentDelta):
    return "".join(event.text for event in events if isinstance(event, kind))


def thought_of(events):
    return text_of(events, ReasoningDelta)
