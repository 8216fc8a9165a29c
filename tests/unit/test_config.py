# ruff: noqa: SIM300 - the names of settings are upper case, but they are no constants
import importlib
import os
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from nexus_tasks import config
from nexus_tasks.config import Settings, SettingsError, get_settings, load_settings
from nexus_tasks.states import Strategy

SECRETS = {
    "NX_DATABASE_URL": "postgresql://nexus:s3cret-database@127.0.0.1/nexus",
    "NX_BROKER_URL": "redis://:s3cret-broker@127.0.0.1:6379/0",
    "NX_RESULT_BACKEND_URL": "redis://:s3cret-results@127.0.0.1:6379/1",
    "NX_CDCS_TOKEN": "s3cret-cdcs",
    "NX_ELABFTW_API_KEY": "s3cret-elabftw",
    "NX_LABARCHIVES_ACCESS_PASSWORD": "s3cret-labarchives",
    "NX_LABARCHIVES_USER_ID": "s3cret-uid",
}
SERVICES = ("NX_CDCS_URL", "NX_ELABFTW_URL", "NX_LABARCHIVES_URL")

SetAll = Callable[..., None]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SetAll]:
    """Set NX_* for this test, in an empty working directory; what the machine has set does not count."""
    for name in [name for name in os.environ if name.startswith("NX_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def set_all(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()

    set_all()
    yield set_all
    monkeypatch.undo()
    get_settings.cache_clear()


def refusal_of(**values: str) -> str:
    with pytest.raises(SettingsError) as refused:
        load_settings(**values)
    return str(refused.value)


def complaint() -> str:
    """What is said about the environment; nothing when it is fine."""
    try:
        get_settings()
    except SettingsError as error:
        return str(error)
    return ""


def test_settings_are_read_from_the_environment(configure: SetAll) -> None:
    configure(
        NX_CDCS_URL="https://cdcs.example.org",
        NX_CDCS_TOKEN="abc",
        NX_ELABFTW_EXPERIMENT_CATEGORY="3",
        NX_LOG_PATH="/var/log/nexus",
        NX_RETRY_DELAYS="1, 2.5,10",
        NX_PLUGINS_PATH="/opt/one,/opt/two",
    )
    settings = get_settings()
    assert settings.NX_CDCS_URL == "https://cdcs.example.org"
    assert settings.NX_CDCS_TOKEN == SecretStr("abc")
    assert settings.NX_ELABFTW_EXPERIMENT_CATEGORY == 3
    assert settings.log_path == Path("/var/log/nexus")
    assert settings.NX_RETRY_DELAYS == [1, 2.5, 10]
    assert settings.NX_PLUGINS_PATH == [Path("/opt/one"), Path("/opt/two")]


def test_settings_are_read_from_a_env_file_in_the_working_directory(configure: SetAll, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "# NexusLIMS\nNX_CDCS_URL='https://cdcs.example.org'\nNX_CDCS_TOKEN=abc\nNX_EXPORT_STRATEGY=best_effort\n"
        "NX_CLUSTER_CONFIG=not ours\nPATH_OF_OTHERS=1\n"
    )
    settings = get_settings()
    assert settings.NX_CDCS_URL == "https://cdcs.example.org"
    assert settings.NX_CDCS_TOKEN == SecretStr("abc")
    assert settings.NX_EXPORT_STRATEGY is Strategy.BEST_EFFORT


def test_the_environment_wins_over_the_env_file(configure: SetAll, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("NX_CDCS_URL=https://file.example.org\n")
    configure(NX_CDCS_URL="https://environment.example.org")
    assert get_settings().NX_CDCS_URL == "https://environment.example.org"


@pytest.mark.parametrize("empty", ["", "  "])
def test_a_variable_that_is_set_and_empty_wins_over_the_env_file_too(
    configure: SetAll, tmp_path: Path, empty: str
) -> None:
    (tmp_path / ".env").write_text("NX_ARCHIVE_URL=s3://records-of-the-lab\nNX_SECRETS_DIR=/run/secrets-of-the-lab\n")
    configure(NX_ARCHIVE_URL=empty, NX_SECRETS_DIR=empty)
    assert get_settings().NX_ARCHIVE_URL is None
    assert get_settings().NX_SECRETS_DIR is None


def test_nothing_has_to_be_set(configure: SetAll) -> None:
    settings = get_settings()
    assert settings.NX_EXPORT_STRATEGY is Strategy.ALL
    assert settings.NX_CDCS_URL is None
    assert settings.NX_CDCS_TOKEN is None
    assert settings.NX_PLUGINS_PATH == []


def test_the_snippet_of_the_documentation_prints_the_addresses(
    configure: SetAll, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(NX_CDCS_URL="https://cdcs.example.org", NX_ELABFTW_URL="https://elabftw.example.org")
    snippet = tmp_path / "snippet.py"
    snippet.write_text(
        "from nexus_tasks.config import settings\n"
        'print(f"CDCS URL: {settings.NX_CDCS_URL}")\n'
        'print(f"eLabFTW URL: {settings.NX_ELABFTW_URL}")\n'
    )
    runpy.run_path(str(snippet))
    printed = capsys.readouterr().out
    assert printed == "CDCS URL: https://cdcs.example.org\neLabFTW URL: https://elabftw.example.org\n"


def test_settings_of_the_module_are_those_of_the_process(configure: SetAll) -> None:
    assert config.settings is get_settings()
    assert importlib.import_module("nexus_tasks.config").settings is get_settings()


def test_the_module_has_no_other_attribute_that_it_makes_up() -> None:
    assert not hasattr(config, "no_such_setting")


def test_settings_are_read_once_and_do_not_change(configure: SetAll, monkeypatch: pytest.MonkeyPatch) -> None:
    before = get_settings()
    monkeypatch.setenv("NX_CDCS_URL", "https://later.example.org")
    assert get_settings() is before
    with pytest.raises(ValidationError, match="frozen"):
        before.NX_CDCS_URL = "https://changed.example.org"


def test_overrides_win_over_the_environment(configure: SetAll) -> None:
    configure(NX_EXPORT_STRATEGY="best_effort")
    assert load_settings(NX_EXPORT_STRATEGY="first_success").NX_EXPORT_STRATEGY is Strategy.FIRST_SUCCESS


@pytest.mark.parametrize("value", ["all", "first_success", "best_effort"])
def test_the_strategies_of_the_documentation_are_known(configure: SetAll, value: str) -> None:
    configure(NX_EXPORT_STRATEGY=value)
    assert get_settings().NX_EXPORT_STRATEGY == value


def test_another_strategy_is_refused_with_the_ones_there_are(configure: SetAll) -> None:
    configure(NX_EXPORT_STRATEGY="whatever")
    with pytest.raises(SettingsError) as refused:
        get_settings()
    message = str(refused.value)
    assert message.startswith("NX_EXPORT_STRATEGY ")
    assert all(strategy in message for strategy in Strategy)
    assert "whatever" not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NX_CDCS_URL", "cdcs-of-the-lab"),
        ("NX_ELABFTW_URL", "ftp://elabftw-of-the-lab"),
        ("NX_LABARCHIVES_URL", "https:///labarchives-of-the-lab"),
        ("NX_ELABFTW_EXPERIMENT_CATEGORY", "microscopy-of-the-lab"),
        ("NX_DATABASE_URL", "mysql://nexus:of-the-lab@127.0.0.1/nexus"),
        ("NX_DATABASE_URL", "host=127.0.0.1 password=of-the-lab"),
        ("NX_BROKER_URL", "https://guest:of-the-lab@127.0.0.1"),
        ("NX_BROKER_URL", "sentinel://:of-the-lab@127.0.0.1:26379"),
        ("NX_RESULT_BACKEND_URL", "amqp://guest:of-the-lab@127.0.0.1"),
        ("NX_RESULT_BACKEND_URL", "rpc://guest:of-the-lab@127.0.0.1"),
        ("NX_RETRY_DELAYS", "of-the-lab"),
        ("NX_RETRY_DELAYS", "60,-1"),
        ("NX_TRIES", "0"),
        ("NX_MAX_FAILURES", "of-the-lab"),
        ("NX_CALL_DEADLINE", "-60"),
        ("NX_PROXIES", "of-the-lab"),
        ("NX_PROXIES", "http://jo:of-the-lab@proxy:3128"),
        ("NX_PROXIES", "labarchives=http://jo:of-the-lab@proxy"),
        ("NX_PROXIES", "labarchives=https://jo:of-the-lab@proxy:3128"),
        ("NX_PROXIES", "labarchives=http://jo:of-the-lab[@proxy:3128"),
        ("NX_PROXIES", "labarchives=http://jo:of-the-lab#@proxy:3128,cdcs=http://proxy:of-the-lab"),
        ("NX_PROXIES", "=http://jo:of-the-lab@proxy:3128"),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_it_and_hides_its_value(
    configure: SetAll, name: str, value: str
) -> None:
    configure(**{name: value})
    with pytest.raises(SettingsError) as refused:
        get_settings()
    message = str(refused.value)
    assert message.startswith(f"{name} ")
    assert message.endswith(".")
    assert "\n" not in message
    assert "of-the-lab" not in message
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


@pytest.mark.parametrize(
    "password",
    [
        "pass[s3cret]word",  # Python takes what stands in brackets for an IPv6 address, and repeats it
        "s3cret\N{ACCOUNT OF}",  # Python normalises the address, and repeats it
        "pass[s3cret",
        "s3cret%zz",
        "s3cret:/?#",
    ],
)
@pytest.mark.parametrize(
    ("name", "scheme"), [("NX_DATABASE_URL", "postgresql"), ("NX_BROKER_URL", "redis"), ("NX_CDCS_URL", "https")]
)
def test_a_password_that_breaks_an_address_is_not_repeated(
    configure: SetAll, name: str, scheme: str, password: str
) -> None:
    configure(**{name: f"{scheme}://nexus:{password}@127.0.0.1/nexus"})
    message = complaint()
    assert "s3cret" not in message
    assert all(line.startswith(f"{name} ") for line in message.splitlines())


def test_each_wrong_setting_has_its_own_line(configure: SetAll) -> None:
    message = refusal_of(NX_CDCS_URL="nowhere", NX_TRIES="many", NX_BROKER_URL="carrier-pigeon://")
    assert sorted(line.split()[0] for line in message.splitlines()) == ["NX_BROKER_URL", "NX_CDCS_URL", "NX_TRIES"]


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize(
    "address", ["https://user:s3cret@example.org", "https://s3cret@example.org", "https://:s3cret@example.org"]
)
def test_the_address_of_a_service_holds_no_password(configure: SetAll, name: str, address: str) -> None:
    message = refusal_of(**{name: address})
    assert message == f"{name} must not hold a user name or password."


@pytest.mark.parametrize(
    "address",
    [
        "s3://key:s3cret@bucket/records",
        "s3://key:s3cret/with/slashes@bucket/records",
        "s3://key:s3cret/without/bucket",
        "s3://key:s3[cret@bucket",
        "s3://s3cret@bucket",
    ],
)
def test_the_address_of_the_archive_holds_no_keys(configure: SetAll, address: str) -> None:
    message = refusal_of(NX_ARCHIVE_URL=address)
    assert message == "NX_ARCHIVE_URL must not hold keys, user name or password: put them into NX_ARCHIVE_OPTIONS."


@pytest.mark.parametrize("address", ["file:///srv/nexus/archive", "s3://bucket/2026:records", "", "s3://[bucket"])
def test_another_address_of_the_archive_is_left_to_it(configure: SetAll, address: str) -> None:
    assert load_settings(NX_ARCHIVE_URL=address).NX_ARCHIVE_URL == (address or None)


@pytest.mark.parametrize("name", SERVICES)
def test_a_slash_at_the_end_of_an_address_makes_no_difference(configure: SetAll, name: str) -> None:
    assert getattr(load_settings(**{name: "https://example.org/nexus/"}), name) == "https://example.org/nexus"


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_never_shows(configure: SetAll, name: str) -> None:
    configure(**{name: SECRETS[name]})
    settings = get_settings()
    shown = [
        repr(settings),
        str(settings),
        settings.model_dump_json(),
        str(settings.model_dump()),
        repr(getattr(settings, name)),
        f"{getattr(settings, name)}",
    ]
    assert not [text for text in shown if "s3cret" in text]
    assert getattr(settings, name).get_secret_value() == SECRETS[name]


def test_a_secret_does_not_show_when_another_setting_is_wrong(configure: SetAll) -> None:
    configure(**SECRETS, NX_CDCS_URL="nowhere")
    with pytest.raises(SettingsError) as refused:
        get_settings()
    assert "s3cret" not in str(refused.value)


def test_a_proxy_is_named_for_each_destination_and_does_not_show(configure: SetAll) -> None:
    configure(NX_PROXIES="labarchives=http://jo:s3cr%2Ct@proxy.example.org:3128/, cdcs=http://[::1]:8080")
    proxies = get_settings().NX_PROXIES
    assert {name: proxy.get_secret_value() for name, proxy in proxies.items()} == {
        "labarchives": "http://jo:s3cr%2Ct@proxy.example.org:3128/",
        "cdcs": "http://[::1]:8080",
    }
    shown = f"{get_settings()!r} {proxies} {get_settings().model_dump()} {get_settings().model_dump_json()}"
    assert "s3cr" not in shown
    assert "labarchives" in str(proxies)


def test_results_go_to_a_redis_broker_unless_another_place_is_named(configure: SetAll) -> None:
    assert load_settings(NX_BROKER_URL="redis://valkey:6379/3").result_backend_url == "redis://valkey:6379/3"
    elsewhere = load_settings(NX_BROKER_URL="redis://valkey/3", NX_RESULT_BACKEND_URL="redis://valkey/4")
    assert elsewhere.result_backend_url == "redis://valkey/4"


@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_a_rabbitmq_broker_needs_a_result_backend(configure: SetAll, scheme: str) -> None:
    settings = load_settings(NX_BROKER_URL=f"{scheme}://guest:s3cret@rabbitmq//")
    with pytest.raises(SettingsError, match=r"^NX_RESULT_BACKEND_URL is missing: .*\.$") as refused:
        _ = settings.result_backend_url
    assert "s3cret" not in str(refused.value)
    with_results = load_settings(NX_BROKER_URL=f"{scheme}://rabbitmq//", NX_RESULT_BACKEND_URL="redis://valkey/0")
    assert with_results.result_backend_url == "redis://valkey/0"


@pytest.mark.parametrize("empty", ["", "  "])
@pytest.mark.parametrize(
    "name",
    [
        "NX_CDCS_URL",
        "NX_CDCS_TOKEN",
        "NX_ELABFTW_URL",
        "NX_ELABFTW_API_KEY",
        "NX_ELABFTW_EXPERIMENT_CATEGORY",
        "NX_ELABFTW_EXPERIMENT_STATUS",
        "NX_LABARCHIVES_URL",
        "NX_LABARCHIVES_ACCESS_KEY_ID",
        "NX_LABARCHIVES_ACCESS_PASSWORD",
        "NX_LABARCHIVES_USER_ID",
        "NX_LABARCHIVES_NOTEBOOK_ID",
        "NX_RESULT_BACKEND_URL",
        "NX_RECORDS_PATH",
        "NX_LOG_PATH",
        "NX_INSTRUMENT_DATA_PATH",
        "NX_CA_BUNDLE",
    ],
)
def test_an_empty_optional_setting_counts_as_not_set(configure: SetAll, name: str, empty: str) -> None:
    configure(**{name: empty})
    assert getattr(get_settings(), name) is None


@pytest.mark.parametrize("name", Settings.model_fields)
def test_an_empty_setting_has_its_default(configure: SetAll, name: str) -> None:
    configure(**{name: ""})
    assert getattr(get_settings(), name) == Settings.model_fields[name].default


@pytest.mark.parametrize("name", SECRETS)
def test_white_space_around_a_secret_is_not_part_of_it(configure: SetAll, name: str) -> None:
    configure(**{name: f" {SECRETS[name]}\r\n"})
    assert getattr(get_settings(), name).get_secret_value() == SECRETS[name]


def test_white_space_around_an_address_and_a_text_is_not_part_of_it(configure: SetAll) -> None:
    configure(NX_CDCS_URL="https://cdcs.example.org/\n", NX_LABARCHIVES_ACCESS_KEY_ID=" akid\t")
    assert get_settings().NX_CDCS_URL == "https://cdcs.example.org"
    assert get_settings().NX_LABARCHIVES_ACCESS_KEY_ID == "akid"


def test_folders_are_under_the_data_path_unless_named(configure: SetAll) -> None:
    settings = load_settings(NX_DATA_PATH="/srv/nexus")
    assert settings.records_path == Path("/srv/nexus/records")
    assert settings.log_path == Path("/srv/nexus/logs")
    assert settings.previews_path == Path("/srv/nexus/previews")
    named = load_settings(NX_DATA_PATH="/srv/nexus", NX_RECORDS_PATH="/srv/records", NX_LOG_PATH="/var/log/nexus")
    assert named.records_path == Path("/srv/records")
    assert named.log_path == Path("/var/log/nexus")


def test_every_setting_has_a_name_that_begins_with_nx() -> None:
    assert all(name.startswith("NX_") for name in Settings.model_fields)


def test_the_builder_takes_what_it_knows_and_waits_for_what_is_new(configure: SetAll) -> None:
    settings = load_settings()
    assert (settings.NX_FILE_STRATEGY, settings.NX_IGNORE_PATTERNS) == ("exclusive", ())
    assert (settings.NX_FILE_QUIET, settings.NX_FILE_DELAY_DAYS) == (60, 2)

    configure(NX_FILE_STRATEGY="inclusive", NX_IGNORE_PATTERNS=" *.mib, */tmp/* ,")
    settings = load_settings()
    assert settings.NX_FILE_STRATEGY == "inclusive"
    assert settings.NX_IGNORE_PATTERNS == ("*.mib", "*/tmp/*")
    assert "NX_FILE_STRATEGY" in refusal_of(NX_FILE_STRATEGY="all")
    assert "NX_FILE_QUIET" in refusal_of(NX_FILE_QUIET="-1")


# --- secrets in files


def secret(folder: Path, name: str, value: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(value, encoding="utf-8")
    return folder


def test_secrets_are_read_from_files_named_after_their_settings(configure: SetAll, tmp_path: Path) -> None:
    for name, value in SECRETS.items():
        secret(tmp_path / "secrets", name, f"{value}\n")
    configure(NX_SECRETS_DIR=str(tmp_path / "secrets"))
    assert {name: getattr(get_settings(), name).get_secret_value() for name in SECRETS} == SECRETS


def test_the_folder_with_secrets_can_stand_in_the_env_file(configure: SetAll, tmp_path: Path) -> None:
    secret(tmp_path / "secrets", "NX_CDCS_TOKEN", "from-file")
    (tmp_path / ".env").write_text("NX_SECRETS_DIR=secrets\n", encoding="utf-8")
    assert get_settings().NX_CDCS_TOKEN == SecretStr("from-file")


def test_the_environment_wins_over_a_file_and_an_empty_file_sets_nothing(configure: SetAll, tmp_path: Path) -> None:
    secret(tmp_path / "secrets", "NX_CDCS_TOKEN", "from-file")
    secret(tmp_path / "secrets", "NX_DATABASE_URL", "\n")
    configure(NX_SECRETS_DIR=str(tmp_path / "secrets"), NX_CDCS_TOKEN="from-environment")
    assert get_settings().NX_CDCS_TOKEN == SecretStr("from-environment")
    assert get_settings().NX_DATABASE_URL == Settings.model_fields["NX_DATABASE_URL"].default


@pytest.mark.parametrize("hindrance", ["a folder", "not text"])
def test_a_secret_that_cannot_be_read_is_said_in_one_line(configure: SetAll, tmp_path: Path, hindrance: str) -> None:
    folder = tmp_path / "secrets"
    (folder / "NX_CDCS_TOKEN").mkdir(parents=True) if hindrance == "a folder" else folder.mkdir()
    if hindrance == "not text":
        (folder / "NX_CDCS_TOKEN").write_bytes(b"s3cret\xff")
    configure(NX_SECRETS_DIR=str(folder))
    said = complaint()
    assert said.startswith(f"NX_CDCS_TOKEN cannot be read from {folder / 'NX_CDCS_TOKEN'}: ")
    assert "\n" not in said
    assert "s3cret" not in said


def test_a_folder_with_secrets_that_is_not_there_is_said(configure: SetAll) -> None:
    configure(NX_SECRETS_DIR="/nowhere/secrets")
    assert complaint() == "NX_SECRETS_DIR names no folder: /nowhere/secrets."


def test_a_wrong_secret_is_said_without_its_value(configure: SetAll, tmp_path: Path) -> None:
    configure(NX_SECRETS_DIR=str(secret(tmp_path / "secrets", "NX_BROKER_URL", "http://:s3cret@broker")))
    assert complaint().startswith("NX_BROKER_URL must start with one of amqp://")
    assert "s3cret" not in complaint()
