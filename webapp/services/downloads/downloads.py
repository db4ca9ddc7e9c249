"""The queue of downloads into the library: by catalogue name, from a repository, or by URL."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from webapp.errors import DownloadError, WeightsError
from webapp.i18n import Text
from webapp.manager.library import MODEL_ENDINGS, ModelLibrary
from webapp.services.downloads.catalogue import find, read_catalogue, use_newer
from webapp.services.downloads.hubs import LISTING_BYTES, REPOSITORY, Http, HubFile, Hubs
from webapp.services.downloads.transfer import Part, ShareOfJob, Source, Transfer, unfinished
from webapp.services.jobs import PAUSED, Job, Jobs, Running
from webapp.services.library import placing
from webapp.settings import Settings

KIND = "download"
HF_ADDRESS = re.compile(r"/([^/]+/[^/]+)/(?:resolve|blob)/[^/]+/(.+)")


class Downloads:
    """``app.extensions["downloads"]``. Unfinished downloads of an earlier process are listed as paused. No host is
    contacted before :meth:`start` or before a job resumes."""

    def __init__(self, library: ModelLibrary, jobs: Jobs, settings: Settings) -> None:
        self.jobs = jobs
        self.http = Http()
        self.hubs = Hubs(settings, self.http)
        self._library = library
        self._settings = settings
        self._models_dir = library.folders[0].path
        use_newer(self._newer_list, settings.catalogue_sha256)
        for source in unfinished(self._models_dir):
            self._list(source, PAUSED)

    @property
    def catalogue_host(self) -> str:
        """Host of the newer catalogue; "" if the settings do not name its URL or checksum."""
        found = self._settings
        return urlsplit(found.catalogue_url).netloc if found.catalogue_sha256 else ""

    def refresh_catalogue(self) -> None:
        """Fetches that list now. Raises ``download_wrong_hash``, and stores nothing, unless its checksum equals the one
        in the settings; ``download_not_a_file`` for other content."""
        url, pinned = self._settings.catalogue_url, self._settings.catalogue_sha256.lower()
        name = urlsplit(url).path.rpartition("/")[2] or url
        if not self.catalogue_host:
            raise DownloadError("download_link_invalid", name=name, reason=Text("reason.services.no_list_is_set"))
        self.http.check(url, name)
        content = self.http.get(url, LISTING_BYTES, name)
        found = hashlib.sha256(content).hexdigest()
        if found != pinned:
            raise DownloadError("download_wrong_hash", name=name, found=found[:12], expected=pinned[:12])
        try:
            read_catalogue(content)
        except ValueError as exc:
            raise DownloadError("download_not_a_file", host=self.catalogue_host, name=name) from exc
        placing.replace_file(self._newer_list, content)
        use_newer(self._newer_list, pinned)

    @property
    def _newer_list(self) -> Path:
        return self._settings.data_dir / "catalogue.json"

    def named(self, wanted: str) -> Source:
        """The source for a catalogue name, ``OWNER/REPOSITORY/FILE``, or a URL. ``OWNER/REPOSITORY``, followed by a
        folder if there are several, is a whole model; its files are requested from the hub now. Raises
        ``download_link_invalid`` for anything else."""
        model = find(wanted)
        if model is not None and model.is_folder:
            return self.of_folder(model.repo, model.folder)
        if model is not None:
            size = model.size_bytes if model.size_is_exact else 0
            return self.of_repository(model.repo, HubFile(model.file, size, model.sha256), modelscope=model.modelscope)
        if urlsplit(wanted).scheme in ("http", "https"):
            return self._of_address(wanted)
        owner, _, rest = wanted.partition("/")
        name, _, file = rest.partition("/")
        if REPOSITORY.fullmatch(f"{owner}/{name}"):
            if not file.lower().endswith(MODEL_ENDINGS):
                return self.of_folder(f"{owner}/{name}", file.strip("/"))
            return self.of_repository(f"{owner}/{name}", HubFile(file, 0))
        raise DownloadError(
            "download_link_invalid", name=wanted[:200], reason=Text("reason.services.no_published_model")
        )

    def of_repository(self, repo: str, file: HubFile, hub: str = "", modelscope: str = "") -> Source:
        """``hub`` "" uses the user's preferred order; ``modelscope``: the repository's name there."""
        if not REPOSITORY.fullmatch(repo) or ".." in file.path.split("/"):
            raise DownloadError(
                "download_link_invalid", name=repo[:200], reason=Text("reason.services.repository_form")
            )
        hubs = (self.hubs.hub(hub),) if hub else self.hubs.order()
        names = {"hf": repo, "modelscope": modelscope or repo}
        urls = tuple(one.file_url(names[one.kind], file.path) for one in hubs)
        return Source(placing.safe_name(file.path), f"{repo}/{file.path}", urls, file.size_bytes, file.sha256)

    def of_folder(self, repo: str, path: str, hub: str = "") -> Source:
        """A model with several files, as listed by the first hub that answers. Raises ``download_not_found``."""
        hubs = (self.hubs.hub(hub),) if hub else self.hubs.order()
        for number, one in enumerate(hubs, 1):
            try:
                found = self.hubs.folder(one.name, repo, path)
                break
            except DownloadError as exc:
                if exc.code != "download_unreachable" or number == len(hubs):
                    raise
        name = placing.safe_name((path or repo).rpartition("/")[2], ("",))
        members = []
        for file in found.members:
            member = file.path.rpartition("/")[2]
            if placing.safe_name(member, ("",)) == member:
                urls = tuple(one.file_url(repo, file.path) for one in hubs)
                members.append(Source(member, f"{repo}/{file.path}", urls, file.size_bytes, file.sha256, folder=name))
        key = f"{repo}/{path}".rstrip("/")
        return Source(name, key, members[0].urls, found.size_bytes, members=tuple(members))

    def start(self, source: Source) -> Job:
        """Adds a job to the queue; continues a listed one. Raises ``file_name_taken``, ``disk_full``,
        ``download_link_invalid``."""
        for one in (source, *source.members):
            for url in one.urls:
                self.http.check(url, one.name)
        placing.check_name_free(self._models_dir / source.name)
        for job in self.jobs.jobs(KIND):
            if job.details["key"] == source.key and (not job.is_over or self.jobs.can_resume(job)):
                self.jobs.resume(job.id)
                return self.jobs.job(job.id)
        part = Part(self._models_dir, source)
        placing.check_free(self._models_dir, source.size_bytes - part.size_bytes)
        return self._list(source)

    def close(self) -> None:
        self.http.close()

    def _of_address(self, url: str) -> Source:
        parts = urlsplit(url)
        match = HF_ADDRESS.fullmatch(parts.path)
        if match and any(parts.netloc == hub.host and hub.kind == "hf" for hub in self.hubs.all):
            hub = next(hub for hub in self.hubs.all if hub.host == parts.netloc)
            return self.of_repository(match[1], HubFile(unquote(match[2]), 0), hub.name)
        self.http.check(url, url)
        return Source(placing.safe_name(unquote(parts.path)), url, (url,))

    def _list(self, source: Source, status: str = "waiting") -> Job:
        part = Part(self._models_dir, source)
        details = {"key": source.key, "name": source.name, "host": urlsplit(source.urls[0]).netloc}
        job = self.jobs.start(
            KIND,
            source.name,
            lambda running: self._fetch(source, running),
            details,
            total=source.size_bytes,
            done=part.size_bytes,
            can_pause=True,
            status=status,
            clean=part.discard,
        )
        return job

    def _fetch(self, source: Source, running: Running) -> dict[str, Any]:
        part = Part(self._models_dir, source)
        running.note(f"from {urlsplit(source.urls[0]).netloc}")
        placing.check_name_free(self._models_dir / source.name)
        if source.members:
            return self._fetch_folder(source, part, running)
        transfer = Transfer(source, part, self.http, running)
        transfer.fetch()
        running.report(part.size_bytes, phase="look")
        try:
            path = placing.home_of(
                self._models_dir, source.name, placing.look_into(self._library.reader, part.path, source.name)
            )
        except WeightsError:
            part.discard()
            raise
        with placing.writing(path.parent):
            placing.take_place(part.path, path)
        part.discard()
        self._library.watch.look_again()
        size_bytes = path.stat().st_size
        running.report(size_bytes, total=size_bytes)
        return {"model": self._library.name_of(path), "size_bytes": size_bytes, "sha256": transfer.source.sha256}

    def _fetch_folder(self, source: Source, part: Part, running: Running) -> dict[str, Any]:
        """Downloads each file separately; when all are complete, they get their final name in one rename."""
        part.describe(source)
        before = 0
        for member in source.members:
            if not (part.path / member.name).is_file():
                own = Part(self._models_dir, member)
                running.note(member.name)
                Transfer(member, own, self.http, ShareOfJob(running, before)).fetch()
            before += member.size_bytes
        running.report(before, phase="look")
        with placing.writing(part.folder):
            part.path.mkdir(exist_ok=True)
            for member in source.members:
                own = Part(self._models_dir, member)
                if own.path.is_file():
                    os.replace(own.path, part.path / member.name)
                own.discard()
        try:
            placing.look_into(self._library.reader, part.path, source.name)
        except WeightsError:
            part.discard()
            raise
        path = self._models_dir / source.name
        with placing.writing(path.parent):
            placing.take_place(part.path, path)
        part.discard()
        self._library.watch.look_again()
        running.report(before, total=before)
        return {"model": self._library.name_of(path), "size_bytes": before, "sha256": ""}
