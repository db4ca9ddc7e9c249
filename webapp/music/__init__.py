"""Conversion of music between the text of models, files, notes and sound.

events        the words of the MIDI models to notes and back, also streamed; where bars begin
midi_file     events to .mid files and back
abc           ABC notation: checks, conversion to and from notes
synthesiser   notes to sound

The vocabularies are in :mod:`webapp.tokenizer.music`.
"""
