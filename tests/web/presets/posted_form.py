"""The fields that a browser without scripts would post from a page's form."""

from __future__ import annotations

from html.parser import HTMLParser


class PostedForm(HTMLParser):
    """``fields``: name to the list of its values, of the form with this id, without buttons."""

    def __init__(self, form_id: str) -> None:
        super().__init__()
        self.fields: dict[str, list[str]] = {}
        self._form_id = form_id
        self._is_inside = False
        self._select: str | None = None
        self._options: list[tuple[str, bool, bool]] = []
        self._textarea: str | None = None
        self._text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self._is_inside = given.get("id") == self._form_id
        if not self._is_inside or "disabled" in given:
            return
        name = given.get("name") or ""
        if tag == "option":
            self._options.append((given.get("value") or "", "selected" in given, "disabled" in given))
        elif tag == "select":
            self._select, self._options = name, []
        elif tag == "textarea":
            self._textarea, self._text = name, ""
        elif tag == "input" and name and ("checked" in given or given.get("type") not in ("radio", "checkbox", "file")):
            self._add(name, given.get("value") or "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._is_inside = False
        elif tag == "select" and self._select:
            chosen = [value for value, is_chosen, _ in self._options if is_chosen] or [self._options[0][0]]
            self._add(self._select, chosen[0])
            self._select = None
        elif tag == "textarea" and self._textarea:
            self._add(self._textarea, self._text.removeprefix("\n").replace("\n", "\r\n"))
            self._textarea = None

    def handle_data(self, data: str) -> None:
        if self._textarea:
            self._text += data

    def _add(self, name: str, value: str) -> None:
        self.fields.setdefault(name, []).append(value)


def form_of(page: str, form_id: str = "preset") -> dict[str, list[str]]:
    reader = PostedForm(form_id)
    reader.feed(page)
    return reader.fields
