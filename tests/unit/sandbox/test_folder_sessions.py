"""Which sessions a folder of microscope files makes."""

from pathlib import Path

from nexus_tasks.sandbox.folder_sessions import sessions_in


def test_an_instrument_without_files_has_no_session(tmp_path: Path) -> None:
    for name in ("SEM", "TEM", "FIB/2024"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "SEM/a.txt").write_text("seen", encoding="utf-8")

    assert [session.instrument_pid for session in sessions_in(tmp_path)] == ["SEM"]
