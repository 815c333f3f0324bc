"""The local Hub of these tests: a server, and a process with the real client that is pointed at it."""

import pytest
from local_hub.process import running_hub
from local_hub.steps import empty_cache


@pytest.fixture(scope="session")
def hub_process(tmp_path_factory):
    """One process for all tests, as it has to import torch."""
    with running_hub(tmp_path_factory.mktemp("hf_home")) as process:
        yield process


@pytest.fixture
def hub(hub_process):
    """The process, with a server and a cache that hold nothing."""
    hub_process.server.forget()
    hub_process.call(empty_cache)
    return hub_process
