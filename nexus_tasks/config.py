"""The settings in force: `NX_*` from the environment, a `.env` file in the working directory, or files for secrets.

Everything that reads a setting calls `get_settings()`; `from nexus_tasks.config import settings` is the same object,
for snippets and plugins. Secrets are `SecretStr`: they never show in `repr`, logs or messages.
"""

import logging
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from nexus_tasks.plain_error import PlainError
from nexus_tasks.states import Strategy

if TYPE_CHECKING:
    settings: "Settings"

logger = logging.getLogger(__name__)


class SettingsError(PlainError):
    """A setting is missing or wrong; the message is one plain sentence per setting, naming it."""


def _parts(value: str) -> SplitResult:
    """The parts of an address; what is wrong with one is said without repeating any of it: it may hold a password."""
    try:
        return urlsplit(value)
    except ValueError:
        msg = "is not an address: characters such as [ ] # ? in a password must be percent-encoded"
        raise ValueError(msg) from None


def _web_address(value: str) -> str:
    parts = _parts(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        msg = "must be a web address such as https://cdcs.example.org"
        raise ValueError(msg)
    if parts.username or parts.password:
        msg = "must not hold a user name or password"
        raise ValueError(msg)
    return value.rstrip("/")


def _split_commas(value: Any) -> Any:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _split_pairs(value: Any) -> Any:
    if isinstance(value, str):
        return dict(part.split("=", 1) for part in _split_commas(value) if "=" in part or _no_pair(part))
    return value


def _no_pair(part: str) -> bool:
    raise ValueError(f"must be destination=number, separated by commas, not {part!r}")


def _split_proxies(value: Any) -> Any:
    """As `_split_pairs`, but what is no pair is not repeated: it may hold a password."""
    if isinstance(value, str):
        return {name: address for name, _, address in (part.partition("=") for part in _split_commas(value))}
    return value


def _proxies(value: dict[str, SecretStr]) -> dict[str, SecretStr]:
    if not all(name and _is_proxy(address.get_secret_value()) for name, address in value.items()):
        msg = (
            "must be destination=http://host:port, separated by commas; user and password of a proxy go before its "
            "host, http://user:password@host:port, percent-encoded"
        )
        raise ValueError(msg)
    return value


def _is_proxy(address: str) -> bool:
    """TLS to the proxy itself is left out: the calls that matter have their own, through it."""
    try:
        parts = urlsplit(address)
        whole = parts.scheme == "http" and parts.hostname and parts.port
    except ValueError:
        return False
    return bool(whole) and not any((parts.path.strip("/"), parts.query, parts.fragment))


def _none_if_empty(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _secrets(folder: str, names: Iterable[str]) -> dict[str, Any]:
    """What the files in `folder` hold, by setting; an empty file sets nothing. Raises `SettingsError`."""
    if not folder.strip():
        return {}
    if not Path(folder).is_dir():
        raise SettingsError(f"NX_SECRETS_DIR names no folder: {folder}.")
    values = {}
    for name in names:
        file = Path(folder) / name
        try:
            value = file.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            continue
        except UnicodeDecodeError:
            raise SettingsError(f"{name} cannot be read from {file}: it holds no UTF-8 text.") from None
        except OSError as error:
            raise SettingsError(f"{name} cannot be read from {file}: {error.strerror}.") from None
        if value:
            values[name] = value
    return values


WebAddress = Annotated[str, AfterValidator(_web_address)]
OptionalAddress = Annotated[WebAddress | None, BeforeValidator(_none_if_empty)]
OptionalSecret = Annotated[SecretStr | None, BeforeValidator(_none_if_empty)]
OptionalText = Annotated[str | None, BeforeValidator(_none_if_empty)]
OptionalNumber = Annotated[int | None, BeforeValidator(_none_if_empty)]
OptionalPath = Annotated[Path | None, BeforeValidator(_none_if_empty)]
Numbers = Annotated[list[float], NoDecode, BeforeValidator(_split_commas)]
Windows = Annotated[dict[str, Annotated[int, Field(ge=1)]], NoDecode, BeforeValidator(_split_pairs)]
Intervals = Annotated[dict[str, Annotated[float, Field(ge=0, le=60)]], NoDecode, BeforeValidator(_split_pairs)]
Proxies = Annotated[dict[str, SecretStr], NoDecode, BeforeValidator(_split_proxies), AfterValidator(_proxies)]
Paths = Annotated[list[Path], NoDecode, BeforeValidator(_split_commas)]
Patterns = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]


class Settings(BaseSettings):
    """Every setting, with its default; durations are in seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        str_strip_whitespace=True,  # as what is read from NX_SECRETS_DIR: copying adds line breaks
    )

    # --- the truth and the conveyor belt
    NX_DATABASE_URL: SecretStr = Field(
        default=SecretStr("postgresql://nexus@127.0.0.1:5432/nexus"), description="PostgreSQL, as a libpq URL"
    )
    NX_BROKER_URL: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"), description="Redis, Valkey or RabbitMQ, as Celery reads it"
    )
    NX_RESULT_BACKEND_URL: OptionalSecret = Field(
        default=None, description="where Celery keeps results; a redis:// broker serves as its own when this is not set"
    )

    NX_SECRETS_DIR: OptionalPath = Field(
        default=None, description="folder with files named after settings that hold their values: /run/secrets"
    )

    NX_HEARTBEAT_FILE: OptionalPath = Field(
        default=None, description="a file that a worker touches while it runs and is connected: for health checks"
    )

    # --- files
    NX_INSTRUMENT_DATA_PATH: OptionalPath = Field(default=None, description="root of the microscope files, read only")
    NX_DATA_PATH: Path = Field(default=Path("data"), description="previews, records and logs; shared by all workers")
    NX_RECORDS_PATH: OptionalPath = Field(default=None, description="records; NX_DATA_PATH/records when not set")
    NX_LOG_PATH: OptionalPath = Field(default=None, description="logs; NX_DATA_PATH/logs when not set")
    NX_PLUGINS_PATH: Paths = Field(default=[], description="folders with destination plugins, separated by commas")

    # --- builder
    NX_FILE_STRATEGY: Literal["exclusive", "inclusive"] = Field(
        default="exclusive",
        description="exclusive: only files that a reader knows or that look like data; inclusive: all files",
    )
    NX_IGNORE_PATTERNS: Patterns = Field(
        default=(), description="more files and folders to leave out, by name or path under the root: *.mib,*/tmp/*"
    )
    NX_FILE_QUIET: float = Field(
        default=60,
        ge=0,
        le=86400,
        description="seconds that a file must be left alone, and a session be over, before they count as whole",
    )
    NX_FILE_DELAY_DAYS: float = Field(
        default=2, ge=0, le=365, description="days after a session's end before it is final that it has no files"
    )

    NX_ACTIVITY_RULE: Literal["density", "gap"] = Field(
        default="density",
        description="density: activities end where files get rare, as in NexusLIMS; gap: after a pause",
    )
    NX_CLUSTERING_SENSITIVITY: float = Field(
        default=1, ge=0, le=1000, description="larger makes more activities of a session; 0 makes one"
    )
    NX_SCHEMA_PATH: OptionalPath = Field(
        default=None, description="the XSD for records, where no destination says by which it judges them"
    )
    NX_BUILD_LEASE: float = Field(
        default=900, gt=0, description="seconds without a sign of life after which a builder counts as dead"
    )

    # --- delivery
    NX_EXPORT_STRATEGY: Strategy = Field(default=Strategy.ALL, description="all, first_success or best_effort")
    NX_TRIES: int = Field(default=3, ge=1, le=10, description="tries of one delivery inside one run")
    NX_TRY_BACKOFF: float = Field(
        default=8, gt=0, le=60, description="most seconds before the second try; doubles from try to try, with jitter"
    )
    NX_RETRY_DELAYS: Numbers = Field(
        default=[60, 300, 900, 3600], description="seconds before a later run, by failed runs; the last one repeats"
    )
    NX_MAX_FAILURES: int = Field(
        default=75, ge=1, description="failed attempts after which a delivery fails for good (75 is about 3 days)"
    )
    NX_KEEP_RUNS_DAYS: int = Field(
        default=90, ge=1, le=36500, description="days that closed runs and attempts are kept; the upload log stays"
    )
    NX_KEEP_ARCHIVED_DAYS: Annotated[int | None, Field(ge=1, le=36500), BeforeValidator(_none_if_empty)] = Field(
        default=None,
        description="days that documents of records which every destination holds are kept; for ever when not set",
    )
    NX_DISPATCH_INTERVAL: float = Field(default=5, gt=0, description="seconds between two dispatches by beat")
    NX_WINDOWS: Windows = Field(
        default={},
        description="records on their way to a destination at once, where not the plugin's: elabftw=4,cdcs=8",
    )
    NX_INTERVALS: Intervals = Field(
        default={},
        description="least seconds from call to call, over all workers, where not the plugin's: labarchives=1",
    )
    NX_LEASE_MARGIN: float = Field(
        default=30, gt=0, description="seconds that a worker's lease on a delivery outlasts the deadline of a call"
    )
    NX_LOOKUP_GRACE: float = Field(
        default=30, ge=0, description="seconds after a call's deadline in which its object may still appear over there"
    )
    NX_RUN_PATIENCE: float = Field(default=120, gt=0, description="seconds without any event after which a run is lost")
    NX_PAUSE_AFTER: int = Field(default=5, ge=1, description="records failing in a row that pause a destination")
    NX_PAUSE_FIRST: float = Field(default=30, gt=0, description="seconds of a destination's first pause; it doubles")
    NX_PAUSE_LONGEST: float = Field(default=600, gt=0, description="seconds of its longest pause")

    # --- HTTP
    NX_CONNECT_TIMEOUT: float = Field(default=5, gt=0, description="seconds to reach a service")
    NX_CALL_DEADLINE: float = Field(default=60, gt=0, description="seconds that one call may take in all")
    NX_CA_BUNDLE: OptionalPath = Field(default=None, description="certificates to trust, instead of the system's")
    NX_PROXIES: Proxies = Field(
        default={}, description="proxies to call services through: labarchives=http://proxy.example.org:3128"
    )

    # --- CDCS
    NX_CDCS_URL: OptionalAddress = Field(default=None, description="CDCS's address")
    NX_CDCS_TOKEN: OptionalSecret = Field(default=None, description="the token of the user that owns the records")
    NX_CDCS_TEMPLATE_TITLE: str = Field(default="Nexus Experiment Schema", description="the template records belong to")
    NX_CDCS_WORKSPACE_TITLE: str = Field(default="Global Public Workspace", description="the workspace records go to")
    NX_CDCS_ASSIGN_TO_PUBLIC_WORKSPACE: bool = Field(
        default=True, description="no: records go to no workspace, and only the token's user sees them"
    )
    NX_CDCS_USER_OWNED_RECORDS: bool = Field(
        default=False, description="yes: records are given to the session's user; needs an administrator's token"
    )

    # --- eLabFTW
    NX_ELABFTW_URL: OptionalAddress = Field(default=None, description="eLabFTW's address, without /api")
    NX_ELABFTW_API_KEY: OptionalSecret = Field(
        default=None, description="a key that may write, of the team that gets the experiments"
    )
    NX_ELABFTW_EXPERIMENT_CATEGORY: OptionalNumber = Field(
        default=None, description="number of the category that experiments get"
    )
    NX_ELABFTW_EXPERIMENT_STATUS: OptionalNumber = Field(
        default=None, description="number of the status that experiments get"
    )

    # --- LabArchives
    NX_LABARCHIVES_URL: OptionalAddress = Field(
        default=None, description="the address of the API of your region, with or without /api"
    )
    NX_LABARCHIVES_ACCESS_KEY_ID: OptionalText = Field(default=None, description="the access key's id (akid)")
    NX_LABARCHIVES_ACCESS_PASSWORD: OptionalSecret = Field(
        default=None, description="the access key's password; signs every call"
    )
    NX_LABARCHIVES_USER_ID: OptionalSecret = Field(
        default=None, description="the uid; whoever holds it acts as its user"
    )
    NX_LABARCHIVES_NOTEBOOK_ID: OptionalText = Field(default=None, description="without it, records go to the Inbox")

    # --- archive
    NX_ARCHIVE_URL: OptionalText = Field(
        default=None, description="a folder or object store that keeps a copy of each record: file:///…, s3://bucket/…"
    )
    NX_ARCHIVE_OPTIONS: OptionalSecret = Field(
        default=None, description="what fsspec needs to open it, as JSON: keys and an endpoint for s3://"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's, which says nothing when it fails
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Where values come from, the strongest first: arguments, the environment, `.env`, files of NX_SECRETS_DIR.

        A variable that is there and empty stands for the default, whatever `.env` says: so a sandbox shuts it out.
        """
        dotenv = {name: value for name, value in dotenv_settings().items() if name not in os.environ}
        named = {**dotenv, **env_settings(), **init_settings()}
        files = _secrets(str(named.get("NX_SECRETS_DIR") or ""), cls.model_fields)
        return init_settings, env_settings, *(InitSettingsSource(settings_cls, values) for values in (dotenv, files))

    @field_validator("NX_DATABASE_URL")
    @classmethod
    def _postgresql_only(cls, value: SecretStr) -> SecretStr:
        if _parts(value.get_secret_value()).scheme not in {"postgresql", "postgresql+psycopg"}:
            msg = "must start with postgresql://"
            raise ValueError(msg)
        return value

    @field_validator("NX_BROKER_URL", "NX_RESULT_BACKEND_URL")
    @classmethod
    def _broker_scheme(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None:
            return None
        known = {"redis", "rediss"}
        # rpc:// keeps no results for chords; sentinel:// needs the name of a master, which no address can carry
        known |= {"amqp", "amqps"} if info.field_name == "NX_BROKER_URL" else {"db+postgresql+psycopg"}
        if _parts(value.get_secret_value()).scheme not in known:
            msg = f"must start with one of {', '.join(sorted(scheme + '://' for scheme in known))}"
            raise ValueError(msg)
        return value

    @field_validator("NX_ARCHIVE_URL")
    @classmethod
    def _no_credentials(cls, value: str | None) -> str | None:
        address = value or ""
        host = address.partition("://")[2].partition("/")[0]
        if "@" in address or ":" in host:  # a secret key may hold a slash, which ends the host: its colon is left
            msg = "must not hold keys, user name or password: put them into NX_ARCHIVE_OPTIONS"
            raise ValueError(msg)
        return value

    @field_validator("NX_RETRY_DELAYS")
    @classmethod
    def _some_delays(cls, value: list[float]) -> list[float]:
        if not value or min(value) < 0:
            msg = "must be one or more numbers of seconds, separated by commas"
            raise ValueError(msg)
        return value

    @property
    def database_url(self) -> str:
        """The database."""
        return self.NX_DATABASE_URL.get_secret_value()

    @property
    def broker_url(self) -> str:
        """The broker for Celery."""
        return self.NX_BROKER_URL.get_secret_value()

    @property
    def result_backend_url(self) -> str:
        """The result backend for Celery: the broker itself, unless named or a broker that cannot be one."""
        if self.NX_RESULT_BACKEND_URL is not None:
            return self.NX_RESULT_BACKEND_URL.get_secret_value()
        if urlsplit(self.broker_url).scheme.startswith("amqp"):
            raise SettingsError(
                "NX_RESULT_BACKEND_URL is missing: a RabbitMQ broker keeps no results, name a redis:// address."
            )
        return self.broker_url

    @property
    def records_path(self) -> Path:
        """Where record documents are kept."""
        return self.NX_RECORDS_PATH or self.NX_DATA_PATH / "records"

    @property
    def previews_path(self) -> Path:
        """Where preview pictures are kept, in folders like those of the instrument data."""
        return self.NX_DATA_PATH / "previews"

    @property
    def log_path(self) -> Path:
        """Where log files are written."""
        return self.NX_LOG_PATH or self.NX_DATA_PATH / "logs"


def load_settings(**overrides: Any) -> Settings:
    """Read the environment and `.env`; `overrides` win over both.

    Raises `SettingsError`, one sentence for each setting that is wrong, without the value (it may be a secret).
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        sentences = [
            f"{'.'.join(str(part) for part in item['loc'][:1])} {item['msg'].removeprefix('Value error, ')}."
            for item in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsError("\n".join(sentences)) from None


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once; `get_settings.cache_clear()` reads them again."""
    return load_settings()


def __getattr__(name: str) -> Any:
    if name == "settings":
        return get_settings()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
