"""A chat moves to another machine as a file: its content, and how invalid files are refused."""

import json
import random
import time

import pytest

from tests.errors import raises_code
from tests.manager.thread_engine import start_engine_in_thread
from tests.services.chat.watching import text_of, watch
from tests.weights.make_checkpoints import link_checkpoint
from webapp.chat.messages import AttachedFile, Message, ReadMode, Role, attached_metadata
from webapp.engine.state import Stored, packed
from webapp.manager.manager import ModelManager
from webapp.services.chat.chat_file import MAX_TIPS, ChatFiles, read_chat_file
from webapp.services.chat.turns import REWRITTEN, ChatTurns
from webapp.services.presets.presets import Presets
from webapp.settings import Settings
from webapp.storage.attachments import AttachmentStore, Room
from webapp.storage.chats import ChatStore
from webapp.storage.database import Database

SAYS = "fake script=' Hi there.'"


class Machine:
    """A data folder, a models folder and their services."""

    def __init__(self, folder, model, strategy):
        self.settings = Settings(data_dir=folder, models_dir=model.parent, model=model.name, strategy=strategy)
        self.manager = ModelManager(self.settings, start_engine=start_engine_in_thread)
        self.database = Database(folder / "roost.db")
        self.presets = Presets(self.manager, self.database, self.settings)
        self.turns = ChatTurns(self.manager, self.database, self.settings, self.presets)
        self.store = ChatStore(self.database)
        self.files = ChatFiles(self.manager, self.store, self.presets)

    def close(self):
        self.turns.close()
        self.manager.close()
        self.database.close()

    def save(self, chat_id):
        return b"".join(self.files.save(chat_id))

    def say(self, chat_id, text):
        return watch(self.turns.send(chat_id, text))[-1]


@pytest.fixture
def machine(tmp_path):
    """machine(name, strategy, seed): a separate one; models with the same ``seed`` have the same bytes, whatever their
    names and dates."""
    made = []

    def machine(name, strategy=SAYS, seed=1):
        folder = tmp_path / name
        (folder / "models").mkdir(parents=True)
        model = folder / "models" / f"{name}.safetensors"
        link_checkpoint(model, "7", n_layer=seed, n_embd=64, vocab_size=65536)
        made.append(Machine(folder, model, strategy))
        return made[-1]

    yield machine
    for each in made:
        each.close()


def test_a_chat_continues_elsewhere_without_a_new_prefill(machine):
    here, there = machine("here"), machine("there")
    chat = here.store.create(title="Birds", system_prompt="Be kind.")
    for text in ("Hello, a first question", "And a second"):
        here.say(chat.id, text)
    data = here.save(chat.id)
    opened = there.files.open("Birds.rwkvchat", data)
    assert (opened.states, opened.messages, opened.made_by) == (1, 4, "")
    [new_id] = opened.chat_ids
    found = there.store.get(new_id)
    assert (found.title, found.system_prompt) == ("Birds", "Be kind.") and new_id != chat.id
    end = there.say(new_id, "And a third")
    assert end.stats["read_again"] == 0 and end.stats["prefilled_tokens"] < 20 < end.stats["cached_tokens"]
    assert end.stats["cached_tokens"] == here.say(chat.id, "And a third").stats["cached_tokens"]
    # exported again from there: the state survives a second move
    again = here.files.open("x.rwkvchat", there.save(new_id))
    assert here.say(again.chat_ids[0], "And a fourth").stats["read_again"] == 0


def test_a_duplicate_continues_from_the_same_states_and_leaves_the_first_alone(machine):
    here = machine("here")
    chat = here.store.create(title="Birds", system_prompt="Be kind.", sampling={"temperature": 0.5})
    here.store.place([chat.id], folder="Work")
    for text in ("Hello, a first question", "And a second"):
        here.say(chat.id, text)
    before = [row.id for row in here.store.branch(chat.id)]
    copy = here.files.duplicate(chat.id, "Birds again")
    assert (copy.title, copy.system_prompt, copy.sampling) == ("Birds again", "Be kind.", {"temperature": 0.5})
    texts = [[row.message for row in here.store.branch(each)] for each in (chat.id, copy.id)]
    assert texts[0] == texts[1] and not {row.id for row in here.store.branch(copy.id)} & set(before)
    assert here.say(copy.id, "A third").stats["read_again"] == 0
    assert [row.id for row in here.store.branch(chat.id)] == before
    empty = here.files.duplicate(here.store.create(title="None").id, "Nothing")
    assert here.store.branch(empty.id) == []


