"""eLabFTW through its makers' own Python client: what another program sees of it; used by tests of the exporter.

The client is generated. Two things it cannot read, so the plain answer is taken for them: metadata, which it expects as
an object, and an experiment's tags, which its model sets and then clears again.
"""

import json
from pathlib import Path
from typing import Any

import elabapi_python  # type: ignore[import-untyped] # ships no types
from elabapi_python.rest import ApiException  # type: ignore[import-untyped] # ships no types

__all__ = ["ApiException", "Client", "described"]


class Client:
    """One user's key to one eLabFTW."""

    def __init__(self, url: str, key: str) -> None:
        configuration = elabapi_python.Configuration()
        configuration.host = f"{url}/api/v2"
        configuration.api_key = {"Authorization": key}  # not changed in place: all configurations share one
        api = elabapi_python.ApiClient(configuration)
        self.experiments = elabapi_python.ExperimentsApi(api)
        self.uploads = elabapi_python.UploadsApi(api)
        self.tags = elabapi_python.TagsApi(api)
        self.info = elabapi_python.InfoApi(api)
        self.users = elabapi_python.UsersApi(api)
        self.keys = elabapi_python.ApiKeysApi(api)
        self.categories = elabapi_python.ExperimentsCategoriesApi(api)
        self.statuses = elabapi_python.ExperimentsStatusApi(api)

    def create(self, **values: Any) -> int:
        return _made(self.experiments.post_experiment_with_http_info(body=values))

    def plain(self, number: int) -> dict[str, Any]:
        answer = self.experiments.get_experiment(number, _preload_content=False)
        found: dict[str, Any] = json.loads(answer.data)
        return found

    def metadata(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.plain(number)["metadata"])
        return found

    def find(self, session: str) -> list[int]:
        found = self.experiments.read_experiments(
            extended=f'extrafield:s:"Session ID":"{session}"', scope=3, state="1,2", limit=50
        )
        return [each.id for each in found]

    def attach(self, number: int, file: Path, comment: str) -> int:
        return _made(self.uploads.post_upload_with_http_info("experiments", number, file=str(file), comment=comment))

    def replace(self, number: int, upload: int, file: Path) -> int:
        return _made(self.uploads.post_upload_replace_with_http_info("experiments", number, upload, file=str(file)))

    def download(self, number: int, upload: int) -> bytes:
        answer = self.uploads.read_upload("experiments", number, upload, format="binary", _preload_content=False)
        return bytes(answer.data)


def _made(answer: tuple[Any, int, dict[str, str]]) -> int:
    _, status, headers = answer
    assert status == 201
    return int(headers["Location"].rpartition("/")[2])


def described(error: ApiException) -> dict[str, Any]:
    """What eLabFTW says about a refusal."""
    said: dict[str, Any] = json.loads(error.body)
    return said
