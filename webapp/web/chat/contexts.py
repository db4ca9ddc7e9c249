"""What the chat page's templates are given: one frozen dataclass a fragment, every choice already made.

Texts that people wrote are plain ``str`` (the template escapes them); ``Markup`` is HTML that
:mod:`webapp.web.kit.markdown` has sanitised.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from markupsafe import Markup

from webapp.web.kit.page import Toast

NOTHING = Markup()


@dataclass(frozen=True)
class ListItem:
    """A line of the chat list."""

    id: str
    title: str
    is_current: bool = False
    is_answering: bool = False


@dataclass(frozen=True)
class ListGroup:
    label: str
    items: tuple[ListItem, ...]


@dataclass(frozen=True)
class ChatList:
    """``chat/_list.html``. ``more_offset`` is where the next page of the list begins, 0 when this is all;
    ``longer_count`` how many were asked for, 0 for the usual number."""

    groups: tuple[ListGroup, ...]
    more_offset: int = 0
    longer_count: int = 0


@dataclass(frozen=True)
class ExcerptPart:
    text: str
    is_match: bool = False


@dataclass(frozen=True)
class Hit:
    url: str
    title: str
    excerpt: tuple[ExcerptPart, ...]


@dataclass(frozen=True)
class SearchResults:
    """``chat/_search_results.html``; an empty ``query`` prints nothing and the list shows again. ``is_cut``: there is
    more than what is shown."""

    query: str
    hits: tuple[Hit, ...] = ()
    is_cut: bool = False


@dataclass(frozen=True)
class Versions:
    number: int
    count: int
    previous_id: str
    next_id: str


@dataclass(frozen=True)
class Failure:
    """What happened, what is safe, and the buttons that lead out: ``retry`` is a command, ``needs_model`` opens the
    menu of models. ``is_mild``: nothing is broken (interrupted, nothing said)."""

    message: str
    hint: str
    retry: str = ""
    needs_model: bool = False
    is_mild: bool = False


@dataclass(frozen=True)
class FileChip:
    """A file of a message, or of the next one. ``reading`` says how the model gets it and what that costs; ``help`` is
    what a click on it does, "" where it is settled."""

    id: str
    name: str
    url: str
    size: str
    reading: str
    is_whole: bool
    help: str = ""


@dataclass(frozen=True)
class Attached:
    """``chat/_attached.html``: what goes with the next message; ``note`` on how the model will have it."""

    files: tuple[FileChip, ...] = ()
    note: str = ""
    is_warning: bool = False


@dataclass(frozen=True)
class FilePage:
    """``chat/file.html``"""

    page_title: str
    commands_url: str
    name: str
    facts: tuple[str, ...]
    text: str
    back_url: str
    download_url: str


@dataclass(frozen=True)
class MessageView:
    """``chat/_user_message.html`` or ``chat/_answer.html``, named by ``template``.

    ``fingerprint`` changes when the fragment would look different, streamed text left aside: the page sends it back
    after a reconnect, so that only what differs is drawn again. ``stats`` are the grey figures below an answer.
    """

    id: str
    template: str
    fingerprint: str
    text: str
    html: Markup = NOTHING
    tail: Markup = NOTHING
    reasoning_html: Markup = NOTHING
    reasoning_tail: Markup = NOTHING
    has_reasoning: bool = False
    is_thinking: bool = False
    is_streaming: bool = False
    waiting: str = ""
    versions: Versions | None = None
    stats: tuple[str, ...] = ()
    note: str = ""
    failure: Failure | None = None
    can_continue: bool = False
    files: tuple[FileChip, ...] = ()
    calls: tuple[CallCard, ...] = ()
    can_resume: bool = False
    """Every call has its result, and nothing went on from there."""


@dataclass(frozen=True)
class CallCard:
    """``chat/_calls.html``: one call of a tool. ``status``: "waiting" for approval, "running", "asking" for its result,
    "done". ``arguments`` is JSON to read, ``said`` says how it went, ``reason`` why it failed."""

    id: str
    name: str
    arguments: str
    status: str
    said: str
    result: str = ""
    is_error: bool = False
    reason: str = ""
    can_run: bool = True
    asks_once: bool = False


@dataclass(frozen=True)
class Messages:
    """``chat/_messages.html``: the shown end of the branch; ``older_id`` is its first message if more lie above."""

    chat_id: str
    messages: tuple[MessageView, ...]
    older_id: str = ""


@dataclass(frozen=True)
class ChatTitle:
    """``chat/_title.html``"""

    id: str
    title: str
    preset: str = ""


@dataclass(frozen=True)
class Choice:
    value: str
    label: str
    is_chosen: bool = False


@dataclass(frozen=True)
class ChoiceGroup:
    """Choices under a heading; "" for none."""

    label: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Knob:
    """One sampling parameter. ``kind``: slider (with a number beside it), number (which may be empty) or switch.
    ``default`` is the preset's value, which one click on the dot puts back."""

    name: str
    kind: str
    label: str
    help: str
    value: str
    default: str
    at_least: str
    at_most: str
    step: str
    range_least: str
    range_most: str
    is_whole: bool = False

    @property
    def is_changed(self) -> bool:
        return self.value != self.default