def test_a_copy_of_a_rewritten_answer_is_one_too(machine):
    """Otherwise the page would treat it as an answer from another place, which cannot be continued."""
    here = machine("here")
    chat = here.store.create()
    question = here.store.add_message(chat.id, None, Message(Role.USER, "Hello"))
    answer = here.store.add_message(chat.id, question.id, Message(Role.ASSISTANT, "Once"))
    here.turns.rewrite(answer.id, "Once upon")
    copy = here.files.duplicate(chat.id, "Again")
    texts = [[row.message for row in here.store.branch(each)] for each in (chat.id, copy.id)]
    assert texts[0] == texts[1] and texts[1][-1].metadata == {REWRITTEN: True}


def test_every_branch_is_exported_with_its_state(machine):
    here, there = machine("here"), machine("there")
    chat = here.store.create()
    first = here.turns.send(chat.id, "Hello")
    watch(first)
    watch(here.turns.edit(first.user_message_id, "Something else entirely"))
    here.store.select_version(first.message_id)
    opened = there.files.open("x.rwkvchat", here.save(chat.id))
    assert opened.states == 2
    [new_id] = opened.chat_ids
    branch = there.store.branch(new_id)
    assert [stored.message.content for stored in branch] == ["Hello", "Hi there."]
    assert there.say(new_id, "More").stats["read_again"] == 0
    there.store.select_version(branch[0].next_version_id)
    assert there.say(new_id, "More").stats["read_again"] == 0


def test_another_model_prefills_the_transcript_again_on_request(machine):
    here, there = machine("here"), machine("there", "fake script=' Good day.'", seed=2)
    chat = here.store.create()
    here.say(chat.id, "Hello, a question of some length")
    opened = there.files.open("x.rwkvchat", here.save(chat.id))
    assert (opened.states, opened.has_states, opened.made_by) == (0, True, "here.safetensors")
    [new_id] = opened.chat_ids
    there.turns.read(new_id).join(60)
    end = there.say(new_id, "More")
    assert text_of([end]) is not None and end.stats["prefilled_tokens"] < 20 < end.stats["cached_tokens"]


def test_a_state_from_a_file_is_found_only_by_its_own_chat(machine):
    here, there = machine("here"), machine("there")
    chat = here.store.create()
    here.say(chat.id, "Hello, a question of some length")
    [new_id] = there.files.open("x.rwkvchat", here.save(chat.id)).chat_ids
    other = there.store.create()
    end = there.say(other.id, "Hello, a question of some length")
    assert end.stats["cached_tokens"] == 0
    assert there.say(new_id, "More").stats["read_again"] == 0


def test_files_thinking_and_calls_are_imported_and_a_missing_tool_is_named(machine):
    here, there = machine("here"), machine("there")
    chat = here.store.create()
    files = AttachmentStore(here.database)
    room = Room(10, 1 << 20, "1 MB")
    note = files.add(chat.id, "note.txt", "Wires.", 6, ReadMode.WHOLE, room, 3)
    attached = [AttachedFile(note.id, "note.txt", ReadMode.WHOLE, 6, 3)]
    question = here.store.add_message(chat.id, None, Message(Role.USER, "Read", metadata=attached_metadata(attached)))
    here.store.add_message(chat.id, question.id, Message(Role.ASSISTANT, "Done", reasoning="Hm", token_ids=(5, 6)))
    [new_id] = there.files.open("x.rwkvchat", here.save(chat.id)).chat_ids
    first, second = there.store.branch(new_id)
    [file] = first.message.metadata["attachments"]
    assert file["id"] != note.id and AttachmentStore(there.database).text(new_id, file["id"]) == "Wires."
    assert (second.message.reasoning, second.message.token_ids) == ("Hm", (5, 6))
    document, _ = read_chat_file("x", here.save(chat.id))
    document["tools"] = [{"name": "launch_rocket"}]
    assert there.files.open("x.rwkvchat", remade(document)).left_out == {"tool": 1}


