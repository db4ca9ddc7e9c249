"""Text <-> token ids. Imports nothing of Roost but errors, and neither torch nor the tokenizers library until needed.

:func:`load_tokenizer` chooses one for a model; :class:`StreamDecoder` turns ids into text while they come.
"""

from webapp.tokenizer.loading import StreamDecoder, Tokenizer, load_tokenizer

__all__ = ["StreamDecoder", "Tokenizer", "load_tokenizer"]
