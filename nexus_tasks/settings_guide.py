"""Writes the table of settings into docs/operating.md: `python -m nexus_tasks.settings_guide docs/operating.md`.

Names, defaults and meanings come from `config.py`; what stands here besides is the unit and when to change a setting. A
test fails while a setting has no line here, or the page is not what this module writes.
"""

import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from nexus_tasks.config import Settings

BEGIN = "<!-- settings: written by `python -m nexus_tasks.settings_guide docs/operating.md` -->"
END = "<!-- end of settings -->"
NEVER = "leave it"

# heading → setting → (unit, when to change it)
GUIDE: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Database, broker, secrets": {
        "NX_DATABASE_URL": ("URL", "always: it holds the password; `?sslmode=verify-full` for TLS"),
        "NX_BROKER_URL": ("URL", "always; `rediss://` or `amqps://` for TLS"),
        "NX_RESULT_BACKEND_URL": ("URL", "with RabbitMQ as broker, which keeps no results"),
        "NX_SECRETS_DIR": ("folder", "in containers, and wherever secrets come as files"),
        "NX_HEARTBEAT_FILE": ("file", "where a health check looks at the worker's process"),
    },
    "Files": {
        "NX_INSTRUMENT_DATA_PATH": ("folder", "always where something is built"),
        "NX_DATA_PATH": ("folder", "always: an absolute path, on storage that builder and workers share"),
        "NX_RECORDS_PATH": ("folder", "to keep records elsewhere than previews; shared as well"),
        "NX_LOG_PATH": ("folder", "to keep logs on a disk of the machine's own"),
        "NX_PLUGINS_PATH": ("folders", "for destinations of your own; the same for all workers"),
    },
    "Building records": {
        "NX_FILE_STRATEGY": ("", "when files that no reader knows belong into records"),
        "NX_IGNORE_PATTERNS": ("names", "when the microscopes' programs leave files that are no data"),
        "NX_FILE_QUIET": ("s", "up, where files grow with longer pauses: slow maps, a share that syncs rarely"),
        "NX_FILE_DELAY_DAYS": ("days", "up, where files are copied to the share days later"),
        "NX_ACTIVITY_RULE": ("", "when activities do not fit the way people work"),
        "NX_CLUSTERING_SENSITIVITY": ("", "likewise, a little at a time"),
        "NX_SCHEMA_PATH": ("file", "without CDCS, where records must fit a schema of yours"),
        "NX_BUILD_LEASE": ("s", "down, to have the sessions of dead builders taken over sooner"),
    },
    "Delivering": {
        "NX_EXPORT_STRATEGY": ("", "when one notebook is enough; holds for records that are handed over from then on"),
        "NX_TRIES": ("tries", NEVER),
        "NX_TRY_BACKOFF": ("s", NEVER),
        "NX_RETRY_DELAYS": ("s", "when a service asks for other pauses; with NX_MAX_FAILURES it makes the three days"),
        "NX_MAX_FAILURES": ("attempts", "when a service may be away for longer than three days"),
        "NX_DISPATCH_INTERVAL": ("s", "up, to 30, where the database is far away and nobody is in a hurry"),
        "NX_WINDOWS": ("records", "up for a destination that is slow but has room, down for one that suffers"),
        "NX_INTERVALS": ("s", "when a service's terms ask for pauses between calls"),
        "NX_LEASE_MARGIN": ("s", "up, where workers' machines stall for long: overcommitted, suspended"),
        "NX_LOOKUP_GRACE": ("s", "up, for a service in which objects appear late"),
        "NX_RUN_PATIENCE": ("s", NEVER),
        "NX_PAUSE_AFTER": ("records", "up, for a service that refuses many records for reasons of theirs"),
        "NX_PAUSE_FIRST": ("s", NEVER),
        "NX_PAUSE_LONGEST": ("s", "down, to notice sooner that a service is back"),
    },
    "Keeping": {
        "NX_KEEP_RUNS_DAYS": ("days", "down, where the database grows too fast: it is some kilobytes a record"),
        "NX_KEEP_ARCHIVED_DAYS": ("days", "only where the records are kept elsewhere: see [Retention](#retention)"),
    },
    "Calling services": {
        "NX_CONNECT_TIMEOUT": ("s", NEVER),
        "NX_CALL_DEADLINE": ("s", "up, where large previews go over a slow line"),
        "NX_CA_BUNDLE": ("file", "when a service's certificate is signed by your own authority"),
        "NX_PROXIES": ("URLs, secret", "where workers reach a service through a proxy only; `HTTPS_PROXY` is not read"),
    },
    "CDCS": {
        "NX_CDCS_URL": ("URL", "to send records to CDCS"),
        "NX_CDCS_TOKEN": ("secret", "with it"),
        "NX_CDCS_TEMPLATE_TITLE": ("", "when your template has another title"),
        "NX_CDCS_WORKSPACE_TITLE": ("", "when records go to a workspace of their own"),
        "NX_CDCS_ASSIGN_TO_PUBLIC_WORKSPACE": ("yes/no", "when records are not for everybody"),
        "NX_CDCS_USER_OWNED_RECORDS": ("yes/no", "when the microscopes' users are to change their records"),
    },
    "eLabFTW": {
        "NX_ELABFTW_URL": ("URL", "to send records to eLabFTW"),
        "NX_ELABFTW_API_KEY": ("secret", "with it"),
        "NX_ELABFTW_EXPERIMENT_CATEGORY": (
            "number",
            "to have them sorted; set any number, and `destinations --check` names those that there are",
        ),
        "NX_ELABFTW_EXPERIMENT_STATUS": ("number", "likewise"),
    },
    "LabArchives": {
        "NX_LABARCHIVES_URL": ("URL", "to send records to LabArchives"),
        "NX_LABARCHIVES_ACCESS_KEY_ID": ("", "with it"),
        "NX_LABARCHIVES_ACCESS_PASSWORD": ("secret", "with it"),
        "NX_LABARCHIVES_USER_ID": ("secret", "with it"),
        "NX_LABARCHIVES_NOTEBOOK_ID": ("", "nearly always: without it there are no pages, only attachments"),
    },
    "Archive": {
        "NX_ARCHIVE_URL": ("URL", "to keep a copy of each record with its previews"),
        "NX_ARCHIVE_OPTIONS": ("secret, JSON", "for object stores"),
    },
}


def table() -> str:
    """The sections with a table each, in Markdown. Raises `KeyError` for a setting that does not exist."""
    lines: list[str] = []
    for heading, settings in GUIDE.items():
        lines += [
            f"### {heading}",
            "",
            "| setting | default | unit | what it is | change it |",
            "|---|---|---|---|---|",
        ]
        for name, (unit, when) in settings.items():
            field = Settings.model_fields[name]
            cells = (f"`{name}`", _shown(field.default), unit, field.description or "", when)
            lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)


def written(page: str) -> str:
    """The page with the table as it is to be. Raises `ValueError` when the page has no place for it."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the page has no place for the settings: {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"


def main(arguments: Sequence[str]) -> None:
    """Bring each page up to date."""
    for name in arguments:
        page = Path(name)
        page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")


def _shown(default: Any) -> str:
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if isinstance(default, Enum):
        default = default.value
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, list | tuple):
        default = ",".join(str(part) for part in default)
    return f"`{default}`" if default not in (None, "", {}) else "–"


if __name__ == "__main__":
    main(sys.argv[1:])
