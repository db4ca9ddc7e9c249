"""The base of every page: the request's context, page or fragment, and small parts that every page shows.

:func:`current_page` gives a view its :class:`PageContext`: services, the reader's language, the model's status at one
moment. It stays the same for the whole request, so that two parts of a page cannot disagree. A view returns a mapping
of plain values, the template's variables; :func:`render_page` renders the whole page, or the fragment that htmx
requested. :func:`install` gives every template ``t(key, **params)`` and ``locale``. :class:`PackedStatic` serves the
files that pages load.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import re
import threading
from collections.abc import Callable, Collection, Iterable
from datetime import datetime, tzinfo
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flask import (
    Flask,
    Response,
    after_this_request,
    current_app,
    g,
    has_request_context,
    make_response,
    render_template,
    request,
    url_for,
)
from jinja2.ext import Extension
from markupsafe import Markup, escape
from msgspec import Struct

from webapp.errors import RoostError, translate_error
from webapp.i18n import DEFAULT_LOCALE, LOCALES, choose_locale, say, sentences, translate
from webapp.i18n.translation import LOCALE_COOKIE
from webapp.manager.library import STATE_ENDINGS, STATES
from webapp.services.strategy import Hardware, probe
from webapp.settings import Settings
from webapp.storage.people import NOBODY, Person
from webapp.storage.tools import ToolStore
from webapp.weights.inspection import Inspection

if TYPE_CHECKING:
    from webapp.manager.manager import ModelManager
    from webapp.manager.target import ModelStatus
    from webapp.services.batch import BatchRuns
    from webapp.services.bench.measurements import Measurements
    from webapp.services.bench.tool_bench import ToolBench
    from webapp.services.chat.turns import ChatTurns
    from webapp.services.conversion import Conversions
    from webapp.services.downloads.downloads import Downloads
    from webapp.services.jobs import Jobs
    from webapp.services.library.model_files import ModelFiles
    from webapp.services.limits import PersonQuota
    from webapp.services.notebook import Notebooks
    from webapp.services.presets.presets import Presets
    from webapp.services.states import Prefixes, StateLibrary
    from webapp.services.tools import McpServers
    from webapp.storage.database import Database
    from webapp.web.guard import Guard

COOKIE_SECONDS = 365 * 86400
ZONE_COOKIE = "roost_zone"
OF_BROWSER = {
    "theme": ("light", "dark"),
    "density": ("compact",),
    "enter": ("send", "line"),
    "tour": ("done",),
    "list": ("closed",),
}
INDENT = re.compile(r"^[ \t]+", re.MULTILINE)
SURROGATES = re.compile("[\ud800-\udfff]")
ROW_ID = re.compile(r"[0-9a-f]{32}")
ID_CHARS = 64
NAME_CHARS = 80
JSON_LINES = "application/x-ndjson"


LINK = r'((?:href|src|action|formaction|hx-get|hx-post|hx-put|hx-delete|ws-connect)=")'
OWN_LINK = re.compile(LINK + "/(?!/)")
MADE_LINK = re.compile(LINK + r"\{\{ (?!url_for\()(.+?) \}\}")


class AsSent(Extension):
    """Removes the indentation of templates (a tenth of a page). It also adds the base path (:func:`base`) to links such
    as ``/models`` when a template is loaded, in case a proxy serves Roost below a path."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        source = OWN_LINK.sub(r"\1{{ base_path }}/", INDENT.sub("", source))
        return MADE_LINK.sub(r"\1{{ (\2)|at_base }}", source)


def base() -> str:
    """The base path under which this request's browser sees Roost, such as "/roost"; "" for none."""
    return request.script_root if has_request_context() else ""


class BasePath:
    """:func:`base` for macros, which have no context: computed once per template (a list has about 20 links)."""

    def __html__(self) -> str:
        return base()


def at_base(url: Any) -> Any:
    """``url`` for the browser: adds :func:`base` to a path of ours, unless it is there already."""
    prefix, text = base(), str(url)
    is_ours = text.startswith("/") and not text.startswith("//")
    return prefix + text if prefix and is_ours and not (text + "/").startswith(prefix + "/") else url