def test_its_preset_is_found_or_made(machine):
    here, there = machine("here"), machine("there")
    preset = here.presets.create("Pirate", {"system_prompt": "Talk like a pirate.", "temperature": 1.5})
    chat = here.store.create(preset_id=preset.id)
    here.say(chat.id, "Hello")
    data = here.save(chat.id)
    first, second = (there.store.get(there.files.open("x.rwkvchat", data).chat_ids[0]) for _ in range(2))
    made = there.presets.of_chat(first)
    assert (made.system_prompt, made.sampling["temperature"]) == ("Talk like a pirate.", 1.5)
    assert first.preset_id == second.preset_id and len([p for p in there.presets.list() if p.name == made.name]) == 1


# invalid files


def remade(document, tensors=(), **about):
    text = json.dumps(document).encode()
    told = {"document": Stored("U8", (len(text),), memoryview(text)), **dict(tensors)}
    return b"".join(packed({"format": "rwkvchat-1", **about}, told))


def u32(*shape):
    count = 1
    for side in shape:
        count *= side
    return Stored("U32", shape, memoryview(bytes(4 * count)))


ROW = {"id": "1", "parent_id": None, "role": "user", "content": "Hi"}
DOCUMENT = {"format": "roost-chat", "format_version": 1, "chat": {}, "messages": [ROW]}
TIP = {**DOCUMENT, "tips": [{"message_id": "1", "tokens": 2}]}


def header_of(**changes):
    """A file with this header, whose digest is no longer valid."""
    header = {"__metadata__": {"format": "rwkvchat-1", "digest": "0" * 64},
              "document": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}, **changes}  # fmt: skip
    told = json.dumps(header).encode()
    return len(told).to_bytes(8, "little") + told + b"{}"


WHOLE = remade(DOCUMENT)
HOSTILE = {
    "empty": b"",
    "seven bytes": b"1234567",
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "a header of 2**63 bytes": (1 << 63).to_bytes(8, "little") + b"{}" * 40,
    "a header longer than the file": (10_000).to_bytes(8, "little") + b"{}",
    "a header that is no JSON": (8).to_bytes(8, "little") + b"{not js}",
    "a header that is a list": (2).to_bytes(8, "little") + b"[]",
    "a deep header": (90_000).to_bytes(8, "little") + b"[" * 90_000,
    "torn in the middle": WHOLE[: len(WHOLE) // 2],
    "its last byte gone": WHOLE[:-1],
    "a byte more": WHOLE + b"x",
    "a byte changed": WHOLE[:-5] + bytes([WHOLE[-5] ^ 1]) + WHOLE[-4:],
    "no metadata": header_of(__metadata__=None),
    "metadata of numbers": header_of(__metadata__={"digest": 5}),
    "a false digest": header_of(),
    "another format": remade(DOCUMENT, format="roost-snapshot-1"),
    "no document": b"".join(packed({"format": "rwkvchat-1"}, {"x": u32(1)})),
    "a document of floats": b"".join(
        packed({"format": "rwkvchat-1"}, {"document": Stored("F32", (1,), memoryview(bytes(4)))})
    ),
    "a document that is no UTF-8": b"".join(
        packed({"format": "rwkvchat-1"}, {"document": Stored("U8", (2,), memoryview(b"\xff\xfe"))})
    ),
    "a document that is a list": remade([1, 2]),
    "a deep document": b"".join(
        packed({"format": "rwkvchat-1"}, {"document": Stored("U8", (90_000,), memoryview(b"[" * 90_000))})
    ),
    "a document of another kind": remade({"format": "recipe"}),
    "no messages": remade({**DOCUMENT, "messages": []}),
    "messages that are no tree": remade({**DOCUMENT, "messages": [{**ROW, "parent_id": "2"}]}),
    "a message of numbers": remade({**DOCUMENT, "messages": [{**ROW, "content": 1, "role": 2}]}),
    "tips without tensors": remade(TIP),
    "tips that are text": remade({**DOCUMENT, "tips": "all"}),
    "a thousand tips": remade({**DOCUMENT, "tips": [{"message_id": "1", "tokens": 0}] * (MAX_TIPS + 1)}),
    "a tip of another length": remade(TIP, [("tip.0.tokens", u32(3))]),
    "a tip of a message that is not there": remade(
        {**DOCUMENT, "tips": [{"message_id": "2", "tokens": 2}]}, [("tip.0.tokens", u32(2))]
    ),
    "tokens in two dimensions": remade(TIP, [("tip.0.tokens", u32(2, 1))]),
    "tensors nobody knows": remade(DOCUMENT, [("weights", u32(4))]),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_and_leaves_nothing(database, content):
    store = ChatStore(database)
    files = ChatFiles(None, store, None)
    with raises_code("chat_file_invalid", "chat_import_invalid"):
        files.open("x.rwkvchat", content)
    assert store.list() == []


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "U8", "shape": [1 << 60], "data_offsets": [0, 1 << 60]},
        {"dtype": "F32", "shape": [1 << 40] * 8, "data_offsets": [0, 4]},
        {"dtype": "U8", "shape": [2], "data_offsets": [-2, 0]},
        {"dtype": "U8", "shape": [2.0], "data_offsets": [0, 2]},
        {"dtype": "U8", "shape": [True, 2], "data_offsets": [0, 2]},
        {"dtype": "O", "shape": [2], "data_offsets": [0, 2]},
        {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]},
        {"dtype": "U8", "shape": "2", "data_offsets": [0, 2]},
        7,
    ],
    ids=str,
)
def test_a_table_that_lies_allocates_nothing(entry):
    """With a valid digest, which an attacker can compute too."""
    import hashlib

    blank = header_of(document=entry)
    digest = hashlib.blake2b(blank, digest_size=32).hexdigest()
    with raises_code("chat_file_invalid"):
        read_chat_file("x", blank.replace(b"0" * 64, digest.encode(), 1))


