import socket
import threading

import pytest
import requests

from nexus_tasks.sandbox.services import StandIns, client
from nexus_tasks.sandbox.services.cdcs.service import Cdcs
from nexus_tasks.sandbox.services.server import StandInServer
from tests.timing import fastest


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "", "localhost"])
def test_an_address_that_is_not_loopback_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="loopback only"):
        StandInServer(Cdcs("token"), host=host)


def test_every_setting_of_the_destinations_is_in_the_environment(stand_ins: StandIns) -> None:
    assert set(stand_ins.environment()) == {
        "NX_CDCS_URL",
        "NX_CDCS_TOKEN",
        "NX_ELABFTW_URL",
        "NX_ELABFTW_API_KEY",
        "NX_LABARCHIVES_URL",
        "NX_LABARCHIVES_ACCESS_KEY_ID",
        "NX_LABARCHIVES_ACCESS_PASSWORD",
        "NX_LABARCHIVES_USER_ID",
        "NX_LABARCHIVES_NOTEBOOK_ID",
    }


def test_calls_are_counted_by_kind_and_connections_once(stand_ins: StandIns, web: requests.Session) -> None:
    url = stand_ins.elabftw.url
    web.headers["Authorization"] = stand_ins.environment()["NX_ELABFTW_API_KEY"]
    for number in (1, 2, 3):
        web.get(f"{url}/api/v2/experiments/{number}")
    calls = client.calls(url)
    assert calls["total"] == 3
    assert calls["by_path"] == {"GET /api/v2/experiments/{id}": 3}
    assert calls["connections"] == 1
    assert calls["max_concurrent"] == 1
    assert [call["status"] for call in calls["recent"]] == [404, 404, 404]
    assert all(call["ended"] >= call["started"] for call in calls["recent"])


def test_pages_and_administration_are_not_counted(stand_ins: StandIns, web: requests.Session) -> None:
    for server in stand_ins.servers:
        assert web.get(f"{server.url}/").status_code == 200
        client.objects(server.url)
        assert client.calls(server.url)["total"] == 0
        assert client.calls(server.url)["connections"] == 0


def test_no_query_is_remembered_because_it_can_hold_a_signature(stand_ins: StandIns, web: requests.Session) -> None:
    web.get(f"{stand_ins.labarchives.url}/api/users/max_file_size?sig=secret-signature")
    assert "secret-signature" not in str(client.calls(stand_ins.labarchives.url))


def test_nothing_is_written_to_the_terminal(
    stand_ins: StandIns, web: requests.Session, capfd: pytest.CaptureFixture[str]
) -> None:
    web.get(f"{stand_ins.cdcs.url}/rest/data/")
    assert capfd.readouterr() == ("", "")


def test_keep_alive_has_no_stalls(stand_ins: StandIns, web: requests.Session) -> None:
    url = f"{stand_ins.cdcs.url}/rest/data/"
    web.get(url)

    def calls() -> None:
        for _ in range(50):
            web.post(url, json={"title": "x"})

    assert fastest(calls, enough=50 * 0.02) < 50 * 0.02  # delayed acknowledgements would cost 0.04 s each


def test_calls_at_the_same_time_are_seen(stand_ins: StandIns) -> None:
    url = stand_ins.cdcs.url
    client.set_faults(url, [{"kind": "latency", "seconds": 0.3}])
    threads = [threading.Thread(target=requests.get, args=(f"{url}/rest/data/",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.calls(url)["max_concurrent"] == 3


def test_a_chunked_body_is_read_to_its_end(stand_ins: StandIns, web: requests.Session) -> None:
    web.headers["Authorization"] = f"Token {stand_ins.environment()['NX_CDCS_TOKEN']}"
    web.headers["Content-Type"] = "application/json"
    parts = iter([b'{"template": "41", "title": "t", ', b'"xml_content": "<a/>"}'])
    assert web.post(f"{stand_ins.cdcs.url}/rest/data/", data=parts).status_code == 201


def test_a_request_cut_off_by_the_client_saves_nothing(stand_ins: StandIns) -> None:
    host, port = stand_ins.cdcs.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /rest/data/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert client.objects(stand_ins.cdcs.url) == []


def test_an_outage_ends_open_connections_and_keeps_what_was_saved(web: requests.Session) -> None:
    with StandIns.start() as stand_ins:
        server = stand_ins.cdcs
        web.headers["Authorization"] = f"Token {stand_ins.environment()['NX_CDCS_TOKEN']}"
        url = server.url
        web.post(f"{url}/rest/data/", json={"template": "41", "title": "t", "xml_content": "<a/>"})
        server.stop()
        with pytest.raises(requests.ConnectionError):
            web.get(f"{url}/rest/data/")
        server.start()
        assert server.url == url
        assert web.get(f"{url}/rest/data/").json()["count"] == 1


def test_a_reset_forgets_objects_calls_and_faults(stand_ins: StandIns, web: requests.Session) -> None:
    url = stand_ins.cdcs.url
    web.headers["Authorization"] = f"Token {stand_ins.environment()['NX_CDCS_TOKEN']}"
    web.post(f"{url}/rest/data/", json={"template": "41", "title": "t", "xml_content": "<a/>"})
    client.set_faults(url, [{"kind": "status", "status": 500}])
    client.reset(url)
    assert client.objects(url) == []
    assert client.faults(url) == []
    assert client.calls(url)["total"] == 0
