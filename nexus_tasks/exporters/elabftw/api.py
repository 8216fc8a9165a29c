"""The calls of eLabFTW's REST interface v2 that an export or a check makes; used by `export`.

Each returns what the answer names, or raises what the refusal means. eLabFTW answers 401 both for a bad key and for an
experiment that is locked or belongs to others: a call that has nothing to do with the experiment tells which.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from nexus_tasks.exporters.base import ConfigurationError, ExportError, PermanentError, TransientError
from nexus_tasks.exporters.gone import GoneError, PartGoneError
from nexus_tasks.exporters.http import open_session
from nexus_tasks.exporters.http_body import Body
from nexus_tasks.exporters.http_failures import Answer, Service, refusal, wrong_address

SESSION_FIELD = "Session ID"  # the extra field by which an experiment is found
PAGE = 50  # experiments in one answer; without a limit there are 15
MOST_PAGES = 40
LONGEST_SEARCH = 100  # characters of an identifier in a search: an address of more than 8 kB is refused on the way
OLDEST = 50000  # elabftw_version_int of the oldest release that this is written for
NORMAL = 1  # the state of what is neither archived (2) nor deleted (3)

_Json = TypeVar("_Json", dict[str, Any], list[Any])

_SERVICE = Service("eLabFTW", "NX_ELABFTW_URL", "NX_ELABFTW_API_KEY and the rights of its user", "elabftw")
# In a search `%` is any text. It stands for what could end the quotes or is escaped by one side only.
_NOT_FOR_A_SEARCH = re.compile(r"""["'\\%\x00-\x1f\x7f]+""")


class ExperimentRefusedError(PermanentError):
    """eLabFTW refused to make an experiment, perhaps after it had made it: a tag is refused last."""


@dataclass(frozen=True)
class Upload:
    """A file attached to an experiment."""

    identifier: str
    name: str
    comment: str
    sha256: str | None  # None for very large files


@dataclass(frozen=True)
class User:
    """Whose key it is, in which team."""

    name: str
    team: str