@dataclass(frozen=True)
class Options:
    """``chat/_options.html``: the chat's preset and what it sets for itself.

    ``base`` are the preset's values as JSON, which the form sends back. ``fingerprint`` changes when the panel would
    look different. Without ``states`` there is nothing to choose from.
    """

    chat_id: str
    base: str
    presets: tuple[ChoiceGroup, ...]
    preset_note: str
    preset_sets: str
    preset_url: str
    system_prompt: str
    system_prompt_placeholder: str
    knobs: tuple[Knob, ...]
    more: tuple[Knob, ...]
    is_more_open: bool
    templates: tuple[Choice, ...]
    states: tuple[Choice, ...]
    name_hint: str
    tools: ToolOptions
    fingerprint: str = ""


@dataclass(frozen=True)
class ToolOptions:
    """What the chat offers its model; ``shown`` says it in short, for the form to tell whether it was changed.
    ``warning`` where the model is not known to call tools well."""

    shown: str
    tools: tuple[Choice, ...]
    dialects: tuple[Choice, ...]
    is_free: bool
    warning: str = ""


@dataclass(frozen=True)
class Thinking:
    """``chat/_thinking.html``. Without ``modes`` the model has no such switch."""

    modes: tuple[Choice, ...] = ()
    is_set: bool = False


@dataclass(frozen=True)
class LoadOffer:
    """``chat/_load_offer.html``: the preset's model is not what runs. ``do`` is the command that loads it, "" when it
    cannot be loaded, which ``hint`` explains; ``url`` is a page that helps."""

    is_shown: bool = False
    text: str = ""
    hint: str = ""
    do: str = ""
    url: str = ""


@dataclass(frozen=True)
class Composer:
    """``chat/_composer.html``. ``text`` was written and could not be sent; ``file_bytes`` is the most of a file."""

    chat_id: str
    is_answering: bool
    thinking: Thinking = Thinking()
    tools: ToolSwitch | None = None
    attached: Attached = Attached()
    text: str = ""
    file_bytes: int = 0


@dataclass(frozen=True)
class ToolSwitch:
    """``chat/_tool_switch.html``: shown where there are tools to offer."""

    is_on: bool


@dataclass(frozen=True)
class SuggestedPrompt:
    title: str
    text: str


@dataclass(frozen=True)
class Welcome:
    """``chat/_welcome.html``: what a chat without messages says; an empty place in any other."""

    is_shown: bool = False
    title: str = ""
    intro: str = ""
    prompts: tuple[SuggestedPrompt, ...] = ()


@dataclass(frozen=True)
class ChatPage:
    """``chat/page.html``. ``chat_id`` is "" for a chat that begins with its first message."""

    chat_id: str
    page_title: str
    chats: ChatList
    head: ChatTitle
    conversation: Messages
    welcome: Welcome
    composer: Composer
    options: Options
    offer: LoadOffer = LoadOffer()
    elsewhere: str = ""
    """The command that shows the version a search hit lies in, when it is not the shown one."""
    toasts: tuple[Toast, ...] = field(default=())
