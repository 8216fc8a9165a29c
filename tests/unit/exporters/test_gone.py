from dataclasses import replace

import pytest

from nexus_tasks.exporters.base import ExportContext, PermanentError, TransientError
from nexus_tasks.exporters.gone import GoneError, NotOursError, PartGoneError, advice_to_recreate


def test_who_misses_an_object_is_told_how_to_have_it_made_again(context: ExportContext) -> None:
    odd = replace(context, session_identifier="https://a/?id=3&x")
    with pytest.raises(PermanentError) as caught, advice_to_recreate(odd, "cdcs"):
        raise GoneError("Record 5 is gone.")
    assert str(caught.value) == (
        "Record 5 is gone. To have it made again: nexus-tasks retry 'https://a/?id=3&x' --destination cdcs --recreate"
    )


def test_who_misses_a_part_is_told_to_put_away_the_rest_first(context: ExportContext) -> None:
    with pytest.raises(PermanentError) as caught, advice_to_recreate(context, "elabftw"):
        raise PartGoneError("The file is gone.")
    assert str(caught.value) == (
        "The file is gone. What is left would stay beside a new one: delete or archive that first. To have it made "
        "again: nexus-tasks retry 2025-01-27_10-30-15_abc123 --destination elabftw --recreate"
    )


def test_who_finds_anothers_object_is_told_to_look_at_the_address_first(context: ExportContext) -> None:
    with pytest.raises(PermanentError) as caught, advice_to_recreate(context, "cdcs"):
        raise NotOursError("Record 5 is another's", "CDCS", "NX_CDCS_URL")
    assert str(caught.value) == (
        "Record 5 is another's, and was left as it is. Was CDCS restored from a backup? Where NX_CDCS_URL has come to "
        "name another CDCS, set that back and retry. To have it made again: "
        "nexus-tasks retry 2025-01-27_10-30-15_abc123 --destination cdcs --recreate"
    )


def test_other_failures_pass(context: ExportContext) -> None:
    with pytest.raises(TransientError, match="later"), advice_to_recreate(context, "cdcs"):
        raise TransientError("later")
