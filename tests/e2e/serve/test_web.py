"""`llava web`: everything in one command, and nothing left behind."""

from __future__ import annotations

import signal

import httpx
import psutil
import pytest

from tests.support.serving import Service, wait_until

NO_SECRETS = {"LLAVA_CLUSTER_TOKEN": "", "LLAVA_API_KEY": ""}
PAGE_RUNS = r"^[\d -:]+\| INFO \| llava\.serve \| Uvicorn running on (http://\S+)"
"""The page's own line; those of controller and worker have their names before them."""


@pytest.mark.embedded
def test_one_command_starts_page_controller_and_worker_and_ctrl_c_ends_all_of_them():
    with Service("-m", "llava", "web", "--port", "0", **NO_SECRETS) as service:
        address = service.wait_for(PAGE_RUNS, timeout_s=240)[1]
        assert "LLaVA" in httpx.get(address).text
        children = psutil.Process(service.process.pid).children(recursive=True)
        controller = service.wait_for(r"^controller \| .*Uvicorn running on (http://\S+)")[1]
        assert [entry["id"] for entry in httpx.get(f"{controller}/v1/models").json()["data"]] == ["tiny"]
        service.process.send_signal(signal.SIGINT)
        assert service.wait() == 0
        wait_until(lambda: not any(child.is_running() for child in children))


def test_a_worker_that_cannot_start_ends_the_command_with_its_reason(tmp_path):
    with Service(
        "-m", "llava", "web", "--port", "0", "--model-path", str(tmp_path / "nothing"), **NO_SECRETS
    ) as service:
        assert service.wait(timeout_s=240) == 1
        assert "nothing: no such model folder" in service.output
        assert "error: the worker could not be started (exit code 1). Its output above says why." in service.output
