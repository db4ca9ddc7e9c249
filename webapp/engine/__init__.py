"""Token ids in, token ids out. Knows no text, no files, no web; imports no torch."""
