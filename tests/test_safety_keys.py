"""Who may ask, and how often."""

import hashlib
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dermo_ray.config.safety import SafetySettings, is_loopback, require_keys
from dermo_ray.errors import UserError
from serve.safety import keys
from serve.safety.errors import Refused
from serve.safety.keys import ANONYMOUS, Caller, Keys
from serve.safety.rate import RateLimit


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def bearer(key: str) -> str:
    return f"Bearer {key}"


def test_a_key_that_was_made_lets_its_owner_in(file: Path):
    lab, boss = keys.add(file, "lab", "client"), keys.add(file, "boss", "admin")
    known = Keys.load(file)
    assert known.caller(bearer(lab)) == Caller("lab", admin=False)
    assert known.caller(bearer(boss)) == known.admin(bearer(boss)) == Caller("boss", admin=True)
    assert lab != boss


def test_the_file_holds_hashes_alone_and_is_for_its_owner(file: Path):
    key = keys.add(file, "lab", "client")
    assert key not in file.read_text()
    assert yaml.safe_load(file.read_text())[0]["sha256"] == hashlib.sha256(key.encode()).hexdigest()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "no_api_key"),
        ("", "no_api_key"),
        ("Bearer", "no_api_key"),
        ("Bearer  ", "no_api_key"),
        ("Basic {key}", "no_api_key"),
        ("{key}", "no_api_key"),
        ("Bearer {key}x", "invalid_api_key"),
        ("Bearer {hash}", "invalid_api_key"),
        ("Bearer none", "invalid_api_key"),
        ("Bearer \udcff\u00e9", "invalid_api_key"),
    ],
)
def test_anything_but_a_key_is_refused_with_what_to_send(file: Path, authorization: str | None, code: str):
    key = keys.add(file, "lab", "client")
    sent = authorization and authorization.format(key=key, hash=hashlib.sha256(key.encode()).hexdigest())
    with pytest.raises(Refused) as caught:
        Keys.load(file).caller(sent)
    assert (caught.value.status, caught.value.code) == (401, code)
    assert caught.value.headers == {"WWW-Authenticate": "Bearer"}
    assert key not in caught.value.message


def test_every_key_is_compared_whichever_is_sent(file: Path, monkeypatch: pytest.MonkeyPatch):
    made = [keys.add(file, name, "client") for name in ("a", "b", "c")]
    known = Keys.load(file)
    compared: list[str] = []
    real = keys.hmac.compare_digest
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: compared.append(a) or real(a, b))
    for key in made:
        compared.clear()
        known.caller(bearer(key))
        assert len(compared) == 3


def test_a_clients_key_is_no_admin_key(file: Path):
    key = keys.add(file, "lab", "client")
    with pytest.raises(Refused, match="no admin key") as caught:
        Keys.load(file).admin(bearer(key))
    assert caught.value.status == 403


def test_without_a_file_everybody_is_an_administrator_of_this_machine():
    assert Keys.load(None).admin(None) == ANONYMOUS


def test_a_key_that_is_taken_out_counts_no_more_and_a_new_one_does(file: Path):
    clock = Clock()
    old = keys.add(file, "old", "client")
    known = Keys(file, keys.read(file), clock)
    file.unlink()
    new = keys.add(file, "new", "client")
    clock.now += 2
    assert known.caller(bearer(new)).name == "new"
    with pytest.raises(Refused):
        known.caller(bearer(old))


def test_a_file_that_breaks_leaves_the_known_keys_in_force(file: Path, caplog: pytest.LogCaptureFixture):
    clock = Clock()
    key = keys.add(file, "lab", "client")
    known = Keys(file, keys.read(file), clock)
    file.write_text("- name: [")
    clock.now += 2
    assert known.caller(bearer(key)).name == "lab"
    assert "stay as they were" in caplog.text


@pytest.mark.parametrize("text", ["", "[]", "a: 1", "- name: lab", "- {name: lab, sha256: abc}", "- [", "\ufffe: \x00"])
def test_a_file_that_is_no_key_file_is_refused_without_quoting_it(file: Path, text: str):
    file.write_text(text)
    with pytest.raises(UserError, match=r"key"):
        Keys.load(file)


def test_a_missing_file_is_refused_with_the_command_that_makes_one(file: Path):
    with pytest.raises(UserError, match=r"python -m jobs.keys file="):
        Keys.load(file)


def test_a_name_has_one_key(file: Path):
    keys.add(file, "lab", "client")
    with pytest.raises(UserError, match="take its entry out"):
        keys.add(file, "lab", "admin")


def test_the_command_prints_the_key_once(file: Path):
    command = [sys.executable, "-m", "jobs.keys", f"file={file}", "name=lab", "role=admin"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=True)
    assert Keys.load(file).admin(bearer(done.stdout.strip())).name == "lab"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_a_service_on_a_loopback_address_may_do_without_keys(host: str):
    assert is_loopback(host)
    require_keys(host, SafetySettings())


REACHED = ["0.0.0.0", "::", "10.0.0.1", "192.168.1.2", "example.org", "localhost.example.org", ""]


@pytest.mark.parametrize("host", REACHED)
def test_a_service_that_others_reach_needs_keys(host: str, file: Path):
    with pytest.raises(ValueError, match="keys_file"):
        require_keys(host, SafetySettings())
    require_keys(host, SafetySettings(keys_file=file))


def limit(file: Path, clock: Clock, per_minute: int | None = 60, burst: int = 3) -> RateLimit:
    return RateLimit(SafetySettings(keys_file=file, requests_per_minute=per_minute, burst=burst), clock)


def test_a_burst_is_let_through_and_then_one_request_for_each_second(file: Path):
    clock = Clock()
    rate = limit(file, clock)
    for _ in range(3):
        rate.admit("lab")
    with pytest.raises(Refused) as caught:
        rate.admit("lab")
    assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "1"})
    clock.now += 1
    rate.admit("lab")
    with pytest.raises(Refused):
        rate.admit("lab")


def test_one_key_does_not_use_up_anothers_share(file: Path):
    rate = limit(file, Clock(), burst=1)
    rate.admit("lab")
    rate.admit("other")
    with pytest.raises(Refused):
        rate.admit("lab")


def test_waiting_as_long_as_is_said_is_enough(file: Path):
    clock = Clock()
    rate = limit(file, clock, per_minute=7, burst=1)
    rate.admit("lab")
    with pytest.raises(Refused) as caught:
        rate.admit("lab")
    clock.now += int(caught.value.headers["Retry-After"])
    rate.admit("lab")


def test_names_that_have_rested_are_forgotten(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serve.safety.rate._MAX_BUCKETS", 10)
    clock = Clock()
    rate = limit(file, clock)
    for number in range(100):
        clock.now += 1
        rate.admit(str(number))
    assert len(rate._buckets) <= 10


@pytest.mark.parametrize("unlimited", [SafetySettings(), SafetySettings(keys_file="/x", requests_per_minute=None)])
def test_there_is_no_limit_without_keys_or_where_it_is_switched_off(unlimited: SafetySettings):
    rate = RateLimit(unlimited, Clock())
    for _ in range(10_000):
        rate.admit("anonymous")
