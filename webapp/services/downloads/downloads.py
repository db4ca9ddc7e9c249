"""The queue of downloads into the library: by name from the list of published models, from a repository, by address."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote, urlsplit

from webapp.errors import DownloadError, WeightsError
from webapp.i18n import Text
from webapp.manager.library import ModelLibrary
from webapp.services.downloads.catalogue import find
from webapp.services.downloads.http import Http
from webapp.services.downloads.hubs import REPOSITORY, HubFile, Hubs
from webapp.services.downloads.transfer import Part, Source, Transfer, unfinished
from webapp.services.jobs import PAUSED, Job, Jobs, Running
from webapp.services.library.placing import (
    check_free,
    check_name_free,
    home_of,
    look_into,
    safe_name,
    take_place,
    writing,
)
from webapp.settings import Settings

KIND = "download"
HF_ADDRESS = re.compile(r"/([^/]+/[^/]+)/(?:resolve|blob)/[^/]+/(.+)")


class Downloads:
    """``app.extensions["downloads"]``. What an earlier process left unfinished is listed as paused; no host is asked
    for anything before :meth:`start` or a job's going on."""

    def __init__(self, library: ModelLibrary, jobs: Jobs, settings: Settings) -> None:
        self.jobs = jobs
        self.http = Http()
        self.hubs = Hubs(settings, self.http)
        self._library = library
        self._models_dir = library.folders[0].path
        for source in unfinished(self._models_dir):
            self._list(source, PAUSED)

    def named(self, wanted: str) -> Source:
        """Of a published model's name, ``OWNER/REPOSITORY/FILE``, or an address. ``download_link_invalid`` for anything
        else."""
        model = find(wanted)
        if model is not None:
            size = model.size_bytes if model.size_is_exact else 0
            return self.of_repository(model.repo, HubFile(model.file, size, model.sha256), modelscope=model.modelscope)
        if urlsplit(wanted).scheme in ("http", "https"):
            return self._of_address(wanted)
        owner, _, rest = wanted.partition("/")
        name, _, file = rest.partition("/")
        if file and REPOSITORY.fullmatch(f"{owner}/{name}"):
            return self.of_repository(f"{owner}/{name}", HubFile(file, 0))
        raise DownloadError(
            "download_link_invalid", name=wanted[:200], reason=Text("reason.services.no_published_model_of_that_name")
        )

    def of_repository(self, repo: str, file: HubFile, hub: str = "", modelscope: str = "") -> Source:
        """``hub`` "" is the order of the person's choice; ``modelscope``: what the repository is called there."""
        if not REPOSITORY.fullmatch(repo) or ".." in file.path.split("/"):
            raise DownloadError(
                "download_link_invalid", name=repo[:200], reason=Text("reason.services.repository_is_called_owner_name")
            )
        hubs = (self.hubs.hub(hub),) if hub else self.hubs.order()
        names = {"hf": repo, "modelscope": modelscope or repo}
        urls = tuple(one.file_url(names[one.kind], file.path) for one in hubs)
        return Source(safe_name(file.path), f"{repo}/{file.path}", urls, file.size_bytes, file.sha256)

    def start(self, source: Source) -> Job:
        """At the end of the queue; one that is listed already goes on. ``file_name_taken``, ``disk_full``,
        ``download_link_invalid``."""
        for url in source.urls:
            self.http.check(url, source.name)
        check_name_free(self._models_dir / source.name)
        for job in self.jobs.jobs(KIND):
            if job.details["key"] == source.key and (not job.is_over or self.jobs.can_resume(job)):
                self.jobs.resume(job.id)
                return self.jobs.job(job.id)
        part = Part(self._models_dir, source)
        check_free(self._models_dir, source.size_bytes - part.size_bytes)
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
        return Source(safe_name(unquote(parts.path)), url, (url,))

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
        check_name_free(self._models_dir / source.name)
        transfer = Transfer(source, part, self.http, running)
        transfer.fetch()
        running.report(part.size_bytes, phase="look")
        try:
            path = home_of(self._models_dir, source.name, look_into(self._library.reader, part.path, source.name))
        except WeightsError:
            part.discard()
            raise
        with writing(path.parent):
            take_place(part.path, path)
        part.discard()
        self._library.watch.look_again()
        size_bytes = path.stat().st_size
        running.report(size_bytes, total=size_bytes)
        return {"model": self._library.name_of(path), "size_bytes": size_bytes, "sha256": transfer.source.sha256}
