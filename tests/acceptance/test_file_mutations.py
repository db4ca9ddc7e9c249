"""The short form of :mod:`.file_mutations`; the long form has 2,000 files."""

from __future__ import annotations

from tests.acceptance.file_mutations import run


def test_damaged_files_are_read_or_refused_and_end_nothing(tmp_path):
    outcome = run(tmp_path, count=150, seed=7)
    assert outcome.reader_ends == 0 and outcome.given_up == []
    assert sum(outcome.codes.values()) >= 150
    assert {"file_truncated", "file_error", "state read"} <= set(outcome.codes)
