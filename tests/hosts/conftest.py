"""Servers started once for the tests of this folder, when first needed."""

import pytest

from tests import servers


@pytest.fixture(scope="session")
def server_of(tmp_path_factory):
    """``server_of("moto")`` and so on: the running Server of that name."""
    starters = {
        "moto": servers.moto,
        "azurite": servers.azurite,
        "rclone s3": lambda folder: servers.rclone(folder, "s3"),
        "rclone webdav": lambda folder: servers.rclone(folder, "webdav"),
        "rclone sftp": lambda folder: servers.rclone(folder, "sftp"),
        "openssh": servers.openssh,
        "wsgidav": servers.wsgidav,
        "nginx": servers.nginx,
        "seaweedfs": servers.seaweedfs,
    }
    running: dict[str, servers.Server] = {}
    contexts = []

    def find(name: str) -> servers.Server:
        if name not in running:
            context = starters[name](tmp_path_factory.mktemp(name.replace(" ", "-")))
            running[name] = context.__enter__()
            contexts.append(context)
        return running[name]

    yield find
    for context in reversed(contexts):
        context.__exit__(None, None, None)
