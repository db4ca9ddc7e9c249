"""The vocabularies of the music models."""

from __future__ import annotations

import hashlib
import math

import pytest

from webapp.tokenizer import StreamDecoder, load_tokenizer
from webapp.tokenizer.music import ABC_BEGIN, ABC_END, MIDI, MIDI_PIANO


def test_the_words_are_those_of_the_published_files():
    """20,096 and 2,176 words in the order of tokenizer-midi.json and tokenizer-midipiano.json: their positions as in
    the author's run.py, and the digest of each file's list."""
    assert (MIDI.size, MIDI_PIANO.size) == (20096, 2176)
    assert [MIDI.words[place] for place in (0, 1, 2, 3, 127, 128, 20095)] == [
        "<pad>", "<start>", "<end>", "t1", "t125", "p:0:0", "pa:7f:b",
    ]  # fmt: skip
    assert (MIDI.words[12416], MIDI.words[13951]) == ("pi:0:0", "pi:7f:b")  # the limits of the author's piano-only mode
    digests = [hashlib.sha256("\n".join(each.words).encode()).hexdigest()[:16] for each in (MIDI, MIDI_PIANO)]
    assert digests == DIGESTS


DIGESTS = ["e46c4ba8e0839c62", "af7a5679626cf58c"]


@pytest.mark.parametrize("vocabulary", [MIDI, MIDI_PIANO])
def test_ids_words_notes_and_waits_agree(vocabulary):
    assert len(set(vocabulary.words)) == vocabulary.size
    for token_id, word in enumerate(vocabulary.words):
        note, steps = vocabulary.note_of(token_id), vocabulary.steps_of(token_id)
        if note is not None:
            short, pitch, loudness = word.split(":")
            assert (vocabulary.short_names[note[0]], *note[1:]) == (short, int(pitch, 16), int(loudness, 16))
            assert vocabulary.note_id(*note) == token_id
        assert steps == (int(word[1:]) if note is None and word.startswith("t") else 0)


@pytest.mark.parametrize("vocabulary", [MIDI, MIDI_PIANO])
def test_loudness_and_velocity_are_the_authors_formulas(vocabulary):
    """``velocity_to_bin`` and ``bin_to_velocity`` of briansemrau/MIDI-LLM-tokenizer, midi_util.py."""
    size, curve = 128 / (vocabulary.loudnesses - 1), vocabulary.curve
    for velocity in range(128):
        assert vocabulary.loudness_of(velocity) == math.ceil(
            128 * ((curve ** (velocity / 128) - 1) / (curve - 1)) / size
        )
    for loudness, velocity in enumerate(vocabulary.velocities):
        assert velocity == max(0, math.ceil(128 * math.log((curve - 1) * size * loudness / 128 + 1, curve) - 1))
        assert vocabulary.loudness_of(velocity) == loudness


@pytest.mark.parametrize("size, name", [(20096, "midi"), (2176, "midi-piano"), (128, "abc")])
def test_a_model_gets_its_vocabulary_by_size(size, name):
    found = load_tokenizer(size)
    assert (found.name, found.vocab_size) == (name, size)


def test_midi_text_streams_and_joins():
    tokenizer = load_tokenizer(MIDI.size)
    ids = tokenizer.encode("<pad> PI:3c:a  t5\npi:3c:0 what t999")
    assert ids == [0, MIDI.ids["pi:3c:a"], MIDI.ids["t5"], MIDI.ids["pi:3c:0"]]
    assert tokenizer.decode(ids) == " pi:3c:a t5 pi:3c:0"
    stream = StreamDecoder(tokenizer)
    assert [stream.feed([token_id]) for token_id in ids] == ["", " pi:3c:a", " t5", " pi:3c:0"]
    assert tokenizer.unassigned_ids() == [0, 1, 2]
    assert tokenizer.token_bytes(-1) is tokenizer.token_bytes(MIDI.size) is None


def test_an_abc_character_is_its_number():
    tokenizer = load_tokenizer(128)
    text = "S:2\nK:D\n|: d2 fa :|"
    assert tokenizer.encode(text) == [ord(character) for character in text]
    assert tokenizer.decode([ABC_BEGIN, *tokenizer.encode(text), ABC_END]) == text
    assert tokenizer.encode("T:Été\u2028\ud800曲") == [ord(character) for character in "T:Ete"]
    assert ABC_END not in tokenizer.unassigned_ids()  # otherwise no tune would end
    assert {0, 1, 2} == set(tokenizer.unassigned_ids())
