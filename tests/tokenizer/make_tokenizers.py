"""Small tokenizer.json files, created with the tokenizers library."""

from __future__ import annotations

from pathlib import Path


def write_byte_level(path: Path, vocab_size: int = 300) -> int:
    """A byte-level BPE like 20B, with its special token 0 and an added run of spaces; returns the number of tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["the cat and the hat", "你好 the 世界 🙂"] * 20, trainer)
    tokenizer.add_tokens([AddedToken("    ", normalized=False)])
    tokenizer.save(str(path))
    return tokenizer.get_vocab_size(with_added_tokens=True)


def write_word_level(path: Path, words: list[str]) -> int:
    """A word list like those of the MIDI models: pieces are joined with spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(path))
    return len(words)


def write_byte_fallback(path: Path) -> int:
    """Sentence pieces with ``<0xE4>`` for bytes: a character appears only after its last byte."""
    from tokenizers import Tokenizer, decoders, models

    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁the": 256, "▁cat": 257}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.save(str(path))
    return len(vocabulary)