class ELabFTWApi:
    """Calls to one eLabFTW with one key; made for one export or one round of checks."""

    def __init__(self, url: str, key: str) -> None:
        self._key_id = key.partition("-")[0]
        self._session = open_session(_SERVICE, url, headers={"Authorization": key}, secrets=(key,))

    def version(self) -> int | None:
        """`elabftw_version_int`, such as 50311, or None where it does not say."""
        answer = self._session.call("GET", "api/v2/info")
        if answer.status == 404:
            raise wrong_address(answer)
        if answer.status != 200:
            raise refusal(answer)
        return _version_in(answer)

    def info(self) -> Answer:
        """The answer of a server that is an eLabFTW, whether it lets us in or not, and is not too old."""
        answer = self._session.call("GET", "api/v2/info")
        if answer.status == 404 or (answer.status == 200 and not answer.is_json):
            raise wrong_address(answer)
        if not (answer.status in {401, 403} and answer.is_json):
            if answer.status != 200:
                raise refusal(answer)
            version = _version_in(answer)
            if version is None:
                raise wrong_address(answer)
            if version < OLDEST:
                raise ConfigurationError(
                    f"This eLabFTW is release {release_of(answer)}: nexus-tasks needs 5.0 or newer. Have it updated."
                )
        return answer

    def user(self) -> User:
        """Whose key it is; the team is "" where eLabFTW does not tell."""
        told = self._read("api/v2/users/me", dict)
        teams = told.get("teams")
        named = {
            str(team.get("id")): str(team.get("name"))
            for team in (teams if isinstance(teams, list) else [])
            if isinstance(team, dict)
        }
        return User(str(told.get("fullname") or f"user {told.get('userid')}"), named.get(str(told.get("team")), ""))

    def forces_templates(self) -> bool:
        """Whether the key's team makes experiments from templates only; False where eLabFTW does not tell."""
        answer = self._session.call("GET", "api/v2/teams/current")
        if answer.status != 200:
            meaning = refusal(answer)
            if isinstance(meaning, TransientError):
                raise meaning
            return False
        team = answer.json()
        return isinstance(team, dict) and str(team.get("force_exp_tpl")) == "1"

    def titles(self, kind: str) -> dict[int, str]:
        """What the key's team has of a kind, `experiments_categories` or `experiments_status`, by id."""
        listed = self._read(f"api/v2/teams/current/{kind}", list)
        return {int(each["id"]): str(each.get("title")) for each in listed if isinstance(each, dict) and "id" in each}

    def may_write(self) -> bool | None:
        """Whether the key may change anything; None where eLabFTW does not tell."""
        for key in self._read("api/v2/apikeys", list):
            if isinstance(key, dict) and str(key.get("id")) == self._key_id and "can_write" in key:
                return bool(int(key["can_write"]))
        return None

    def create(self, experiment: dict[str, Any], body: Body) -> str:
        """The id of a new experiment; raises `ExperimentRefusedError` for a 400. `body` is its JSON."""
        answer = self._session.call("POST", "api/v2/experiments", data=body)
        if answer.status == 201:
            return _created_id(answer)
        if (
            answer.status >= 500
            and "foreign key constraint" in answer.text
            and {"category", "status"} & set(experiment)
        ):
            raise ConfigurationError(
                "eLabFTW does not know the category or the status that it was given: check "
                "NX_ELABFTW_EXPERIMENT_CATEGORY and NX_ELABFTW_EXPERIMENT_STATUS."
            )
        if self._only_this_is_refused(answer):
            said = f" It says: {answer.message}" if answer.message else ""
            raise PermanentError(
                f"eLabFTW takes the key, but does not let us make this experiment ({answer.status}): does something on "
                f"the way to it, such as a proxy, refuse the summary?{said}"
            )
        meaning = _meaning(answer)
        if answer.status == 400 and isinstance(meaning, PermanentError):
            raise ExperimentRefusedError(str(meaning))
        raise meaning

    def with_session(self, session_identifier: str) -> list[dict[str, Any]]:
        """The live experiments whose field `Session ID` is this one, character by character, the oldest first."""
        wanted = f'extrafield:s:"{SESSION_FIELD}":"{_searchable(session_identifier)}"'
        return [found for found in self._search("extended", wanted) if session_of(found) == session_identifier]

    def with_title(self, title: str) -> list[dict[str, Any]]:
        """The live experiments with this title, character by character, the oldest first."""
        return [found for found in self._search("q", _searchable(title)) if found.get("title") == title]

    def read(self, experiment_id: str) -> dict[str, Any]:
        """The whole experiment; raises `GoneError` also for one that was archived or deleted."""
        answer = self._session.call("GET", f"api/v2/experiments/{experiment_id}")
        if answer.status != 200:
            raise self._refusal(answer, experiment_id)
        experiment = answer.json()
        if not isinstance(experiment, dict):
            raise TransientError(f"eLabFTW answered with something that is no experiment ({answer.call}).")
        if experiment.get("state", NORMAL) != NORMAL:
            raise _gone(answer, experiment_id)
        return experiment

    def change(self, experiment_id: str, values: dict[str, Any]) -> None:
        """Change an experiment in place; `metadata` must be a JSON text here."""
        answer = self._session.call("PATCH", f"api/v2/experiments/{experiment_id}", json=values)
        if answer.status != 200:
            raise self._refusal(answer, experiment_id)

    def uploads(self, experiment_id: str) -> list[Upload]:
        """The files that are attached now, the oldest first."""
        answer = self._session.call("GET", f"api/v2/experiments/{experiment_id}/uploads")
        if answer.status != 200:
            raise self._refusal(answer, experiment_id)
        return [
            Upload(
                str(found["id"]),
                str(found.get("real_name")),
                str(found.get("comment") or ""),
                found.get("hash") or None,
            )
            for found in _oldest_first(answer)
        ]

    def attach(
        self, experiment_id: str, name: str, content: bytes, comment: str, *, instead_of: str | None = None
    ) -> str:
        """The id of a new file at an experiment; the one that it comes `instead_of` is archived.

        Replacing one that was deleted makes it anew, and one that was archived comes back: so it is looked at first,
        which takes another call. A replacement loses its comment in eLabFTW.
        """
        if instead_of is not None and all(each.identifier != instead_of for each in self.uploads(experiment_id)):
            raise PartGoneError(
                f"The file that was attached to experiment {experiment_id} (upload {instead_of}) is not there any more "
                "in eLabFTW: it was deleted or archived."
            )
        path = f"api/v2/experiments/{experiment_id}/uploads" + (f"/{instead_of}" if instead_of else "")
        answer = self._session.call(
            "POST", path, files={"file": (name, content, "application/xml")}, data={"comment": comment}
        )
        if answer.status != 201:
            raise self._refusal(answer, experiment_id)
        return _created_id(answer)

    def _read(self, path: str, kind: type[_Json]) -> _Json:
        """The JSON of a reading call that every user may make."""
        answer = self._session.call("GET", path)
        if answer.status != 200:
            raise _meaning(answer)
        told = answer.json()
        if not isinstance(told, kind):
            raise TransientError(f"eLabFTW answered with something that was not expected ({answer.call}).")
        return told

    def _search(self, kind: str, wanted: str) -> list[dict[str, Any]]:
        """All that the key's user can read and that a search finds, the oldest first.

        What people have archived is left out, as eLabFTW leaves out what they have deleted. An export that remembers
        either does not make it again; one that does not, as after `retry --recreate`, shall find only what is in use.
        """
        found: list[dict[str, Any]] = []
        for page in range(MOST_PAGES):
            window = {"limit": str(PAGE), "offset": str(page * PAGE)}
            parameters = {"scope": "3", "state": str(NORMAL), kind: wanted, **window}
            answer = self._session.call("GET", "api/v2/experiments", params=parameters)
            if answer.status != 200:
                raise _meaning(answer)
            more = _oldest_first(answer)
            found += more
            if len(more) < PAGE:
                return sorted(found, key=_number)
        raise PermanentError(
            f"eLabFTW knows more than {MOST_PAGES * PAGE} experiments that look like this session's; delete the others "
            "or change the session's identifier."
        )

    def _refusal(self, answer: Answer, experiment_id: str) -> ExportError:
        """What a refusal about an experiment that stands over there means."""
        said = f" It says: {answer.message}" if answer.message else ""
        if answer.status == 422 or (answer.status == 404 and not _is_from_elsewhere(answer)):
            return _gone(answer, experiment_id)
        if self._only_this_is_refused(answer):
            return PermanentError(
                f"eLabFTW does not let us change experiment {experiment_id} ({answer.status}): is it locked, or "
                f"somebody else's?{said}"
            )
        return _meaning(answer)

    def _only_this_is_refused(self, answer: Answer) -> bool:
        """Whether a call that has nothing to do with the experiment is let in, where this one was not."""
        return answer.status in {401, 403} and self._session.call("GET", "api/v2/info").status == 200


