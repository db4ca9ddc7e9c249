from collections.abc import Iterator

import pytest

from webapp.structured.grammar_constraint import GrammarConstraints
from webapp.tokenizer.loading import WorldTokenizer, world_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> WorldTokenizer:
    return world_tokenizer()


@pytest.fixture(scope="module")
def constraints(tokenizer: WorldTokenizer) -> Iterator[GrammarConstraints]:
    made = GrammarConstraints(lambda: tokenizer)
    yield made
    made.close()
