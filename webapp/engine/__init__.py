"""The engine: takes token ids and returns token ids. It knows no text, files or web, and does not import torch."""
