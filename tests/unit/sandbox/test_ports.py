import socket

from nexus_tasks.sandbox.ports import PORTS, free_port


def test_a_free_port_can_be_listened_on_and_is_not_ephemeral() -> None:
    port = free_port()
    assert port in PORTS
    with socket.create_server(("127.0.0.1", port)):
        pass
