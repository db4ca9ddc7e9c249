"""The hubs where models are published: URLs of files, content of repositories, the user's choice and tokens.

Nothing here contacts a host by itself; :meth:`Hubs.look` does it when a person presses the button.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from webapp.errors import DownloadError, RoostError
from webapp.i18n import Text
from webapp.manager.library import MODEL_ENDINGS
from webapp.services.downloads.http import Http
from webapp.services.library.placing import replace_file
from webapp.settings import Settings
from webapp.weights.model_folder import is_model_folder

AUTOMATIC = "automatic"
CUSTOM = "custom"
REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
TOKEN = re.compile(r"[\x21-\x7e]{1,500}")
SHA256 = re.compile(r"[0-9a-f]{64}")
LISTING_BYTES = 8 << 20
MOST_FILES = 2000


@dataclass(frozen=True)
class Hub:
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


@dataclass(frozen=True)
class HubFile:
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
        return (*folders, *files)[:MOST_FILES]

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
MOST_SIDE_BYTES = 64 << 20
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
            and (file.size_bytes <= MOST_SIDE_BYTES or name.endswith((".safetensors", ".bin")))
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
