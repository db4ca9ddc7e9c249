"""The hubs where models are published: URLs of files, content of repositories, the user's choice and tokens; and one
HTTP request to a hub: redirects, refusals, and connection failures as errors with a code.

Nothing here contacts a host by itself; :meth:`Hubs.look` does it when a person presses the button. httpx implements the
protocol: certificates are always checked, the environment's proxies are used. It is imported at the first request.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

from msgspec import Struct

from webapp import __version__
from webapp.errors import DownloadError, RoostError
from webapp.i18n import Text, size_text
from webapp.manager.library import MODEL_ENDINGS
from webapp.services.library.placing import replace_file
from webapp.settings import Settings
from webapp.weights.file_format import is_model_folder

if TYPE_CHECKING:
    import httpx

CONNECT_S = 15.0
STALL_S = 30.0
"""Without any byte; the transfer also detects very slow connections."""
MAX_REDIRECTS = 8
LONGEST_WAIT_S = 3600
SHA256 = re.compile(r"[0-9a-f]{64}")
REFUSALS = {
    401: "download_needs_token",
    403: "download_forbidden",
    404: "download_not_found",
    410: "download_not_found",
    416: "download_range_refused",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Answer(Struct, frozen=True):
    """The headers of a response, including those of its redirects. ``start``: offset of its first byte. ``total``: size
    of the whole file, 0 if unknown. ``etag`` identifies the file. ``sha256``: its checksum if the hub sends it."""

    host: str
    start: int
    total: int
    etag: str
    sha256: str
    response: httpx.Response


class Http:
    """Thread-safe. ``plain_hosts`` may be requested over http, like this machine itself."""

    def __init__(self) -> None:
        self.token_for: Callable[[str], str] = lambda url: ""
        self.plain_hosts: frozenset[str] = frozenset()
        self._client: httpx.Client | None = None
        self._lock = threading.Lock()

    def get(self, url: str, limit_bytes: int, name: str) -> bytes:
        """The whole body of a small response."""
        with self.open(url, 0, name, is_page_fine=True) as answer, self.failures(answer.host, name):
            content = b""
            for piece in answer.response.iter_bytes():
                content += piece
                if len(content) > limit_bytes:
                    raise DownloadError(
                        "download_too_long", host=answer.host, name=name, expected=size_text(limit_bytes)
                    )
            return content

    @contextlib.contextmanager
    def open(self, url: str, start: int, name: str, is_page_fine: bool = False) -> Iterator[Answer]:
        """The response for the file from byte ``start`` on, with unread body; refusals are errors about ``name``."""
        self.check(url, name)
        origin = url
        seen: dict[str, str] = {}
        for _ in range(MAX_REDIRECTS):
            host = urlsplit(url).netloc
            with self.failures(host, name):
                headers = {"Accept-Encoding": "identity", "User-Agent": f"roost/{__version__}"}
                headers |= {"Range": f"bytes={start}-"} if start else {}
                token = self.token_for(url)
                headers |= {"Authorization": f"Bearer {token}"} if token else {}
                client = self._made_client()
                response = client.send(client.build_request("GET", url, headers=headers), stream=True)
            lowered = {key.lower(): value for key, value in response.headers.items()}
            seen |= {key: value for key, value in lowered.items() if key.startswith("x-linked-")}
            if not response.has_redirect_location:
                break
            response.close()
            url = urljoin(url, response.headers["Location"])
            self._check_redirect(origin, url)
        else:
            raise DownloadError(
                "download_bad_redirect",
                host=urlsplit(origin).netloc,
                reason=Text("reason.services.link_loop"),
            )
        try:
            _check_status(response, host, name, start)
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if kind in ("text/html", "application/xhtml+xml") and not is_page_fine:
                raise DownloadError("download_not_a_file", host=host, name=name)
            yield _answer(response, host, start, seen)
        finally:
            response.close()

    @contextlib.contextmanager
    def failures(self, host: str, name: str) -> Iterator[None]:
        """Converts exceptions of httpx to errors of Roost."""
        import httpx

        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.PoolTimeout) as exc:
            untrusted = _in_chain(exc, ssl.SSLCertVerificationError)
            if untrusted is not None:
                raise DownloadError("download_untrusted", host=host, reason=untrusted.verify_message) from exc
            raise DownloadError("download_unreachable", host=host, reason=str(exc) or type(exc).__name__) from exc
        except httpx.TimeoutException as exc:
            raise DownloadError("download_stalled", host=host, seconds=int(STALL_S)) from exc
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as exc:
            raise DownloadError("download_link_invalid", name=name, reason=str(exc)) from exc
        except (httpx.HTTPError, httpx.StreamError, OSError) as exc:
            if isinstance(exc, OSError) and not isinstance(exc, (ConnectionError, ssl.SSLError)):
                raise  # a disk error
            raise DownloadError("download_interrupted", host=host, name=name, done="?") from exc

    def check(self, url: str, name: str) -> None:
        """Raises ``download_link_invalid`` for an unencrypted URL, unless its host is this machine or configured."""
        parts = urlsplit(url)
        is_plain_fine = parts.hostname in LOOPBACK or parts.netloc in self.plain_hosts
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DownloadError("download_link_invalid", name=name, reason=Text("reason.services.no_web_address"))
        if parts.scheme == "http" and not is_plain_fine:
            raise DownloadError("download_link_invalid", name=name, reason=Text("reason.services.is_not_encrypted"))

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _check_redirect(self, origin: str, url: str) -> None:
        host = urlsplit(origin).netloc
        try:
            self.check(url, url)
        except DownloadError as exc:
            raise DownloadError("download_bad_redirect", host=host, reason=exc.params["reason"]) from exc
        if urlsplit(url).hostname in LOOPBACK and urlsplit(origin).hostname not in LOOPBACK:
            raise DownloadError(
                "download_bad_redirect", host=host, reason=Text("reason.services.leads_to_this_machine")
            )

    def _made_client(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._client is None:
                timeout = httpx.Timeout(STALL_S, connect=CONNECT_S)
                self._client = httpx.Client(timeout=timeout, follow_redirects=False)
            return self._client


def interrupt(response: httpx.Response) -> None:
    """From another thread: a read that waits for bytes ends at once."""
    stream = response.extensions.get("network_stream")
    found = stream.get_extra_info("socket") if stream is not None else None
    if found is not None:
        with contextlib.suppress(OSError):
            found.shutdown(socket.SHUT_RDWR)


def _check_status(response: httpx.Response, host: str, name: str, start: int) -> None:
    status = response.status_code
    if status == 429:
        raise DownloadError("download_rate_limited", host=host, seconds=_retry_after(response.headers))
    if status in REFUSALS:
        raise DownloadError(REFUSALS[status], host=host, name=name)
    if status not in (200, 206) or response.headers.get("Content-Encoding", "identity") != "identity":
        raise DownloadError("download_refused", host=host, found=status)
    if status == 206 and start == 0:
        raise DownloadError("download_refused", host=host, found=status)


def _answer(response: httpx.Response, host: str, start: int, seen: Mapping[str, str]) -> Answer:
    headers = response.headers
    total, first = _number(headers.get("Content-Length")), 0
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", headers.get("Content-Range", ""))
        if match is None or int(match[1]) != start:
            raise DownloadError("download_range_refused", host=host, name="")
        first, total = int(match[1]), int(match[2])
    raw_etags = [seen.get("x-linked-etag", ""), headers.get("ETag", "")]
    etags = [text.removeprefix("W/").strip('"') for text in raw_etags]
    sha256 = next((etag for etag in etags if SHA256.fullmatch(etag)), "")
    linked = _number(seen.get("x-linked-size"))
    return Answer(host, first, linked or total, next(filter(None, etags), ""), sha256, response)


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else 0


def _retry_after(headers: Any) -> int:
    """Seconds; a date counts as one minute, because clocks may differ."""
    text = headers.get("Retry-After", "")
    return min(_number(text), LONGEST_WAIT_S) if text.isdigit() else 60


def _in_chain(exc: BaseException | None, kind: type[ssl.SSLCertVerificationError]) -> Any:
    while exc is not None and not isinstance(exc, kind):
        exc = exc.__cause__ or exc.__context__
    return exc


AUTOMATIC = "automatic"
CUSTOM = "custom"
REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
TOKEN = re.compile(r"[\x21-\x7e]{1,500}")
LISTING_BYTES = 8 << 20
MAX_FILES = 2000


class Hub(Struct, frozen=True):
    """``kind``: the URL scheme of the hub, "hf" or "modelscope"."""

    name: str
    url: str
    kind: str = "hf"

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def file_url(self, repo: str, file: str) -> str:
        path = f"{quote(repo)}/resolve"
        if self.kind == "modelscope":
            return f"{self.url}/models/{path}/master/{quote(file)}"
        return f"{self.url}/{path}/main/{quote(file)}"

    def listing_url(self, repo: str) -> str:
        if self.kind == "modelscope":
            return f"{self.url}/api/v1/models/{quote(repo)}/repo/files?Revision=master&Recursive=true"
        return f"{self.url}/api/models/{quote(repo)}/tree/main?recursive=true"


HUGGING_FACE = Hub("huggingface", "https://huggingface.co")
HF_MIRROR = Hub("hf-mirror", "https://hf-mirror.com")
MODELSCOPE = Hub("modelscope", "https://modelscope.cn", "modelscope")


class HubFile(Struct, frozen=True):
    """A file in a repository that may be a model. ``sha256`` is "" if the hub does not send it. ``members``: for a
    folder that is a model, the files to fetch; ``path`` is "" if that folder is the repository itself."""

    path: str
    size_bytes: int
    sha256: str = ""
    members: tuple[HubFile, ...] = ()


class Hubs:
    """The choice and the tokens are in ``hub.json`` in the data folder, readable only by its owner. A token is sent
    only to its own hub and is never shown again or logged. ``ROOST_HUB_URL`` replaces the hubs for published models."""

    def __init__(self, settings: Settings, http: Http) -> None:
        self._path = settings.data_dir / "hub.json"
        self._http = http
        self._changing = threading.Lock()  # two simultaneous changes must not overwrite each other
        custom = [Hub(CUSTOM, settings.hub_url.rstrip("/"))] if settings.hub_url else []
        self.all: tuple[Hub, ...] = (*custom, HUGGING_FACE, HF_MIRROR, MODELSCOPE)
        http.token_for = self.token_for
        http.plain_hosts = frozenset(hub.host for hub in custom)

    def hub(self, name: str) -> Hub:
        for hub in self.all:
            if hub.name == name:
                return hub
        raise RoostError("settings_invalid", name="hub", value=name, reason=Text("reason.services.no_such_hub"))

    @property
    def choice(self) -> str:
        """A hub's name, or AUTOMATIC."""
        found = str(self._kept().get("choice", AUTOMATIC))
        return found if any(hub.name == found for hub in self.all) else AUTOMATIC

    def order(self) -> tuple[Hub, ...]:
        """The hubs for published models, in the order in which to try them."""
        if self.choice != AUTOMATIC:
            return (self.hub(self.choice),)
        return self.all[:1] if self.all[0].name == CUSTOM else (HUGGING_FACE, HF_MIRROR)

    def choose(self, name: str) -> None:
        if name != AUTOMATIC:
            self.hub(name)
        with self._changing:
            self._keep({**self._kept(), "choice": name})

    def has_token(self, name: str) -> bool:
        return name in self._kept().get("tokens", {})

    def set_token(self, name: str, token: str) -> None:
        """ "" removes it. Raises ``settings_invalid`` for an impossible token."""
        self.hub(name)
        if token and not TOKEN.fullmatch(token):
            raise RoostError("settings_invalid", name="token", value="…", reason=Text("reason.services.not_one_word"))
        with self._changing:
            tokens = {key: value for key, value in self._kept().get("tokens", {}).items() if key != name}
            self._keep({**self._kept(), "tokens": {**tokens, name: token} if token else tokens})

    def token_for(self, url: str) -> str:
        """ "" for a URL that is unencrypted or does not belong to a hub with a token."""
        parts = urlsplit(url)
        for hub in self.all:
            own = urlsplit(hub.url)
            if (parts.scheme, parts.netloc) == (own.scheme, own.netloc) and (
                own.scheme == "https" or hub.name == CUSTOM
            ):
                return str(self._kept().get("tokens", {}).get(hub.name, ""))
        return ""

    def look(self, name: str, repo: str) -> tuple[HubFile, ...]:
        """Files in a repository that may be models, requested from the hub now; at most 2,000 files. A folder in
        Hugging Face's format comes first, instead of its parts."""
        if not REPOSITORY.fullmatch(repo):
            raise DownloadError(
                "download_link_invalid", name=repo[:200], reason=Text("reason.services.repository_form")
            )
        hub = self.hub(name)
        content = self._http.get(hub.listing_url(repo), LISTING_BYTES, repo)
        try:
            found = _modelscope_files(content) if hub.kind == "modelscope" else _hf_files(content)
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise DownloadError("download_not_a_file", host=hub.host, name=repo) from exc
        folders = _model_folders(found)
        parts = {member.path for folder in folders for member in folder.members}
        files = [file for file in found if file.path.lower().endswith(MODEL_ENDINGS) and file.path not in parts]
        return (*folders, *files)[:MAX_FILES]

    def folder(self, name: str, repo: str, path: str) -> HubFile:
        """The folder ``path`` in a repository, requested from the hub now; ``download_not_found`` if it is no model."""
        found = next((file for file in self.look(name, repo) if file.members and file.path == path), None)
        if found is None:
            where = f"{repo}/{path}".rstrip("/")
            raise DownloadError("download_not_found", host=self.hub(name).host, name=where)
        return found

    def _kept(self) -> Mapping[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else {}
        return {}

    def _keep(self, values: Mapping[str, Any]) -> None:
        replace_file(self._path, json.dumps(values).encode())


MEMBER_ENDINGS = (".safetensors", ".json", ".jinja", ".txt", ".model")
MAX_SIDE_BYTES = 64 << 20
"""Limit for a tokenizer or a template."""


def _model_folders(files: list[HubFile]) -> list[HubFile]:
    folders: dict[str, list[HubFile]] = {}
    for file in files:
        folders.setdefault(file.path.rpartition("/")[0], []).append(file)
    found = []
    for path, inside in folders.items():
        names = [file.path.rpartition("/")[2] for file in inside]
        if not is_model_folder(names):
            continue
        is_pickled = not any(name.endswith(".safetensors") for name in names)
        members = [
            file
            for name, file in sorted(zip(names, inside, strict=True), key=lambda pair: pair[0])
            if (name.endswith(MEMBER_ENDINGS) or (is_pickled and name.startswith("pytorch_model")))
            and not name.startswith((".", "adapter_"))
            and (file.size_bytes <= MAX_SIDE_BYTES or name.endswith((".safetensors", ".bin")))
        ]
        found.append(HubFile(path, sum(file.size_bytes for file in members), members=tuple(members)))
    return sorted(found, key=lambda folder: folder.path)


def _hf_files(content: bytes) -> list[HubFile]:
    rows = [row for row in json.loads(content) if row.get("type") == "file"]
    return [HubFile(str(row["path"]), int(row["size"]), _sha256((row.get("lfs") or {}).get("oid"))) for row in rows]


def _modelscope_files(content: bytes) -> list[HubFile]:
    rows = [row for row in json.loads(content)["Data"]["Files"] if row.get("Type") != "tree"]
    return [HubFile(str(row["Path"]), int(row["Size"]), _sha256(row.get("Sha256"))) for row in rows]


def _sha256(value: object) -> str:
    text = str(value or "").lower().removeprefix("sha256:")
    return text if SHA256.fullmatch(text) else ""
