"""The library of states: what is in a file, what it fits, and making one from a text."""
