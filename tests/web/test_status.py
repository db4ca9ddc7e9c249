"""The status strip as it is drawn from a status."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from webapp.chat.events import Waiting
from webapp.i18n import translate
from webapp.manager.model_status import ModelStatus
from webapp.web.chat.message_view import waiting_text
from webapp.web.status.strip import strip_context


@pytest.mark.parametrize("locale", ["en", "zh"])
@pytest.mark.parametrize("phase", ["answering", "loading"])
def test_an_engine_that_does_not_answer_is_said_with_its_seconds(phase, locale):
    def t(key, **values):
        return translate(key, locale, **values)

    silent, well = (SimpleNamespace(status=lambda n=n: ModelStatus(phase=phase, silent_s=n)) for n in (37, 0))
    strip = strip_context(silent, t)
    assert "37" in strip.word and strip.light == "waiting"
    assert strip.word != strip_context(well, t).word
    assert "37" in waiting_text(Waiting("silent", 37), t)
    assert waiting_text(Waiting("silent", 0), t) == waiting_text(None, t)
