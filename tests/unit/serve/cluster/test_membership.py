"""Who may join a controller, see its workers, or use them: checked from this machine, from others, with and without
tokens, without a network."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any

import httpx
import pytest

from llava.serve.cluster.access import ClusterAccess
from llava.serve.cluster.app import create_controller_app
from llava.serve.cluster.membership import Membership
from llava.serve.cluster.registry import Registry
from llava.serve.cluster.routes import CLUSTER_PATHS
from llava.serve.cluster.settings import ControllerSettings
from llava.serve.protocol.original import RegisterWorker, WorkerStatus
from llava.serve.service.addresses import AddressPolicy
from llava.serve.service.health import HEALTH_PATHS
from llava.serve.service.security import ApiKeys, ClusterToken
from llava.serve.service.settings import ServiceSettings

TOKEN = "a-token-of-the-tests"
SHOWN = {"x-llava-cluster-token": TOKEN}
HERE, ELSEWHERE = "127.0.0.1", "10.9.9.9"
LOCAL_WORKER = "http://127.0.0.1:21002"


class Caller:
    """Asks an app from any address, as the app sees it."""

    def __init__(self, settings: ControllerSettings, peer: str = HERE, host: str = "localhost:21001"):
        self.app = create_controller_app(settings)
        self.peer, self.host = peer, host

    def __call__(self, path: str, body: Any = None, *, method: str = "POST", **headers: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, client=(self.peer, 5000))
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{self.host}") as client:
                shown = {name.replace("_", "-"): value for name, value in headers.items()}
                return await client.request(method, path, json=body, headers=shown)

        return asyncio.run(ask())

    @property
    def num_workers(self) -> int:
        return len(self.app.state.registry)


def service(**settings: Any) -> ControllerSettings:
    return ControllerSettings(ServiceSettings(**settings))


def registration(worker: str = LOCAL_WORKER, *, models: tuple[str, ...] = ("m",), **status: Any) -> dict[str, Any]:
    said = {"model_names": list(models), "speed": 1, "queue_length": 0, **status}
    return {"worker_name": worker, "check_heart_beat": True, "worker_status": said}


def code_of(answer: httpx.Response) -> str:
    return answer.json()["error"]["code"]


# Tokens


def test_without_a_token_programs_on_this_machine_may_register():
    caller = Caller(ControllerSettings())
    assert caller("/register_worker", registration()).status_code == 200
    assert caller("/receive_heart_beat", {"worker_name": LOCAL_WORKER, "queue_length": 1}).json() == {"exist": True}
    assert caller("/get_worker_address", {"model": "m"}).json() == {"address": LOCAL_WORKER}


@pytest.mark.parametrize(
    ("peer", "host", "headers"),
    [
        (ELSEWHERE, "localhost", {}),
        (HERE, "localhost", {"x_forwarded_for": "127.0.0.1"}),
        (HERE, "localhost", {"forwarded": "for=127.0.0.1"}),
        (HERE, "evil.example", {}),
    ],
    ids=["another machine", "a proxy", "another proxy", "a web page under a name of its own"],
)
def test_without_a_token_nobody_else_may(peer: str, host: str, headers: dict[str, str]):
    caller = Caller(ControllerSettings(), peer, host)
    for path in sorted(CLUSTER_PATHS):
        answer = caller(path, registration(speed=1e5), **headers)
        assert (answer.status_code, code_of(answer)) == (401, "invalid_api_key"), path
    assert caller.num_workers == 0


@pytest.mark.parametrize("peer", [HERE, ELSEWHERE])
def test_with_a_token_everybody_must_show_it(peer: str):
    caller = Caller(service(cluster_token=ClusterToken(TOKEN)), peer)
    for headers in ({}, {"x_llava_cluster_token": TOKEN + "x"}, {"authorization": "Bearer wrong"}):
        for path in sorted(CLUSTER_PATHS):
            assert caller(path, registration(), **headers).status_code == 401, path
    assert caller(f"/register_worker?token={TOKEN}", registration()).status_code == 401
    assert caller.num_workers == 0
    assert caller("/refresh_all_workers", x_llava_cluster_token=TOKEN).status_code == 200


def test_insecure_lets_a_stranger_register_itself_but_nobody_else():
    caller = Caller(service(insecure=True), ELSEWHERE)
    assert caller("/register_worker", registration(f"http://{ELSEWHERE}:80")).status_code == 200
    for third_party in ("http://10.9.9.8:80", LOCAL_WORKER, "http://169.254.169.254"):
        answer = caller("/register_worker", registration(third_party))
        assert (answer.status_code, code_of(answer)) == (403, "worker_address_refused"), third_party
    assert caller.num_workers == 1


def test_another_machine_cannot_register_an_address_that_means_this_one():
    caller = Caller(service(cluster_token=ClusterToken(TOKEN)), ELSEWHERE)
    answer = caller("/register_worker", registration("http://localhost:21002"), x_llava_cluster_token=TOKEN)
    assert code_of(answer) == "worker_address_refused"
    assert "--worker-address" in answer.json()["error"]["message"]


def test_every_route_is_public_or_asks_who_is_there():
    settings = service(cluster_token=ClusterToken(TOKEN), api_keys=ApiKeys("key"))
    caller = Caller(settings, ELSEWHERE)
    routes = [(path, method) for path, methods in caller.app.openapi()["paths"].items() for method in methods]
    assert len(routes) >= 14
    for path, method in [*routes, ("/openapi.json", "get"), ("/nothing", "get")]:
        if path in HEALTH_PATHS:
            continue
        path = re.sub(r"\{.*\}", "m", path)
        body = {} if method == "post" else None
        assert caller(path, body, method=method.upper()).status_code == 401, path
        # A client's key is no key to the cluster.
        opened = caller(path, body, method=method.upper(), authorization="Bearer key").status_code
        assert (opened == 401) == (path in CLUSTER_PATHS), path


def test_clients_never_learn_where_workers_are():
    caller = Caller(ControllerSettings())
    caller("/register_worker", registration("http://127.0.0.1:9"))  # nobody listens there
    caller.peer = ELSEWHERE
    failed = caller("/worker_generate_stream", {"model": "m", "prompt": "hi"})
    assert failed.status_code == 502
    for answer in (failed, caller("/list_models"), caller("/v1/models", method="GET")):
        assert "127.0.0.1" not in answer.text


# Addresses and status


@pytest.mark.parametrize("suffix", ["/path", "?q", "#f", "\\@10.0.0.1"])
@pytest.mark.parametrize("status", [None, {"model_names": ["m"], "speed": 1, "queue_length": 0}])
def test_no_connection_is_made_to_an_address_that_is_refused(suffix: str, status: Any):
    caller = Caller(ControllerSettings())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        name = f"http://127.0.0.1:{listener.getsockname()[1]}{suffix}"
        answer = caller("/register_worker", {"worker_name": name, "check_heart_beat": True, "worker_status": status})
        assert (answer.status_code, code_of(answer)) == (403, "worker_address_refused")
        with pytest.raises(TimeoutError):
            listener.accept()
    assert caller.num_workers == 0


def test_a_worker_that_cannot_be_asked_is_not_registered():
    caller = Caller(ControllerSettings())
    answer = caller("/register_worker", {"worker_name": "http://127.0.0.1:9", "worker_status": None})
    assert (answer.status_code, code_of(answer)) == (502, "worker_lost")
    assert caller.num_workers == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/register_worker", {}),
        ("/register_worker", registration(speed=0)),
        ("/register_worker", registration(speed=-1)),
        ("/register_worker", registration(queue_length=10**9)),
        ("/register_worker", registration(models=())),
        ("/register_worker", registration(models=("a b",))),
        ("/receive_heart_beat", {}),
        ("/receive_heart_beat", {"worker_name": LOCAL_WORKER}),
        ("/receive_heart_beat", {"worker_name": LOCAL_WORKER, "queue_length": -1}),
        ("/receive_heart_beat", {"worker_name": LOCAL_WORKER, "queue_length": 10**9}),
        ("/receive_heart_beat", {"worker_name": LOCAL_WORKER, "queue_length": "many"}),
        ("/receive_heart_beat", ["no object"]),
        ("/get_worker_address", {}),
        ("/worker_generate_stream", {}),
        ("/v1/chat/completions", {}),
    ],
)
def test_a_malformed_message_is_refused_and_dispatch_goes_on(path: str, body: Any):
    caller = Caller(ControllerSettings())
    caller("/register_worker", registration())
    assert caller(path, body).status_code == 422
    assert caller("/get_worker_address", {"model": "m"}).json() == {"address": LOCAL_WORKER}
    assert caller("/worker_get_status").json() == {"model_names": ["m"], "speed": 1.0, "queue_length": 0}


def test_a_heartbeat_of_nobody_is_told_to_register():
    caller = Caller(ControllerSettings())
    beat = {"worker_name": "http://127.0.0.1:1", "queue_length": 0}
    assert caller("/receive_heart_beat", beat).json() == {"exist": False}


def test_one_worker_under_two_spellings_is_one_worker():
    caller = Caller(ControllerSettings())
    for name in ("http://LOCALHOST:21002", "http://localhost:21002/"):
        assert caller("/register_worker", registration(name)).status_code == 200
    assert caller.num_workers == 1


# Proofs and owners


class FakeClient:
    """Stands for what answers at a worker's address."""

    def __init__(self, token: ClusterToken | None):
        self.token = token
        self.asked: list[str] = []

    async def introduce(self, address, token=None, owner=""):
        self.asked.append(address.ip)
        status = WorkerStatus(model_names=["m"])
        headers = token.verify("nonce", self.token.prove("nonce"), owner) if token and self.token else None
        return status, headers