def install(app: Flask, settings: Settings) -> None:
    """Makes translations available to templates and stores a language chosen by ``?lang=``."""
    app.extensions["settings"] = settings
    app.context_processor(template_words)
    app.jinja_env.filters["commands"] = commands
    app.jinja_env.filters["with_way_out"] = sentences
    app.jinja_env.add_extension(AsSent)
    app.jinja_env.globals.update(base=base, base_path=BasePath())
    app.jinja_env.filters["at_base"] = at_base


def commands(text: str) -> Markup:
    """An error's text as HTML: parts between backticks (commands, files) become code; everything is escaped."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if is_code else escape(piece)
        for piece, is_code in zip(pieces, itertools.cycle((False, True)), strict=False)
    )


def template_words() -> dict[str, Any]:
    locale = current_locale()
    return {"t": translator(locale), "locale": locale, "base_path": base()}


def translator(locale: str) -> Any:
    def t(key: str, **params: Any) -> str:
        return translate(key, locale, **params)

    return t


def current_locale() -> str:
    """The reader's language; outside a request that of the settings (default English)."""
    settings = current_app.extensions.get("settings")
    fixed = settings.language if settings else "auto"
    if not has_request_context():
        return fixed if fixed in LOCALES else DEFAULT_LOCALE
    if "locale" not in g:
        chosen = request.args.get("lang")
        cookie, accepted = request.cookies.get(LOCALE_COOKIE), request.headers.get("Accept-Language")
        g.locale = choose_locale(chosen, cookie, accepted, fixed)
        if chosen in LOCALES:
            after_this_request(_remember_locale)
    return str(g.locale)


def _remember_locale(response: Response) -> Response:
    response.set_cookie(LOCALE_COOKIE, g.locale, max_age=COOKIE_SECONDS, samesite="Lax", httponly=True)
    return response


def browser_choices() -> dict[str, str]:
    """The browser's own choices, from the cookie ``roost_<name>``; "" follows the system or device."""
    chosen = {name: request.cookies.get(f"roost_{name}", "") for name in OF_BROWSER}
    return {name: value if value in OF_BROWSER[name] else "" for name, value in chosen.items()}


def browser_zone() -> tzinfo | None:
    """Time zone of the reader's browser, as sent by ``static/js/shell.js``; None if missing or unknown."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # not needed at start

    name = request.cookies.get(ZONE_COOKIE, "") if has_request_context() else ""
    try:
        return ZoneInfo(name) if name else None
    except (ValueError, OSError, ZoneInfoNotFoundError):  # the value is untrusted
        return None


def moment_text(at: float, instead: tzinfo | None = None) -> str:
    """A time in seconds since 1970 as text, such as "2026-11-30 09:12", in the reader's time zone; otherwise in the
    zone ``instead``, None for this machine's."""
    return datetime.fromtimestamp(at, browser_zone() or instead).strftime("%Y-%m-%d %H:%M")


def wants_fragment() -> bool:
    """True if htmx requests a part of the page; not for a boosted link or a restored history entry."""
    headers = request.headers
    whole = "HX-Boosted" in headers or "HX-History-Restore-Request" in headers
    return headers.get("HX-Request") == "true" and not whole


def render_fragment(name: str, values: Values | None = None, locale: str | None = None) -> str:
    """The HTML of one template; ``locale`` is for a thread without a request, which renders for a known reader.

    Needs an application context, as all of Flask's rendering does.
    """
    words = {} if locale is None else {"t": translator(locale), "locale": locale}
    # A file's name may contain half a surrogate pair, which cannot be encoded in a response.
    return SURROGATES.sub("\ufffd", render_template(name, **{**(values or {}), **words}))


def render_page(page: str, values: Values | None = None, fragment: str | None = None, status: int = 200) -> Response:
    """The whole ``page``, or only ``fragment`` (if given) if htmx requested a part; caches must not mix them up."""
    name = fragment if fragment is not None and wants_fragment() else page
    response = make_response(render_fragment(name, values), status)
    response.vary.update(["HX-Request", "Accept-Language", "Cookie"])
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def parameters_text(found: Inspection, t: Callable[..., str]) -> str:
    """For example "1.53B parameters"; if some were never trained, also how many were."""
    words = {"number": number_text(found.parameters), "trained": number_text(found.trained_parameters)}
    return t("unit.parameters_trained" if found.trained_parameters < found.parameters else "unit.parameters", **words)