def release_of(answer: Answer) -> str:
    """The release that an answer of `ELabFTWApi.info` names, "" when it came without the right key."""
    told = answer.json()
    return str(told.get("elabftw_version") or "") if isinstance(told, dict) else ""


def metadata_of(experiment: dict[str, Any]) -> dict[str, Any]:
    """The metadata of an experiment, which eLabFTW gives as a JSON text."""
    metadata = experiment.get("metadata")
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except ValueError:
            return {}
    return metadata if isinstance(metadata, dict) else {}


def extra_fields_of(experiment: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The extra fields of an experiment by name."""
    fields = metadata_of(experiment).get("extra_fields")
    if not isinstance(fields, dict):
        return {}
    return {name: field for name, field in fields.items() if isinstance(field, dict)}


def session_of(experiment: dict[str, Any]) -> str | None:
    """What an experiment's field `Session ID` says, None without one."""
    value = extra_fields_of(experiment).get(SESSION_FIELD, {}).get("value")
    return None if value is None else str(value)


def _is_from_elsewhere(answer: Answer) -> bool:
    """Whether a 404 is not eLabFTW's own, such as that of a proxy while eLabFTW is away."""
    told = answer.json() if answer.is_json else None
    return not (isinstance(told, dict) and {"code", "message", "description"} <= set(told))


def _meaning(answer: Answer) -> ExportError:
    """What a refusal means; that a key may only read is told in the words of a bad request."""
    if answer.status == 404 and _is_from_elsewhere(answer):
        return wrong_address(answer)
    if answer.status == 400 and "read-only key" in answer.text:
        return ConfigurationError(
            "The key of eLabFTW may only read: make one that may write, and set NX_ELABFTW_API_KEY to it."
        )
    return refusal(answer)


def _version_in(answer: Answer) -> int | None:
    info = answer.json()
    found = str(info.get("elabftw_version_int", "")) if isinstance(info, dict) else ""
    return int(found) if found.isdecimal() else None


def _searchable(text: str) -> str:
    """As a search takes it, of a long text both ends; it finds more than `text`: what is found is compared again."""
    half = LONGEST_SEARCH // 2
    return _NOT_FOR_A_SEARCH.sub("%", text if len(text) <= LONGEST_SEARCH else f"{text[:half]}%{text[-half:]}")


def _oldest_first(answer: Answer) -> list[dict[str, Any]]:
    found = answer.json()
    if not isinstance(found, list):
        raise TransientError(f"eLabFTW answered with something that is not a list ({answer.call}).")
    return sorted((each for each in found if isinstance(each, dict) and "id" in each), key=_number)


def _number(found: dict[str, Any]) -> int:
    """The id, which counts up with time."""
    return int(found["id"])


def _created_id(answer: Answer) -> str:
    """The last segment of `Location`, whose host may be another than the one that was called."""
    identifier = urlsplit(answer.headers.get("location", "")).path.rstrip("/").rpartition("/")[2]
    if not identifier.isdigit():
        raise TransientError(f"eLabFTW answered without the id of what it made ({answer.call}).")
    return identifier


def _gone(answer: Answer, experiment_id: str) -> GoneError:
    said = f" It says: {answer.message}" if answer.status != 200 and answer.message else ""
    return GoneError(
        f"Experiment {experiment_id} is not there any more in eLabFTW ({answer.status}): it was deleted or "
        f"archived.{said}"
    )
