"""Music as text of models, as files, and as notes and sound.

events        the words of the MIDI models to notes and back, also streamed
midi_file     events to .mid files and back
abc           ABC notation: checks, conversion to and from notes
bars          where bars begin
synthesiser   notes to sound

The vocabularies are in :mod:`webapp.tokenizer.music`.
"""