def rate_text(value: float) -> str:
    """Three significant digits: 0.42, 8.3, 1,814."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def number_text(count: int) -> str:
    """191M, 1.53B: as in the names of models."""
    for limit, unit in ((999.5e6, "B"), (999.5e3, "M"), (999.5, "k")):
        if count >= limit:
            return f"{count / {'B': 1e9, 'M': 1e6, 'k': 1e3}[unit]:.3g}{unit}"
    return str(count)


ABOUT_CHARS = 1000
Values = dict[str, Any]
"""A template's variables."""
Translator = Callable[..., str]
"""``t(key, **params)``: a text of the catalogue in one reader's language."""


class Toast(Struct, frozen=True):
    """``_toast.html``. ``undo`` is the command that reverts the action, or another one that ``label`` names, "" for
    none; ``code`` is the error's code."""

    id: str
    text: str
    hint: str = ""
    undo: str = ""
    is_error: bool = False
    code: str = ""
    label: str = ""


class Choice(Struct, frozen=True):
    """An option of a select or a group of radio buttons."""

    value: str
    label: str
    is_disabled: bool = False
    is_chosen: bool = False


class FormField(Struct, frozen=True):
    """The values of a control for the macros of ``_controls.html``. ``default`` None: it has no reset dot."""

    name: str
    label: str
    help: str = ""
    value: str = ""
    error: str = ""
    is_changed: bool = False
    default: str | None = None
    needs_reload: bool = False


class PageContext:
    """The services, by their names in ``app.extensions``, and one reader's view of them. ``t`` translates a key."""

    batches: BatchRuns
    chat_turns: ChatTurns
    conversions: Conversions
    database: Database
    downloads: Downloads
    guard: Guard
    jobs: Jobs
    mcp_servers: McpServers
    measurements: Measurements
    model_files: ModelFiles
    notebooks: Notebooks
    prefixes: Prefixes
    presets: Presets
    quota: PersonQuota
    settings: Settings
    states: StateLibrary
    tool_bench: ToolBench

    def __init__(self, app: Flask, locale: str, person: Person | None = None) -> None:
        vars(self).update(app.extensions)
        self.manager: ModelManager = app.extensions["model_manager"]
        self.locale = locale
        self.person: Person = person or g.get("person", NOBODY)
        """The reader: the request's person, unless given."""
        self.t: Translator = translator(locale)

    @cached_property
    def tools(self) -> ToolStore:
        """The tools that the reader may use."""
        return ToolStore(self.database).of(self.person.id)

    @cached_property
    def status(self) -> ModelStatus:
        """The model's status at one moment."""
        return self.manager.status()

    @cached_property
    def model(self) -> Inspection | None:
        """The chosen model's file; None if no model is chosen or it cannot be read."""
        try:
            return self.manager.model_info()
        except RoostError:
            return None

    @cached_property
    def hardware(self) -> Hardware:
        return probe()

    @cached_property
    def engine_bytes(self) -> int:
        """The memory that unloading the current model would free."""
        return self.status.engine_bytes

    def speed_here(self, found: Inspection | None, strategy: str) -> str:
        """The speed of one answer of that model on this machine, such as "31 tokens/s here (measured)"; "" if
        unknown."""
        speed = self.measurements.speed(found, strategy) if found is not None else None
        if speed is None:
            return ""
        if speed.is_measured:
            return str(self.t("measure.here.measured", rate=rate_text(speed.tokens_per_s)))
        return str(self.t("measure.here.estimated", rate=rate_text(float(f"{speed.tokens_per_s:.2g}"))))

    def state_names(self) -> list[str]:
        """Names of files in the states folder; none is opened."""
        folder = self.manager.library.models_dir / STATES
        try:
            names = [entry.name for entry in os.scandir(folder) if entry.is_file()]
        except OSError:
            return []
        return sorted(name for name in names if name.lower().endswith(STATE_ENDINGS) and not name.startswith("."))

    def explain(self, error: RoostError, name: str = "") -> tuple[str, str]:
        """(sentence, way out) in the reader's language; ``name`` replaces a path on this server's disk."""
        if name and "path" in error.params:
            error = error.with_params(path=name)
        return translate_error(error, self.locale)

    def sentences(self, error: RoostError) -> str:
        """Sentence and way out as one text."""
        return sentences(*self.explain(error))

    def reason(self, error: RoostError) -> str:
        """Only the problem, for display next to its field."""
        return str(say(error.params.get("reason", ""), self.locale))

    def field(self, words: str, value: str = "", error: str = "") -> FormField:
        """The control named by the last part of ``words``; its label and help are below ``words`` in the catalogue."""
        name = words.rpartition(".")[2]
        return FormField(name, self.t(f"{words}.label"), self.t(f"{words}.help"), value, error)

    def error_toast(self, error: RoostError, name: str = "", id: str = "refused") -> Toast:
        return Toast(id, *self.explain(error, name), is_error=True, code=error.code)

    def error_values(self, error: RoostError) -> Values:
        """In the form for the pages' scripts."""
        message, hint = self.explain(error)
        return {"code": error.code, "message": message, "hint": hint}

    def done_toast(
        self, prefix: str, known: Collection[str], undo: str | None = None, hint: str = ""
    ) -> tuple[Toast, ...]:
        """The toast for ``?said=`` after a redirect: the text ``<prefix>.<said>`` about ``?about=``, a name or a count;
        none for an unknown ``said``. ``undo`` None: restores the row ``?undo=``, as :func:`undone_id` reads it."""
        said, about = request.args.get("said", ""), request.args.get("about", "")[:ABOUT_CHARS]
        if undo is None:
            row_id = request.args.get("undo", "")
            undo = f"restore:{row_id}" if ROW_ID.fullmatch(row_id) else ""
        count = int(about) if about.isdecimal() and len(about) < 10 else 0
        if said not in known:
            return ()
        return (Toast("done", self.t(f"{prefix}.{said}", name=about, count=count), hint, undo),)

    def model_url(self, name: str) -> str:
        return url_for("models.details", name=name)


