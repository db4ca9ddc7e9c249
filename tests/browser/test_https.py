"""https with the certificate created by Roost: from the browser's warning to a chat over wss."""

import base64
import hashlib
import shutil
import ssl
import subprocess

import pytest

from tests.browser.acting import ask, expect, until, wait_ready
from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.web.chat.running_roost import RunningRoost, fake_strategy

pytest.importorskip("cryptography")


def trusting_chromium(browser, home, made):
    """A separate Chromium. With NSS' certutil it trusts the authority, as a user's would; otherwise it accepts the key
    of the server's certificate, and the chain is not checked."""
    arguments = [*ARGUMENTS, "--host-resolver-rules=MAP roost.local 127.0.0.1"]
    if shutil.which("certutil"):
        store = home / ".pki" / "nssdb"
        store.mkdir(parents=True)
        for given in (["-N", "--empty-password"], ["-A", "-t", "C,,", "-n", "Roost", "-i", str(made.authority_path)]):
            subprocess.run(["certutil", "-d", f"sql:{store}", *given], check=True)
    else:
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        leaf = x509.load_pem_x509_certificate((made.authority_path.parent / "server.pem").read_bytes())
        key = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        pin = base64.b64encode(hashlib.sha256(key).digest()).decode()
        arguments.append(f"--ignore-certificate-errors-spki-list={pin}")
    return browser.browser_type.launch(executable_path=CHROMIUM, args=arguments, env={"HOME": str(home)})


def test_a_person_chats_over_https(browser, tmp_path):
    roost = RunningRoost(tmp_path / "data", fake_strategy(), tls=True, lan=True, token="a-token-for-tests")
    made = roost.app.extensions["certificates"]
    own = trusting_chromium(browser, tmp_path, made)
    page = own.new_context().new_page()
    page.goto(f"http://roost.local:{roost.port}/trust")
    expect(page, "h1 ~ p code >> nth=0").to_have_text(made.fingerprint())
    with page.expect_download() as download:
        page.click("a[href$='authority.pem']")
    assert ssl.PEM_cert_to_DER_cert(download.value.path().read_text()) == made.authority_der()
    page.click("a[href^='https:']")
    page.fill("#token", "a-token-for-tests")
    page.click("button")
    wait_ready(page)
    page.wait_for_url(f"https://roost.local:{roost.port}/**")
    until(page, "isSecureContext")
    ask(page, "Why do birds sit on wires?")
    assert {cookie["secure"] for cookie in page.context.cookies() if cookie["httpOnly"]} == {True}
    assert page.goto(f"http://roost.local:{roost.port}/presets").status == 200
    page.wait_for_url(f"https://roost.local:{roost.port}/presets")
    own.close()
    roost.stop()
