"""Reading a live turn as a page does."""

from webapp.chat.events import ContentDelta, Failed, Finished, ReasoningDelta


def watch(live, position=0, timeout_s=10.0):
    """All events until the end."""
    events = []
    while not (events and isinstance(events[-1], (Finished, Failed))):
        new, position = live.events_after(position, timeout_s)
        assert new, f"nothing came for {timeout_s} s after {events}"
        events += new
    return events


def text_of(events, kind=ContentDelta):
    return "".join(event.text for event in events if isinstance(event, kind))


def thought_of(events):
    return text_of(events, ReasoningDelta)
