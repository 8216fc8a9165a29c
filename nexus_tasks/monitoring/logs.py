"""The log files under `NX_LOG_PATH`: what builders and workers write beside what Celery prints."""

import logging
from logging.handlers import WatchedFileHandler

from nexus_tasks.config import Settings, SettingsError

MAIN_LOG = "nexuslims_record_builder.log"  # the name that NexusLIMS's documentation gives it
FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"


def write_log_files(settings: Settings) -> None:
    """Have everything this package logs appended to the main log, besides where it goes anyway.

    Lines of several processes may go to one file; log rotation by moving the file is noticed. Raises `SettingsError`
    when there can be no such file.
    """
    package = logging.getLogger("nexus_tasks")
    path = settings.log_path / MAIN_LOG
    if any(getattr(handler, "baseFilename", None) == str(path.absolute()) for handler in package.handlers):
        return
    try:
        settings.log_path.mkdir(parents=True, exist_ok=True)
        handler = WatchedFileHandler(path, encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"No log can be written to {settings.log_path} ({error.strerror}): "
            "set NX_LOG_PATH or NX_DATA_PATH to a folder that may be written."
        ) from error
    handler.setFormatter(logging.Formatter(FORMAT))
    package.addHandler(handler)
    package.setLevel(logging.INFO)
