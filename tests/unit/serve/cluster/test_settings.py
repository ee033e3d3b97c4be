"""The controller's command line becomes its settings, secrets read from where it says."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from llava.errors import InvalidRequest
from llava.serve.cluster.settings import ControllerSettings
from llava.serve.controller import add_arguments
from llava.serve.service.addresses import AddressPolicy


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch):
    monkeypatch.delenv("LLAVA_API_KEY", raising=False)
    monkeypatch.delenv("LLAVA_CLUSTER_TOKEN", raising=False)


def settings(line: str) -> ControllerSettings:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return ControllerSettings.from_args(parser.parse_args(line.split()))


def test_without_flags_the_settings_are_the_defaults():
    read = settings("")
    default = ControllerSettings()
    assert (read.service.host, read.service.port, read.service.local_only) == ("localhost", 21001, False)
    assert read.service.limits == default.service.limits
    assert read.service.drain_timeout_s == default.service.drain_timeout_s
    for name in ("dispatch_method", "allowed_workers", "first_token_timeout_s", "idle_timeout_s"):
        assert getattr(read, name) == getattr(default, name), name
    assert read.heart_beat_expiration_s == default.heart_beat_expiration_s == 30


def test_every_flag_arrives_where_it_belongs(tmp_path: Path):
    (tmp_path / "keys").write_text("ann key-of-ann\n")
    (tmp_path / "token").write_text("a-token-of-the-tests\n")
    read = settings(
        "--host 0.0.0.0 --port 0 --dispatch-method lottery --allow-worker 10.1.0.0/16 --insecure "
        f"--api-key-file {tmp_path}/keys --cluster-token-file {tmp_path}/token --first-token-timeout 1 "
        "--idle-timeout 2 --heart-beat-expiration 3 --requests-per-minute 4 --drain-timeout 5"
    )
    service = read.service
    assert (service.host, service.port, service.insecure, service.drain_timeout_s) == ("0.0.0.0", 0, True, 5)
    assert service.api_keys is not None
    assert service.api_keys.owner_of("key-of-ann") == "ann"
    assert service.cluster_token is not None
    assert service.cluster_token.owner_of("a-token-of-the-tests") == "default"
    assert service.limits.requests_per_minute == 4
    assert (read.dispatch_method, read.allowed_workers) == ("lottery", AddressPolicy.parse(["10.1.0.0/16"]))
    assert (read.first_token_timeout_s, read.idle_timeout_s, read.heart_beat_expiration_s) == (1, 2, 3)


def test_beyond_this_machine_only_keys_or_insecure_open_the_service(monkeypatch):
    assert settings("--host 0.0.0.0").service.local_only
    assert not settings("--host 0.0.0.0 --insecure").service.local_only
    monkeypatch.setenv("LLAVA_API_KEY", "a-key")
    assert not settings("--host 0.0.0.0").service.local_only


def test_a_file_that_cannot_be_read_is_named():
    with pytest.raises(InvalidRequest, match="/no/such/file: cannot be read"):
        settings("--cluster-token-file /no/such/file")
