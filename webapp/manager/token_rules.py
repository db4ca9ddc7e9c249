"""Which tokens the engine never samples, and which a global penalty leaves alone; from tokenizer and model file."""

from __future__ import annotations

from webapp.tokenizer import Tokenizer
from webapp.weights.inspection import Inspection, used_token_bitmap

PENALTY_EXEMPT_TEXT = "\n\t 0123456789,.:;?!\"'`~@#$%^&*()[]{}<>_+-=|/\\，。：；？！、“”‘’（）《》"
"""Characters every text repeats: their tokens in the prompt do not count for ``global_penalty``. After RWKV-Runner's
rwkv.py, which exempts line ends, spaces, digits and punctuation."""


def penalty_exempt_token_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Tokens that are one such character; a character of several tokens has none."""
    encoded = (tokenizer.encode(character) for character in PENALTY_EXEMPT_TEXT)
    return tuple(sorted({ids[0] for ids in encoded if len(ids) == 1}))


def banned_token_ids(tokenizer: Tokenizer | None, inspection: Inspection, vocab_size: int) -> tuple[int, ...]:
    """Ids that are no token, and tokens the model was never trained on: it gives them any logit. Token 0 ends a text
    and is never banned."""
    banned = {token_id for token_id in (tokenizer.unassigned_ids() if tokenizer else ()) if token_id < vocab_size}
    bitmap = used_token_bitmap(inspection)
    if bitmap is not None:
        banned |= {id for id in range(vocab_size) if id // 8 < len(bitmap) and not bitmap[id // 8] >> (id % 8) & 1}
    return tuple(sorted(banned - {0}))
