"""A destination in a file of its own, dropped into `NX_PLUGINS_PATH`, beside one that does not import."""

from pathlib import Path

import pytest

from nexus_tasks.sandbox.services.client import objects
from nexus_tasks.sandbox.services.faults import Fault, FaultKind
from tests.acceptance.conftest import MAX_FAILURES, InstallationMaker
from tests.acceptance.installation import Delivered, Installation, new_session, record_xml, the_only_line

FOLDER_DESTINATION = """
import os
from pathlib import Path

from nexus_tasks.exporters.base import ExportContext, ExportResult


class FolderDestination:
    name = "folder"
    priority = 50
    enabled = True

    def validate_config(self) -> tuple[bool, str | None]:
        return True, None

    def export(self, context: ExportContext) -> ExportResult:
        file = Path(os.environ["PLUGIN_TEST_FOLDER"]) / f"{context.session_identifier}.xml"
        file.write_bytes(context.xml_file_path.read_bytes())
        cdcs = context.get_result("cdcs")
        file.with_suffix(".link").write_text(cdcs.record_url if cdcs else "CDCS has no link")
        return ExportResult(success=True, destination_name=self.name, record_id=file.name, record_url=file.as_uri())
"""
BROKEN_DESTINATION = "import a_module_that_nobody_has\n"


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plugins")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the plugin puts its files."""
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture(scope="module")
def with_plugins(make_installation: InstallationMaker, plugins: Path, shelf: Path) -> Installation:
    """An installation whose only worker was started after the files had been dropped."""
    (plugins / "folder.py").write_text(FOLDER_DESTINATION, encoding="utf-8")
    (plugins / "broken.py").write_text(BROKEN_DESTINATION, encoding="utf-8")
    installation = make_installation(
        {
            "NX_PLUGINS_PATH": str(plugins),
            "PLUGIN_TEST_FOLDER": str(shelf),
            "NX_MAX_FAILURES": str(MAX_FAILURES),
        }
    )
    installation.start_worker(concurrency=2)
    return installation


def test_a_plugin_file_takes_part_in_the_next_export(with_plugins: Installation, shelf: Path) -> None:
    session = new_session()
    with with_plugins.entered():
        handed_over = with_plugins.hand_over(session)
    with_plugins.wait_until_settled(session)

    assert handed_over.destinations == ("cdcs", "labarchives", "elabftw", "folder")
    assert with_plugins.delivered(session) == Delivered(
        runs=[(1, "closed")],
        deliveries=dict.fromkeys(("cdcs", "elabftw", "folder", "labarchives"), "succeeded"),
        status="COMPLETED",
        log=[(name, 1) for name in ("cdcs", "elabftw", "folder", "labarchives")],
    )
    assert (shelf / f"{session}.xml").read_bytes() == record_xml(session)
    [(cdcs_link,)] = with_plugins.rows(
        "SELECT record_url FROM upload_log WHERE session_identifier = :session AND destination_name = 'cdcs'",
        session=session,
    )
    assert (shelf / f"{session}.link").read_text() == cdcs_link


def test_a_plugin_goes_without_the_result_of_a_destination_that_failed(with_plugins: Installation, shelf: Path) -> None:
    session = new_session()
    refusal = Fault(FaultKind.STATUS, status=500, body='{"message": "XML is not valid"}', method="POST")
    with_plugins.stand_ins.cdcs.faults.replace([refusal])
    with with_plugins.entered():
        with_plugins.hand_over(session)
    with_plugins.wait_until_settled(session)
    with_plugins.stand_ins.cdcs.faults.replace([])

    assert with_plugins.delivered(session).deliveries["folder"] == "succeeded"
    assert (shelf / f"{session}.link").read_text() == "CDCS has no link"


def test_a_worker_that_names_no_queues_takes_those_of_plugins_too(with_plugins: Installation) -> None:
    queues = with_plugins.deployment.app.control.inspect(timeout=10, limit=1).active_queues()

    [of_the_worker] = queues.values()
    assert {queue["name"] for queue in of_the_worker} == {
        "export.archive",
        "export.cdcs",
        "export.elabftw",
        "export.folder",
        "export.labarchives",
        "exports",
        "builds",
    }


def test_a_plugin_that_does_not_import_is_reported_and_the_others_go_on(
    with_plugins: Installation, plugins: Path
) -> None:
    told = with_plugins.command("destinations")

    line = the_only_line(told)
    assert str(plugins / "broken.py") in line
    assert "a_module_that_nobody_has" in line
    assert all(name in told.output for name in ("cdcs", "elabftw", "labarchives", "folder"))
    assert str(plugins / "broken.py") in with_plugins.workers[0].logs()


def test_in_json_the_plugin_that_does_not_import_is_a_problem(with_plugins: Installation, plugins: Path) -> None:
    told = with_plugins.command("destinations", "--json")

    assert told.status == 1
    assert [row["destination"] for row in told.document["destinations"]] == [
        "cdcs",
        "labarchives",
        "elabftw",
        "folder",
        "archive",
    ]
    assert [row["destination"] for row in told.document["destinations"] if not row["enabled"]] == ["archive"]
    assert all(row["valid"] for row in told.document["destinations"] if row["enabled"])
    [problem] = told.document["problems"]
    assert str(plugins / "broken.py") in problem
    assert len(objects(with_plugins.stand_ins.elabftw.url)) == 2  # both sessions of the tests above