class FakeRequest:
    """A registration from another machine, with a token."""

    def __init__(self, token: str):
        self.headers = {"x-llava-cluster-token": token}
        self.client = type("Client", (), {"host": "10.1.2.3"})


def join(membership: Membership, worker: str, token: str, models: tuple[str, ...] = ("m",)):
    body = RegisterWorker.model_validate(registration(worker, models=models))
    return asyncio.run(membership.register(body, FakeRequest(token)))  # type: ignore[arg-type]


def door(tokens: ClusterToken, at_the_address: ClusterToken | None) -> tuple[Membership, FakeClient, Registry]:
    registry, client = Registry(), FakeClient(at_the_address)
    policy = AddressPolicy.parse(["10.1.0.0/16"])
    return Membership(registry, client, ClusterAccess(tokens, False), policy), client, registry  # type: ignore[arg-type]


def test_a_remote_worker_proves_at_its_own_address_that_it_is_one():
    from llava.errors import Forbidden

    token = ClusterToken(TOKEN)
    membership, client, registry = door(token, token)
    worker = join(membership, "http://10.1.2.3:80", TOKEN)
    assert client.asked == ["10.1.2.3"]
    assert worker.auth_headers == SHOWN  # and is sent the token from then on

    membership, _, registry = door(token, None)
    with pytest.raises(Forbidden, match="did not prove that it has the cluster token"):
        join(membership, "http://10.1.2.3:80", TOKEN)
    assert len(registry) == 0


def test_holders_of_another_token_cannot_take_over_workers_or_models():
    from llava.errors import Forbidden, WorkerConflict
    from llava.serve.protocol.original import HeartBeat

    other = "another-token-of-the-tests"
    tokens = ClusterToken(owners={TOKEN: "ann", other: "bob"})
    membership, client, registry = door(tokens, ClusterToken(TOKEN))
    join(membership, "http://10.1.2.3:80", TOKEN)
    client.token = ClusterToken(other)
    for worker, models in (("http://10.1.2.3:80", ("new",)), ("http://10.1.2.4:80", ("m",))):
        with pytest.raises(WorkerConflict):
            join(membership, worker, other, models)
    stranger: Any = FakeRequest(other)
    with pytest.raises(Forbidden):
        membership.deregister("http://10.1.2.3:80", stranger)
    with pytest.raises(Forbidden):
        membership.heart_beat(HeartBeat(worker_name="http://10.1.2.3:80", queue_length=0), stranger)
    assert [worker.owner for worker in registry] == ["ann"]
