"""Secrets are compared whole, read from files, shown nowhere; a worker's address means one place or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava.errors import AddressRefused, InvalidRequest, Unauthorized
from llava.serve.service.addresses import AddressPolicy, address_key, parse_worker_address
from llava.serve.service.security import ApiKeys, ClusterToken, for_this_machine_only

TOKEN = "0123456789abcdef"
LOCAL = AddressPolicy()
EVERYWHERE = AddressPolicy.parse(["0.0.0.0/0", "::/0", "worker.example"])


# Secrets


def test_a_key_opens_only_as_a_bearer_token():
    keys = ApiKeys("secret", owners={"other": "ann"})
    assert keys.check({"authorization": "Bearer secret"}) == "default"
    assert keys.check({"authorization": "bearer other"}) == "ann"
    for headers in ({}, {"authorization": "secret"}, {"authorization": "Basic secret"}, {"x-api-key": "secret"}):
        with pytest.raises(Unauthorized, match="is required"):
            keys.check(headers)
    for wrong in ("Secret", "secre", "secret2", "s\xe9cret"):
        with pytest.raises(Unauthorized, match="not valid"):
            keys.check({"authorization": f"Bearer {wrong}"})


def test_secrets_come_from_a_file_with_owners_or_from_the_environment(tmp_path: Path, monkeypatch):
    file = tmp_path / "tokens"
    file.write_text(f"# ours\n\n{TOKEN}\nlab2 {TOKEN}-two\n")
    token = ClusterToken.from_settings(file)
    assert token is not None
    assert token.identify({"x-llava-cluster-token": TOKEN}) == "default"
    assert token.identify({"authorization": f"Bearer {TOKEN}-two"}) == "lab2"
    assert token.identify({}) is None
    monkeypatch.delenv("LLAVA_CLUSTER_TOKEN", raising=False)
    assert ClusterToken.from_settings() is None
    monkeypatch.setenv("LLAVA_CLUSTER_TOKEN", TOKEN)
    assert ClusterToken.from_settings().headers() == {"x-llava-cluster-token": TOKEN}


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "contains no cluster token"), ("short\n", "at least 16"), (f"a b {TOKEN}\n", "line 1")],
)
def test_a_file_that_cannot_be_used_is_named_without_its_content(text: str, message: str, tmp_path: Path):
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=message) as error:
        ClusterToken.from_settings(file)
    assert str(file) in str(error.value)
    assert not text or text.split()[-1] not in str(error.value)


def test_no_secret_is_shown():
    assert TOKEN not in repr(ClusterToken(TOKEN)) + str(ApiKeys(TOKEN))


def test_a_challenge_is_answered_only_with_the_same_token():
    controller = ClusterToken(TOKEN, owners={f"{TOKEN}-new": "default", f"{TOKEN}-lab2": "lab2"})
    for known in (TOKEN, f"{TOKEN}-new"):  # both work while one replaces the other
        proof = ClusterToken(known).prove("nonce")
        assert controller.verify("nonce", proof, "default") == {"x-llava-cluster-token": known}
        assert controller.verify("another", proof, "default") is None
        assert controller.verify("nonce", proof, "lab2") is None
    assert controller.verify("nonce", "\u00e9", "default") is None


def test_beyond_this_machine_a_service_asks_for_keys_or_answers_its_own_machine_alone():
    keys = ApiKeys("some-key")
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert not for_this_machine_only(host, None, insecure=False)
    for host in ("0.0.0.0", "::", "10.0.0.1", "worker.example"):
        assert for_this_machine_only(host, None, insecure=False)
        assert not for_this_machine_only(host, keys, insecure=False)
        assert not for_this_machine_only(host, None, insecure=True)


# Worker addresses


def resolving(*addresses: str):
    return lambda host, port: addresses


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:21002", "http://127.0.0.1:21002/x"),
        ("http://127.0.0.1:21002/", "http://127.0.0.1:21002/x"),
        ("http://[::1]:8000", "http://[::1]:8000/x"),
        ("https://127.0.0.1", "https://127.0.0.1:443/x"),
        ("http://LocalHost:1", "http://127.0.0.1:1/x"),
    ],
)
def test_workers_may_be_on_this_machine(text: str, url: str):
    address = parse_worker_address(text, LOCAL, resolve=resolving("::1", "127.0.0.1"))
    assert address.url("/x") == url
    assert address.name == text
    assert address.key == address_key(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://2130706433",
        "http://0177.0.0.1",
        "http://0x7f.0.0.1",
        "http://0x7f000001",
        "http://127.1",
        "http://127.0.0.1.",
        "http://localhost.",
        "http://[::ffff:127.0.0.1]:80",
        "http://[::ffff:a00:1]",
        "http://[2002:a00:1::]",
        "http://[fe80::1%25eth0]",
        "http://a\\@127.0.0.1",
        "http://user:secret@127.0.0.1",
        "http://127.0.0.1@evil.example",
        "http://127.0.0.1:80:80",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
        "http://127.0.0.1/path",
        "http://127.0.0.1?query",
        "http://127.0.0.1#fragment",
        "http://127.0.0.1 ",
        "http://127.0.0.1\r\nHost: x",
        "http://b\u00fccher.example",
        "http://\uff11\uff12\uff17.0.0.1",
        "http://-a.example",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "gopher://127.0.0.1",
        "127.0.0.1:21002",
        "//127.0.0.1",
        "http://",
        "",
    ],
)
def test_an_address_that_two_parsers_could_read_differently_is_refused(text: str):
    with pytest.raises(AddressRefused) as error:
        parse_worker_address(text, EVERYWHERE, resolve=resolving("127.0.0.1"))
    assert "secret" not in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "0.0.0.0", "[::]", "224.0.0.1", "255.255.255.255",
     "100.100.100.200", "metadata.google.internal"],
)  # fmt: skip
def test_some_places_are_never_workers_whatever_is_allowed(host: str):
    policy = AddressPolicy.parse(["0.0.0.0/0", "::/0", "metadata.google.internal"])
    with pytest.raises(AddressRefused, match="never allowed at this address"):
        parse_worker_address(f"http://{host}:80", policy, resolve=resolving("10.0.0.1"))


def test_other_machines_must_be_listed():
    for text in ("http://10.1.2.3:21002", "http://worker.example:21002"):
        with pytest.raises(AddressRefused, match="--allow-worker"):
            parse_worker_address(text, LOCAL, resolve=resolving("10.1.2.3"))
    network = AddressPolicy.parse(["10.1.0.0/16"])
    assert parse_worker_address("http://10.1.2.3:1", network).ip == "10.1.2.3"
    assert parse_worker_address("http://worker.example", network, resolve=resolving("10.1.9.9")).ip == "10.1.9.9"
    assert parse_worker_address("http://worker.example", EVERYWHERE, resolve=resolving("10.2.0.1")).ip == "10.2.0.1"


def test_a_name_that_resolves_to_one_bad_address_among_good_ones_is_refused():
    network = AddressPolicy.parse(["10.1.0.0/16"])
    with pytest.raises(AddressRefused):
        parse_worker_address("http://w.example", network, resolve=resolving("10.1.0.1", "169.254.169.254"))


def test_a_name_is_looked_up_once_and_the_connection_goes_to_what_was_found():
    answers = iter([["10.1.0.1"], ["169.254.169.254"]])
    policy = AddressPolicy.parse(["worker.example"])
    address = parse_worker_address("http://Worker.Example:80", policy, resolve=lambda host, port: next(answers))
    assert address.url("/") == "http://10.1.0.1:80/"
    assert address.host_header() == "worker.example:80"


@pytest.mark.parametrize("entry", ["http://10.0.0.1", "10.0.0.0/33", "a b", "", "300.1.1.1"])
def test_an_allow_list_entry_that_means_nothing_is_refused(entry: str):
    with pytest.raises(InvalidRequest, match="--allow-worker"):
        AddressPolicy.parse([entry])
