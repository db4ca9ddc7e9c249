"""Files that wait to be sent with a message: taken in, counted, and how the model will read each."""

from __future__ import annotations

from webapp.chat.attached_files import ReadMode, display_name, fenced
from webapp.errors import AttachmentEmpty, AttachmentTooLarge, PromptTooLong, RoostError
from webapp.manager.manager import ModelManager
from webapp.services.attachments.text_file import decode_text
from webapp.settings import Settings
from webapp.storage.attachments import Attachment, AttachmentStore, NewAttachment, Room
from webapp.storage.database import Database
from webapp.tokenizer import Tokenizer

FILE_BYTES = 2_000_000
FILE_LIMIT = "2 MB"
ROOM = Room(most_files=20, most_bytes=8_000_000, text="8 MB")
WHOLE_TOKENS = 8_000
"""Up to here a file is read whole unless the person says otherwise: a minute of reading on a slow machine, and about
what the small models were trained to keep in mind."""
WHOLE_CHARACTERS = 16_000
"""The same where no model is there to count with."""


class Attachments:
    """The door for pages. Cheap to make, safe from any thread."""

    def __init__(self, database: Database, manager: ModelManager, settings: Settings) -> None:
        self.store = AttachmentStore(database)
        self._manager = manager
        self._most_tokens = settings.max_prompt_tokens

    def check(self, name: str, data: bytes) -> str:
        """The text in a file; the AttachmentError that says why there is none. Stores nothing."""
        shown = display_name(name)
        if len(data) > FILE_BYTES:
            raise AttachmentTooLarge(name=shown, limit=FILE_LIMIT)
        text = decode_text(shown, data).text
        if not text.strip():
            raise AttachmentEmpty(name=shown)
        return text

    def attach(self, chat_id: str, name: str, data: bytes) -> Attachment:
        """Waits in the chat for the next message. Raises what :meth:`check` does, and AttachmentsFull."""
        shown, text = display_name(name), self.check(name, data)
        tokenizer = self._tokenizer()
        tokens = _count(shown, text, tokenizer) if tokenizer else None
        is_short = len(text) <= WHOLE_CHARACTERS if tokens is None else tokens <= WHOLE_TOKENS
        mode = ReadMode.WHOLE if is_short else ReadMode.SEARCH
        vocabulary = tokenizer.name if tokenizer else ""
        return self.store.add(NewAttachment(chat_id, shown, text, len(data), mode, tokens, vocabulary), ROOM)

    def pending(self, chat_id: str) -> list[Attachment]:
        """Counted with the vocabulary of the model that is chosen now."""
        found = self.store.pending(chat_id) if chat_id else []
        tokenizer = self._tokenizer() if found else None
        return [self._counted(file, tokenizer) for file in found]

    def toggle(self, chat_id: str, attachment_id: str) -> None:
        """From whole to searched and back; PromptTooLong for one that no prompt can hold."""
        file = self.store.get(chat_id, attachment_id)
        mode = ReadMode.SEARCH if file.mode is ReadMode.WHOLE else ReadMode.WHOLE
        if mode is ReadMode.WHOLE and (file.tokens or 0) > self._most_tokens:
            raise PromptTooLong(found=file.tokens, limit=self._most_tokens)
        self.store.set_mode(chat_id, attachment_id, mode)

    def _counted(self, file: Attachment, tokenizer: Tokenizer | None) -> Attachment:
        if tokenizer is None or tokenizer.name == file.tokenizer:
            return file
        try:
            tokens = _count(file.name, self.store.text(file.chat_id, file.id), tokenizer)
            self.store.set_tokens(file.chat_id, file.id, tokens, tokenizer.name)
            return self.store.get(file.chat_id, file.id)
        except RoostError:  # sent or removed meanwhile
            return file

    def _tokenizer(self) -> Tokenizer | None:
        try:
            return self._manager.tokenizer()
        except RoostError:
            return None


def _count(name: str, text: str, tokenizer: Tokenizer) -> int:
    """Of the file as it stands in a prompt."""
    return len(tokenizer.encode(fenced(name, text)))
