from webapp.chat.formats import G1X
from webapp.chat.messages import Message, Role
from webapp.chat.prompts import PromptPiece, RenderedPrompt, render
from webapp.services.generation.request import EncodedTexts, encode_prompt, stop_sequences

CHAT = [
    Message(Role.USER, "你好。"),
    Message(Role.ASSISTANT, "Hi.\n\nHow are you?"),
    Message(Role.USER, "Fine, 谢谢"),
]


def test_piece_by_piece_gives_what_the_official_whole_string_gives(world):
    rendered = render(G1X, CHAT, system="Be kind.")
    assert list(encode_prompt(rendered, world).token_ids) == world.encode(rendered.text)


def test_boundaries_are_ascending_prefix_lengths_at_message_ends(world):
    encoded = encode_prompt(render(G1X, CHAT), world)
    assert [world.decode(encoded.token_ids[:length]) for length in encoded.boundaries] == [
        "User: 你好。\n\n",
        "User: 你好。\n\nAssistant: Hi.\n\nHow are you?\n\n",
        "User: 你好。\n\nAssistant: Hi.\n\nHow are you?\n\nUser: Fine, 谢谢\n\n",
    ]


def test_ids_are_taken_as_they_are(world):
    continued = PromptPiece(token_ids=(5, 6))
    encoded = encode_prompt(RenderedPrompt((PromptPiece("a"), continued), continued=continued), world)
    assert encoded.token_ids == (*world.encode("a"), 5, 6)
    assert encoded.beginning == (5, 6)


def test_stops_are_spelled_as_the_vocabulary_does(world):
    assert stop_sequences(("\n\nUser:", "\n\nAssistant:"), world) == ((261, 24281, 59), (261, 5585, 41693, 59))


class CountingTokenizer:
    def __init__(self, world):
        self.world, self.texts = world, []

    def encode(self, text):
        self.texts.append(text)
        return self.world.encode(text)


def test_a_text_is_encoded_once_for_each_vocabulary_and_few_are_kept(world):
    tokenizer, other = CountingTokenizer(world), CountingTokenizer(world)
    texts = EncodedTexts(most_tokens=40)
    for _ in range(2):
        assert list(texts.token_ids("a heron stands", tokenizer)) == world.encode("a heron stands")
    texts.token_ids("a heron stands", other)
    assert (tokenizer.texts, other.texts) == (["a heron stands"], ["a heron stands"])
    for number in range(30):
        texts.token_ids(f"{number} more herons came", tokenizer)
    texts.token_ids("29 more herons came", tokenizer)
    texts.token_ids("a heron stands", tokenizer)
    assert tokenizer.texts.count("29 more herons came") == 1 and tokenizer.texts.count("a heron stands") == 2
