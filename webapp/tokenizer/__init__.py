"""Text to token ids and back. Imports only errors from Roost; torch is not used, and the tokenizers library is imported
when needed.

:func:`load_tokenizer` chooses a model's tokenizer; :class:`StreamDecoder` decodes a stream of ids.
"""

from webapp.tokenizer.loading import StreamDecoder, Tokenizer, load_tokenizer

__all__ = ["StreamDecoder", "Tokenizer", "load_tokenizer"]
