"""Bearer tokens of a login server: one that runs here, with real keys, good and forged."""

import base64
import hashlib
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import jwt
import pytest
import requests
from cmsdials import Dials
from cmsdials.auth.client import AuthClient
from cmsdials.auth.client_credentials import Credentials as ClientCredentials
from cmsdials.auth.device import Credentials as DeviceCredentials
from cmsdials.filters import MEFilters, RunFilters
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pydantic import ValidationError
from scored_samples import DATASET, LINE, MAP, good_runs
from served import Service, logged

from ml4ad import api, settings, workspaces
from ml4ad.api import oidc
from ml4ad.workspaces import Workspace

AUDIENCE = "ml4ad-prod"
GROUPS = {
    "readers": {},
    "shift": {"scope": "write", "workspaces": ["maps"]},
    "experts": {"scope": "admin"},
}


class Login:
    """A login server: its keys, its tokens, and the forms that `cmsdials` sends to it."""

    def __init__(self):
        self.private = {
            "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "ec": ec.generate_private_key(ec.SECP256R1()),
        }
        self.shown = ["rsa", "ec"]
        self.asked = 0
        self.up = True
        self.pending = 1
        login = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                login.asked += 1
                self.answer(200 if login.up else 500, {"keys": [login.jwk(n) for n in login.shown]})

            def do_POST(self):
                length = int(self.headers["Content-Length"])
                form = {k: v[0] for k, v in parse_qs(self.rfile.read(length).decode()).items()}
                self.answer(*login.form(self.path, form))

            def answer(self, status, content):
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/auth/"
        self.issuer = self.url + "realms/cern"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)

    def jwk(self, name):
        algorithm = jwt.get_algorithm_by_name("RS256" if name == "rsa" else "ES256")
        public = algorithm.to_jwk(self.private[name].public_key(), as_dict=True)
        return {**public, "kid": name, "use": "sig"}

    def pem(self, name):
        return (
            self.private[name]
            .public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def claims(self, **changed):
        now = int(time.time())
        whole = {
            "iss": self.issuer,
            "aud": ["account", AUDIENCE],
            "sub": "alice",
            "iat": now,
            "exp": now + 600,
            "cern_roles": ["readers", "others"],
            **changed,
        }
        return {name: value for name, value in whole.items() if value is not None}

    def token(self, name="rsa", *, kid=None, key=None, **changed):
        algorithm = "RS256" if name == "rsa" else "ES256"
        headers = {"kid": kid or name}
        return jwt.encode(
            self.claims(**changed), key or self.private[name], algorithm, headers=headers
        )

    def form(self, path, form):
        granted = {"access_token": self.token(), "expires_in": 600, "token_type": "Bearer"}
        if path.endswith("/api-access/token"):
            good = (form["client_secret"], form["audience"]) == ("right", AUDIENCE)
            return (200, granted) if good else (401, {"error": "invalid_client"})
        if path.endswith("/auth/device"):
            uri = self.url + "device?code=x"
            return 200, {
                "device_code": "x",
                "verification_uri_complete": uri,
                "expires_in": 600,
                "interval": 0,
            }
        if form["grant_type"].endswith("device_code") and self.pending:
            self.pending -= 1
            return 400, {"error": "authorization_pending"}
        # The application's own token, and only after an exchange that of the server.
        if not form["grant_type"].endswith("token-exchange"):
            granted["access_token"] = "public"  # noqa: S105
        return 200, {**granted, "refresh_token": "r", "refresh_expires_in": 3600}


@pytest.fixture(scope="module")
def login():
    with Login() as running:
        yield running


@pytest.fixture(scope="module")
def service(login, shared_archive, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        good_runs(shared_archive, tmp_path_factory.mktemp("files"), (LINE, MAP), (1,), n_ls=3)
        workspaces.put(shared_archive.engine, Workspace("maps", ("*",), ("Ecal/",)))
        for name, value in {
            "ISSUER": login.issuer,
            "AUDIENCE": AUDIENCE,
            "JWKS_URL": login.url + "certs",
            "GROUPS": json.dumps(GROUPS),
        }.items():
            patch.setenv(f"ML4AD_API_OIDC_{name}", value)
        with Service(shared_archive) as running:
            yield running


def status(service, token, path="api/v1/run/", **headers):
    headers = {"Authorization": f"Bearer {token}", **headers}
    return requests.get(service.url + path, headers=headers, timeout=30).status_code


def signed_by_hand(header, claims, sign):
    def text(content):
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

    body = text(header) + b"." + text(claims)
    return (body + b"." + text(sign(body))).decode()


# -- who is let in -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rsa", "ec"])
def test_a_token_of_the_login_server_opens(service, login, name):
    assert status(service, login.token(name)) == 200


def test_cmsdials_logs_in_with_client_credentials_at_the_login_server(service, login):
    at = AuthClient(keycloak_url=login.url, realm="cern", audience=AUDIENCE)
    creds = ClientCredentials(client_id="my-app", client_secret="right", client=at)  # noqa: S106
    (run,) = Dials(creds, base_url=service.url).run.list(RunFilters()).results
    assert run.run_number == 1


def test_cmsdials_logs_in_by_device_and_renews(service, login, monkeypatch, tmp_path):
    monkeypatch.setattr("cmsdials.auth.client.time.sleep", lambda _: None)
    at = AuthClient(keycloak_url=login.url, realm="cern", audience=AUDIENCE)
    token = at.device_auth_flow()
    creds = DeviceCredentials.from_authclient_token(token, client=at, cache_dir=str(tmp_path))
    assert len(Dials(creds, base_url=service.url).run.list(RunFilters()).results) == 1
    creds.refresh()
    assert len(Dials(creds, base_url=service.url).run.list(RunFilters()).results) == 1


def test_groups_give_scopes_and_workspaces(service, login):
    said = {
        "run_number": 1,
        "lumisections": [[1, 1]],
        "verdict": "known",
        "why": "a test",
        "dataset": DATASET,
        "me": MAP,
    }

    def say(groups, workspace):
        headers = {"Authorization": f"Bearer {login.token(cern_roles=groups)}"}
        if workspace:
            headers["Workspace"] = workspace
        url = service.url + "api/v2/verdicts"
        return requests.post(url, json=said, headers=headers, timeout=30).status_code

    # One may read everywhere and write in one workspace: not write everywhere.
    assert say(["readers", "shift"], "maps") == 201
    assert say(["readers", "shift"], None) == 403
    assert say(["readers"], "maps") == 403
    assert say(["shift"], None) == 201
    assert say(["experts"], None) == 201
    audit = api.audit(service.archive.engine)
    assert set(audit.who) == {"alice"}
    assert sorted(audit.status) == [201, 201, 201, 403, 403]


def test_a_group_of_a_workspace_opens_no_other(service, login):
    token = login.token(cern_roles=["shift"])
    workspaces.put(service.archive.engine, Workspace("lines", ("*",), ("Pixel/",)))
    assert status(service, token, Workspace="lines") == 403
    assert status(service, token, Workspace="maps") == 200
    listed = requests.get(
        service.url + "api/v1/mes/", headers={"Authorization": f"bearer {token}"}, timeout=30
    )
    assert [one["me"] for one in listed.json()] == [MAP]
    assert len(service.dials().mes.list(MEFilters())) == 2


# -- who is not ----------------------------------------------------------------------------------


def unsigned(login, name="none"):
    return signed_by_hand({"alg": name, "kid": "rsa"}, login.claims(), lambda _: b"")


def confused(login, name):
    """Signed with the public key, as if that were a shared secret."""
    pem = login.pem(name)
    return signed_by_hand(
        {"alg": "HS256", "typ": "JWT", "kid": name},
        login.claims(),
        lambda body: hmac.new(pem, body, hashlib.sha256).digest(),
    )


def tampered(login):
    head, _, signature = login.token().split(".")
    claims = json.dumps(login.claims(cern_roles=["experts"])).encode()
    return f"{head}.{base64.urlsafe_b64encode(claims).rstrip(b'=').decode()}.{signature}"


def of_own_key(login, **headers):
    """Signed with a key that the token brings, or tells where to find."""
    own = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = jwt.get_algorithm_by_name("RS256").to_jwk(own.public_key(), as_dict=True)
    brought = {"jwk": public, "jku": login.url + "certs", "x5u": login.url, **headers}
    return jwt.encode(login.claims(), own, "RS256", headers=brought)


FORGED = {
    "expired": lambda login: login.token(exp=int(time.time()) - 120),
    "not yet": lambda login: login.token(nbf=int(time.time()) + 120),
    "without an end": lambda login: login.token(exp=None),
    "end that is no number": lambda login: login.token(exp="never"),
    "other audience": lambda login: login.token(aud="another-app"),
    "part of the audience": lambda login: login.token(aud="ml4ad"),
    "no audience": lambda login: login.token(aud=None),
    "other issuer": lambda login: login.token(iss="https://evil.example/realms/cern"),
    "issuer that only begins so": lambda login: login.token(iss=login.issuer + ".evil.example"),
    "no issuer": lambda login: login.token(iss=None),
    "nobody": lambda login: login.token(sub=None),
    "an unprintable name": lambda login: login.token(sub="a\nb"),
    "a name that is too long": lambda login: login.token(sub="a" * 300),
    "no groups": lambda login: login.token(cern_roles=None),
    "other groups": lambda login: login.token(cern_roles=["others"]),
    "groups that are a text": lambda login: login.token(cern_roles="readers"),
    "groups that are not texts": lambda login: login.token(cern_roles=[["readers"], {}, 1]),
    "alg none": unsigned,
    "alg None": lambda login: unsigned(login, "None"),
    "alg empty": lambda login: unsigned(login, ""),
    "HS256 with the public RSA key": lambda login: confused(login, "rsa"),
    "HS256 with the public EC key": lambda login: confused(login, "ec"),
    "tampered": tampered,
    "no signature": lambda login: login.token().rpartition(".")[0] + ".",
    "another key of that name": lambda login: login.token(
        key=rsa.generate_private_key(public_exponent=65537, key_size=2048)
    ),
    "RSA under the name of EC": lambda login: login.token(kid="ec"),
    "EC under the name of RSA": lambda login: login.token("ec", kid="rsa"),
    "unknown key": lambda login: login.token(kid="nobody"),
    "unknown key as a path": lambda login: login.token(kid="../../dev/null"),
    "key in the token": lambda login: of_own_key(login),
    "key in the token, known name": lambda login: of_own_key(login, kid="rsa"),
    "too long": lambda login: login.token(more="x" * 20_000),
    "three empty parts": lambda _: "..",
    "no JSON": lambda _: "YQ.YQ.YQ",
    "JSON that is no object": lambda _: signed_by_hand([], [], lambda _: b"x"),
    "JSON too deep": lambda _: signed_by_hand(b"[" * 5000, {}, lambda _: b"x"),
    "key name that is no text": lambda _: signed_by_hand(
        {"alg": "RS256", "kid": {"a": 1}}, {}, lambda _: b"x"
    ),
    "critical extension": lambda login: signed_by_hand(
        {"alg": "RS256", "kid": "rsa", "crit": ["new"], "new": 1}, login.claims(), lambda _: b"x"
    ),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_forged_token_is_refused_in_the_same_words(service, login, forge):
    headers = {"Authorization": f"Bearer {forge(login)}"}
    answer = requests.get(service.url + "api/v1/run/", headers=headers, timeout=30)
    assert answer.status_code == 403
    assert answer.json() == {"detail": "Not allowed", "code": "not_allowed"}


def test_a_token_is_no_client_secret(service, login):
    headers = {"X-CLIENT-SECRET": login.token()}
    assert requests.get(service.url + "api/v1/run/", headers=headers, timeout=30).status_code == 403
    assert status(service, login.token(), **{"X-CLIENT-SECRET": "wrong"}) == 403


def test_tokens_are_not_logged(service, login, caplog):
    with caplog.at_level("INFO"):
        tokens = login.token(), login.token(aud="x"), login.token(kid="nobody")
        for token in tokens:
            status(service, token)
        assert any('"who":"alice"' in line for line in logged(caplog, 3))
        for token in tokens:
            assert not any(part in caplog.text for part in token.split("."))


# -- the keys ------------------------------------------------------------------------------------


@pytest.fixture
def own_login():
    with Login() as running:
        yield running


def test_keys_are_asked_for_once_however_many_tokens_name_others(own_login):
    keys = oidc.Keys(own_login.url + "certs")
    assert keys.get("rsa").algorithm_name == "RS256"
    for n in range(50):
        assert keys.get(f"unknown {n}") is None
        assert keys.get("ec") is not None
    assert own_login.asked == 1


def test_a_new_key_is_found_and_one_that_is_gone_is_not(own_login, monkeypatch):
    monkeypatch.setattr(oidc, "_PAUSE_S", 0)
    keys = oidc.Keys(own_login.url + "certs")
    own_login.shown = ["rsa"]
    assert keys.get("rsa") is not None
    own_login.shown = ["ec"]
    assert keys.get("ec") is not None
    assert keys.get("rsa") is None


def test_old_keys_are_read_again(own_login, monkeypatch):
    keys = oidc.Keys(own_login.url + "certs")
    assert keys.get("rsa") is not None
    monkeypatch.setattr(oidc, "_PAUSE_S", 0)
    monkeypatch.setattr(oidc, "_FRESH_S", 0)
    own_login.shown = ["ec"]
    assert keys.get("rsa") is None


def test_while_the_login_server_is_silent_known_keys_serve_and_then_no_longer(
    own_login, monkeypatch
):
    keys = oidc.Keys(own_login.url + "certs")
    assert keys.get("rsa") is not None
    own_login.up = False
    monkeypatch.setattr(oidc, "_PAUSE_S", 0)
    monkeypatch.setattr(oidc, "_FRESH_S", 0)
    assert keys.get("rsa") is not None
    assert keys.get("unknown") is None
    monkeypatch.setattr(oidc, "_KEPT_S", 0)
    with pytest.raises(OSError, match="no keys from"):
        keys.get("rsa")


def test_keys_for_shared_secrets_are_not_used(own_login, monkeypatch):
    secret = {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"}
    own = own_login.jwk
    monkeypatch.setattr(own_login, "jwk", lambda n: secret if n == "shared" else own(n))
    own_login.shown = ["rsa", "shared"]
    keys = oidc.Keys(own_login.url + "certs")
    assert keys.get("rsa") is not None
    assert keys.get("shared") is None


def test_without_any_key_the_server_says_that_it_cannot_tell(
    service, login, monkeypatch, free_of_keys
):
    token = login.token()
    with Service(service.archive, name="test2") as running:
        free_of_keys.up = False
        assert status(running, token) == 503
        assert running.get("api/v1/run/").status_code == 200
        assert status(running, "nonsense") == 403
        free_of_keys.up = True
        monkeypatch.setattr(oidc, "_PAUSE_S", 0)
        assert status(running, free_of_keys.token()) == 200


@pytest.fixture
def free_of_keys(own_login, monkeypatch):
    monkeypatch.setenv("ML4AD_API_OIDC_ISSUER", own_login.issuer)
    monkeypatch.setenv("ML4AD_API_OIDC_JWKS_URL", own_login.url + "certs")
    return own_login


# -- settings ------------------------------------------------------------------------------------

WHOLE = {
    "issuer": "https://login.example",
    "audience": "x",
    "jwks_url": "https://login.example/certs",
}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"audience": None}, "api_oidc_audience not given"),
        ({"jwks_url": None}, "api_oidc_jwks_url not given"),
        ({"issuer": None}, "api_oidc_issuer not given"),
        ({"jwks_url": "http://login.example/certs"}, "want https://"),
        ({"groups": {"shift": {"scope": "root"}}}, "read.*write.*admin"),
        ({"groups": {"shift": {"scopes": "read"}}}, "scopes"),
    ],
)
def test_half_a_setting_is_refused(changed, words, monkeypatch):
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(f"ML4AD_{name.upper()}", raising=False)
    given = {f"api_oidc_{name}": value for name, value in {**WHOLE, **changed}.items()}
    assert settings.Settings(**{f"api_oidc_{name}": value for name, value in WHOLE.items()})
    with pytest.raises(ValidationError, match=words):
        settings.Settings(**given)


def test_without_settings_no_token_opens(login, monkeypatch):
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(f"ML4AD_{name.upper()}", raising=False)
    before = login.asked
    assert oidc.Tokens(settings.Settings()).caller(login.token()) is None
    assert login.asked == before