def current_page() -> PageContext:
    """The context of the current request."""
    if "page" not in g:
        g.page = fresh_page()
    found: PageContext = g.page
    return found


def fresh_page() -> PageContext:
    """A new context, to render a page after an action that changed something or failed."""
    g.page = PageContext(current_app._get_current_object(), current_locale())  # type: ignore[attr-defined]
    found: PageContext = g.page
    return found


def refused_status(error: RoostError) -> int:
    """The HTTP status of a form that is shown again; a fault of the server's is not the form's."""
    return error.status if error.status < 500 else 422


def html_id(name: str) -> str:
    """An id for a file's row: stable, unique, valid in an attribute."""
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:12]


def file_name_options(name: str) -> dict[str, str]:
    """Headers are Latin-1: other scripts go into ``filename*`` (RFC 6266), an ASCII replacement into ``filename``."""
    if name.isascii():
        return {"filename": name}
    plain = name.encode("ascii", "ignore").decode().lstrip(" .-")
    return {"filename": plain if "." in plain else f"chat.{plain}", "filename*": f"UTF-8''{quote(name, safe='')}"}


def posted_text(most_chars: int) -> str:
    """The text of the form's ``file``, or of its field ``text``."""
    found = request.files.get("file")
    if found is not None and found.filename:
        return found.stream.read(most_chars).decode("utf-8-sig", "replace")
    return request.form.get("text", "")[:most_chars]


def undone_id() -> str:
    """The row that a toast's undo restores; "" if the form's ``do`` names none."""
    row_id = request.form.get("do", "").removeprefix("restore:")
    return row_id if ROW_ID.fullmatch(row_id) else ""


def file_stem(name: str, instead: str) -> str:
    """A person's title as the stem of a file name; ``instead`` if no character of it is allowed."""
    return re.sub(r"[^\w\- ]", "", name).strip()[:NAME_CHARS] or instead


def download(body: Any, media_type: str, file_name: str) -> Response:
    answer = Response(body, mimetype=media_type, headers={"Cache-Control": "no-store"})
    answer.headers.set("Content-Disposition", "attachment", **file_name_options(file_name))
    return answer


