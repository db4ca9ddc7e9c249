"""Music as models read and write it, as files have it, and as people see and hear it.

events        the words of the MIDI models as notes, both ways, and while they come
midi_file     the same as .mid files
abc           ABC notation: checked, as notes, and of notes
bars          where a bar begins
synthesiser   notes as sound

The vocabularies are in :mod:`webapp.tokenizer.music`.
"""
