"""The number of tokens in the input and in the chat, compared with the model's training."""

import re

import pytest

from webapp.services.downloads.catalogue import STARTER_CONTEXT
from webapp.tokenizer import load_tokenizer


def counted(roost, text="", chat=""):
    page = roost.post("/chat/count", text=text, chat=chat)[1]
    return dict(re.findall(r'data-(typed|used|how)="(\w+)"', page))


@pytest.mark.parametrize("text", ["Hello there", "今天天气怎么样？", "  "])
def test_what_is_typed_is_counted_by_the_models_own_tokenizer(roost, text):
    tokens = len(load_tokenizer(65536).encode(text)) if text.strip() else 0
    assert counted(roost, text) == ({"typed": str(tokens)} if tokens else {})


def test_a_chat_says_how_long_it_is_and_when_that_is_past_what_was_trained(roost):
    chat_id = roost.answered("Why do birds sit on wires?")
    stored = roost.store.branch(chat_id)[-1]
    used = stored.stats["prompt_tokens"] + stored.stats["decoded_tokens"]
    assert counted(roost, chat=chat_id) == {"used": str(used), "how": "within"}
    assert f'data-used="{used}"' in roost.get(f"/chat/{chat_id}")
    left = STARTER_CONTEXT - used
    assert counted(roost, " a" * (left + 1), chat_id)["how"] == "beyond"
    assert "how" not in counted(roost, "typed", "")


def test_a_chat_that_is_gone_is_not_counted(roost):
    with pytest.raises(Exception, match="404"):
        counted(roost, "text", "0" * 32)