def test_a_state_of_other_sizes_or_an_invalid_one_is_left_out_and_the_text_is_imported(machine):
    here, there = machine("here"), machine("there")
    chat = here.store.create()
    here.say(chat.id, "Hello, a question of some length")
    document, tensors = read_chat_file("x", here.save(chat.id))
    kv = tensors["tip.0.att_kv"]
    broken = {
        "sizes": replace_tensor(tensors, "tip.0.att_kv", kv._replace(shape=(kv.shape[0], *kv.shape[:0:-1], 1))),
        "endless": replace_tensor(
            tensors, "tip.0.att_kv", Stored("F32", kv.shape, memoryview(b"\0\0\xc0\x7f" * int(len(kv.data) / 2)))
        ),
        "missing": {name: stored for name, stored in tensors.items() if name != "tip.0.ffn_x_prev"},
    }
    if kv.dtype == "F32":
        broken["endless"]["tip.0.att_kv"] = Stored("F32", kv.shape, memoryview(b"\0\0\xc0\x7f" * (len(kv.data) // 4)))
    for content in broken.values():
        opened = there.files.open("x.rwkvchat", remade(document, content.items()))
        assert opened.states == 0 and opened.made_by and opened.messages == 2
        assert there.say(opened.chat_ids[0], "More").stats["read_again"] > 0


def replace_tensor(tensors, name, stored):
    return {**tensors, name: stored}


def test_a_file_of_five_thousand_messages_opens_in_seconds(database):
    """Only text; with a state in `python -m tests.acceptance.chat_file`."""
    store, rng = ChatStore(database), random.Random(1)
    rows, parent = [], None
    for number in range(5000):
        rows.append({**ROW, "id": str(number), "parent_id": parent, "role": ("user", "assistant")[number % 2],
                     "content": "word " * 40, "token_ids": [rng.randrange(60_000) for _ in range(40)]})  # fmt: skip
        parent = str(number)
    data, begun = remade({**DOCUMENT, "messages": rows}), time.process_time()
    manager = type("Manager", (), {"library": None})()
    opened = ChatFiles(manager, store, None).open("x.rwkvchat", data)
    assert opened.messages == 5000 and time.process_time() - begun < 20
    assert len(store.branch(opened.chat_ids[0])) == 5000