def wants_json() -> bool:
    """Whether a page's script requests a document or lines."""
    return request.headers.get("Accept", "") in ("application/json", JSON_LINES)


def json_line(value: Values) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def json_lines(lines: Iterable[bytes]) -> Response:
    """Each line is sent as soon as it is available."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Response(lines, mimetype=JSON_LINES, headers=headers)


# static files

PACKED_TYPES = ("text/", "application/javascript", "application/json", "image/svg+xml")
SMALLEST_BYTES = 500
MAX_FILES = 200
KEPT_S = 365 * 24 * 3600


class PackedStatic:
    """Flask's own static view, with text compressed (gzip) once per version of a file, so that a page with all its
    files is small.

    Pages name static files below a version of all of them (``/static/v-1f3c…/js/chat.js``), which browsers keep for a
    year without asking again; what a script imports is below the same version. An address of another version, of a page
    that was opened before an update, gives today's file, which is not kept; nor is a file that was changed while the
    server runs, which is not the one the version tells of.

    Only for public files: if a page contains both a secret and text that an attacker can choose, its compressed length
    reveals the secret (BREACH).
    """

    def __init__(self, app: Flask) -> None:
        self._view: Callable[..., Any] = app.view_functions["static"]
        self._folder = Path(str(app.static_folder))
        self._packed: dict[str, tuple[str, bytes]] = {}
        self._dates: dict[str, int] = {}
        self._lock = threading.Lock()
        app.view_functions["static"] = self.send
        app.add_url_rule(f"{app.static_url_path}/v-<version>/<path:filename>", "static")
        app.url_defaults(self._name_version)
        app.jinja_env.globals["static_version"] = lambda: self.version  # for icons: hundreds on a page, without url_for

    @cached_property
    def version(self) -> str:
        """A version of the names and contents of all files, as they were when the first page was rendered."""
        digest = hashlib.blake2b(digest_size=6)
        for path in sorted(path for path in self._folder.rglob("*") if path.is_file()):
            name = path.relative_to(self._folder).as_posix()
            self._dates[name] = path.stat().st_mtime_ns
            digest.update(b"%s\0%s\0" % (name.encode(), path.read_bytes()))
        return digest.hexdigest()

    def _name_version(self, endpoint: str, values: dict[str, Any]) -> None:
        if endpoint == "static":
            values.setdefault("version", self.version)

    def send(self, filename: str, version: str = "") -> Response:
        response = self._packed_if_wanted(filename)
        is_current = response.status_code in (200, 304) and version == self.version
        if is_current and (self._folder / filename).stat().st_mtime_ns == self._dates.get(filename):
            response.headers["Cache-Control"] = f"max-age={KEPT_S}, immutable"
        return response

    def _packed_if_wanted(self, filename: str) -> Response:
        response: Response = self._view(filename=filename)
        if not (response.mimetype or "").startswith(PACKED_TYPES):
            return response
        response.vary.add("Accept-Encoding")
        if response.status_code != 200 or "Range" in request.headers:
            return response
        accepts_gzip = request.accept_encodings.quality("gzip") > 0
        return self._pack(filename, response) if accepts_gzip else response

    def _pack(self, filename: str, response: Response) -> Response:
        etag = response.get_etag()[0] or ""
        packed = self._known(filename, etag)
        if packed is None:
            response.direct_passthrough = False
            packed = self._keep(filename, etag, response.get_data())
        if packed:
            response.close()  # closes the file, which is not needed any more
            response.direct_passthrough = False
            response.set_data(packed)
            response.headers["Content-Encoding"] = "gzip"
            response.set_etag(f"{etag}.gz")
        response.make_conditional(request)
        return response

    def _known(self, filename: str, etag: str) -> bytes | None:
        with self._lock:
            known, packed = self._packed.get(filename, ("", None))
        return packed if known == etag else None

    def _keep(self, filename: str, etag: str, data: bytes) -> bytes:
        """b"" if the data is not worth compressing."""
        packed = gzip.compress(data, mtime=0) if len(data) >= SMALLEST_BYTES else b""
        with self._lock:
            if len(self._packed) >= MAX_FILES:
                self._packed.clear()
            self._packed[filename] = (etag, packed)
        return packed
