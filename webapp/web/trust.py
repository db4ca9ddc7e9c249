"""``/trust``: how to make a device trust the certificate created here, with the authority as a download.

Also served over plain http, because a device that does not trust it yet needs that, and to strangers: nothing on it is
secret. Roost prints its fingerprint at start, for comparison.
"""

from __future__ import annotations

from flask import Blueprint, Response, abort, current_app, make_response, request, url_for
from markupsafe import Markup

from webapp.errors import RoostError
from webapp.i18n import translate
from webapp.services.certificates import Certificates
from webapp.web.error_answers import plain_page
from webapp.web.kit.page import at_base, commands, current_locale

blueprint = Blueprint("trust", __name__, url_prefix="/trust")
SYSTEMS = {"ios": 4, "android": 3, "windows": 2, "macos": 2, "linux": 3, "firefox": 2, "programs": 2}
"""The supported systems, and the number of steps for each (``trust.<system>.<step>`` in the catalogues)."""
FILE_NAMES = {"der": "roost.crt", "pem": "roost.pem"}
"""Phones and Windows open the first; Linux and most programs use the second."""


@blueprint.get("")
def index() -> Response:
    locale, certificates = current_locale(), the_certificates()

    def t(key: str, **params: str) -> str:
        return translate(f"trust.{key}", locale, **params)

    title = t("title")
    body = [Markup("<h1>{}</h1><p>{}</p>").format(title, t("intro"))]
    for form, name in FILE_NAMES.items():
        url = at_base(url_for("trust.authority", form=form))
        body.append(Markup('<a class="button" href="{}" download="{}">{}</a>').format(url, name, t(f"file.{form}")))
    body.append(Markup("<p>{}<br><code>{}</code></p>").format(t("fingerprint"), certificates.fingerprint()))
    for system, count in SYSTEMS.items():
        steps = [Markup("<li>{}</li>").format(commands(t(f"{system}.{step}"))) for step in range(1, count + 1)]
        body.append(Markup("<h2>{}</h2><ol>{}</ol>").format(t(f"{system}.name"), Markup("").join(steps)))
    body.append(
        Markup('<p><a class="button" href="https://{}{}">{}</a></p>').format(request.host, at_base("/"), t("go"))
    )
    return plain_page(title, Markup("").join(body), 200, "wide")


@blueprint.get("/authority.<form>")
def authority(form: str) -> Response:
    certificates = the_certificates()
    if form not in FILE_NAMES:
        abort(404)
    assert certificates.authority_path is not None
    content = certificates.authority_der() if form == "der" else certificates.authority_path.read_bytes()
    kind = "application/x-x509-ca-cert" if form == "der" else "application/x-pem-file"
    named = f'attachment; filename="{FILE_NAMES[form]}"'
    return make_response(content, {"Content-Type": kind, "Content-Disposition": named, "Cache-Control": "no-store"})


def the_certificates() -> Certificates:
    """Raises ``no_own_authority`` if the server does not create certificates itself."""
    found: Certificates | None = current_app.extensions.get("certificates")
    if found is None or found.authority_path is None:
        raise RoostError("no_own_authority")
    return found
