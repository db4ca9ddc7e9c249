"""`roost download`: downloads a model to the models folder, as the Models page does; a second run resumes it."""

from __future__ import annotations

import argparse
import json
import sys

from msgspec.structs import asdict, replace

from webapp.cli.options import add_settings, settings_from
from webapp.errors import RequestError, RoostError
from webapp.i18n import Text, size_text
from webapp.i18n.terminal import t
from webapp.manager.library import ModelLibrary
from webapp.services.downloads.catalogue import known_models
from webapp.services.downloads.downloads import Downloads
from webapp.services.downloads.hubs import SHA256
from webapp.services.jobs import DONE, RUNNING, Job, Jobs

REPORT_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="", help=t("cli.download.name"))
    parser.add_argument("--sha256", default="", help=t("cli.download.sha256"))
    parser.add_argument("--refresh", action="store_true", help=t("cli.download.refresh"))
    add_settings(parser, ("models_dir", "data_dir", "hub_url", "catalogue_url", "catalogue_sha256"))
    parser.add_argument("--json", action="store_true", help=t("cli.option.json"))


def run(args: argparse.Namespace) -> int:
    """Ctrl-C pauses the download; the same command resumes it."""
    settings, sha256 = settings_from(args), args.sha256.lower()
    if sha256 and not SHA256.fullmatch(sha256):  # before the download
        raise RequestError(reason=Text("reason.cli.not_a_sha256", text=repr(args.sha256)))
    jobs = Jobs()
    downloads = Downloads(ModelLibrary(settings.models_dir), jobs, settings)
    try:
        if args.refresh:
            downloads.refresh_catalogue()
        if not args.name and args.json:
            print(json.dumps([asdict(model) for model in known_models()], ensure_ascii=False))
            return 0
        if not args.name:
            for model in known_models():
                print(f"{model.file:<50} {size_text(model.size_bytes):>8}  {model.published}")
            return 0
        source = downloads.named(args.name)
        job = downloads.start(replace(source, sha256=sha256 or source.sha256))
        while not job.is_over:
            _show(job)
            job = jobs.wait(job.id, REPORT_S)
    except KeyboardInterrupt:
        jobs.close()
        print(f"\n{t('cli.download.kept')}", file=sys.stderr)
        return 130
    finally:
        jobs.close()
        downloads.close()
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if job.error is not None or job.status != DONE:
        raise job.error or RoostError(reason=job.status)
    found = {"name": job.details["model"], "size_bytes": job.details["size_bytes"], "sha256": job.details["sha256"]}
    print(json.dumps(found) if args.json else t("cli.download.done", name=found["name"]))
    return 0


def _show(job: Job) -> None:
    if not sys.stderr.isatty():
        return
    share = f"{100 * job.done // job.total} %" if job.total else ""
    parts = [share, size_text(job.done), f"{size_text(job.speed)}/s" if job.status == RUNNING and job.speed else ""]
    if job.seconds_left is not None:
        parts.append(t("cli.download.left", seconds=round(job.seconds_left)))
    print(f"\r{'  '.join(filter(None, parts)):<70}", end="", file=sys.stderr)
