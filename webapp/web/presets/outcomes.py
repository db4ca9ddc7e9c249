"""What was done before this page, from its address; nothing in it is believed that is not known."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from webapp.services.presets.parameters import BY_NAME
from webapp.web.kit.page import Toast
from webapp.web.presets.names import labels

Words = Callable[..., str]
UNDO = re.compile(r"restore:[0-9a-f]{32}")
DEEDS = ("deleted", "used")


def toasts_of(args: Mapping[str, str], t: Words) -> tuple[Toast, ...]:
    done, undo = args.get("done", ""), args.get("undo", "")
    if done == "imported":
        count = args.get("count", "")
        return (Toast("done", t("preset_page.done.imported", count=int(count[:4]) if count.isdecimal() else 0)),)
    if done not in DEEDS:
        return ()
    return (Toast("done", t(f"preset_page.done.{done}"), undo=undo if UNDO.fullmatch(undo) else ""),)


def said_of_saving(args: Mapping[str, str], is_active: bool, t: Words) -> str:
    """What the save before this page did; "" when there was none."""
    if "saved" not in args:
        return ""
    applied, late = known_names(args["saved"]), known_names(args.get("reload", ""))
    if late:
        return t("preset_page.saved.reload", names=labels(late, t))
    if applied:
        return t(f"preset_page.saved.{'applied' if is_active else 'inactive'}", names=labels(applied, t))
    return t("preset_page.saved.nothing")


def known_names(text: str) -> tuple[str, ...]:
    """Parameters named in a list with commas."""
    return tuple(name for name in text.split(",") if name in BY_NAME)
