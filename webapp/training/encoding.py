"""The World tokenizer for training."""

from __future__ import annotations

from webapp.training.batches import Encode


def world_encode() -> Encode:
    """text -> token ids, no token added."""
    try:
        from webapp.tokenizer import WorldTokenizer  # type: ignore[attr-defined]
    except ImportError:
        return package_encode()
    return WorldTokenizer().encode


def package_encode() -> Encode:
    """The tokenizer of the rwkv package, while the room `tokenizer` has none."""
    from pathlib import Path

    import rwkv
    from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

    return TRIE_TOKENIZER(str(Path(rwkv.__file__).parent / "rwkv_vocab_v20230424.txt")).encode
