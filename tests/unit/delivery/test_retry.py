from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_tasks.delivery.retry import (
    MAX_MESSAGE_CHARACTERS,
    MAY_EXIST,
    RetryPolicy,
    after_failure,
    after_result,
    deferred,
    not_tried,
)
from nexus_tasks.exporters.base import (
    ConfigurationError,
    ExportError,
    ExportResult,
    PermanentError,
    TransientError,
)
from nexus_tasks.states import AttemptState, DeliveryState

POLICY = RetryPolicy(delays=[60, 300, 900, 3600], max_failures=75)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 60), (1, 60), (2, 300), (3, 900), (4, 3600), (5, 3600), (74, 3600)]
)
def test_the_delays_follow_one_another_and_the_last_repeats(failures: int, seconds: int) -> None:
    assert POLICY.delay(failures) == timedelta(seconds=seconds)


def test_a_success_is_kept_with_what_the_destination_said() -> None:
    result = ExportResult(
        success=True, destination_name="cdcs", record_id="7", record_url="https://x/7", metadata={"title": "t"}
    )
    end = after_result(result, failures=3)
    assert (end.state, end.delivery_state) == (AttemptState.SUCCEEDED, DeliveryState.SUCCEEDED)
    assert (end.remote_record_id, end.remote_record_url, end.remote_metadata) == ("7", "https://x/7", {"title": "t"})
    assert end.failures == 3
    assert end.wait is None
    assert end.error_message is None


@pytest.mark.parametrize(("said", "kept"), [("too large", "too large"), (None, "the plugin gave no reason")])
def test_a_result_without_success_is_permanent(said: str | None, kept: str) -> None:
    end = after_result(ExportResult(success=False, destination_name="cdcs", error_message=said), failures=3)
    assert (end.state, end.delivery_state) == (AttemptState.PERMANENT, DeliveryState.FAILED)
    assert end.error_message == kept


def test_a_permanent_failure_fails_for_good() -> None:
    end = after_failure(PermanentError("not valid"), 0, POLICY, None)
    assert (end.state, end.delivery_state, end.wait) == (AttemptState.PERMANENT, DeliveryState.FAILED, None)
    assert end.error_message == "not valid"


def test_a_transient_failure_is_counted_and_waits_longer_each_time() -> None:
    ends = [after_failure(TransientError("away"), failures, POLICY, None) for failures in range(5)]
    assert {(end.state, end.delivery_state) for end in ends} == {(AttemptState.TRANSIENT, DeliveryState.RETRYING)}
    assert [end.failures for end in ends] == [1, 2, 3, 4, 5]
    assert [end.wait for end in ends] == [timedelta(seconds=seconds) for seconds in (60, 300, 900, 3600, 3600)]


@pytest.mark.parametrize(("asked_for", "seconds"), [(None, 60), (0, 60), (59, 60), (61, 61), (7200, 7200)])
def test_what_the_service_asked_for_counts_when_it_is_longer(asked_for: float | None, seconds: int) -> None:
    end = after_failure(TransientError("busy", retry_after=asked_for), 0, POLICY, None)
    assert end.wait == timedelta(seconds=seconds)


@pytest.mark.parametrize("asked_for", [1e12, float("inf"), float("nan"), -5])
def test_a_service_that_asks_for_nonsense_does_not_break_the_retry(asked_for: float) -> None:
    end = after_failure(TransientError("busy", retry_after=asked_for), 0, POLICY, None)
    assert end.delivery_state is DeliveryState.RETRYING
    assert end.wait is not None
    assert end.wait >= timedelta(seconds=60)
    assert datetime.now(UTC) + end.wait <= datetime.max.replace(tzinfo=UTC)  # Python can read it back from its row


def test_the_last_failure_is_for_good_and_says_why() -> None:
    end = after_failure(TransientError("away"), 74, POLICY, None)
    assert (end.state, end.delivery_state, end.wait) == (AttemptState.TRANSIENT, DeliveryState.FAILED, None)
    assert end.failures == 75
    assert end.error_message == "Given up after 75 failed attempts; the last one: away"


def test_the_default_policy_takes_about_three_days() -> None:
    waits = [after_failure(TransientError("away"), failures, POLICY, None).wait for failures in range(74)]
    assert timedelta(days=2.9) < sum((wait for wait in waits if wait), timedelta()) < timedelta(days=3.1)


@pytest.mark.parametrize("failures", [0, 74, 80])
def test_a_configuration_failure_leaves_the_delivery_due_and_is_not_counted(failures: int) -> None:
    end = after_failure(ConfigurationError("wrong token"), failures, POLICY, None)
    assert (end.state, end.delivery_state) == (AttemptState.CONFIGURATION, DeliveryState.PENDING)
    assert end.failures == failures
    assert end.wait is None
    assert end.error_message == "wrong token"


def test_a_kind_that_a_plugin_made_up_counts_as_transient() -> None:
    class OwnError(ExportError):
        pass

    assert after_failure(OwnError("odd"), 0, POLICY, None).state is AttemptState.TRANSIENT


def test_an_attempt_that_made_no_call_changes_nothing() -> None:
    end = not_tried(AttemptState.DEFERRED, "cdcs is away")
    assert end.delivery_state is None
    assert end.wait is None
    assert end.error_message == "cdcs is away"
    assert not end.state.logged


@given(
    st.text(max_size=5000), st.integers(0, 80), st.sampled_from([PermanentError, TransientError, ConfigurationError])
)
def test_a_failure_is_always_told_and_never_at_length(text: str, failures: int, kind: type[ExportError]) -> None:
    end = after_failure(kind(text), failures, POLICY, None)
    assert end.error_message is not None
    assert len(end.error_message) <= MAX_MESSAGE_CHARACTERS
    assert (end.wait is not None) is (end.delivery_state is DeliveryState.RETRYING)


@pytest.mark.parametrize(("unresolved", "asked_for", "seconds"), [(30, 0, 60), (90, 0, 90), (90, 100, 100)])
def test_a_delivery_waits_until_a_lost_answer_can_be_looked_up(unresolved: int, asked_for: int, seconds: int) -> None:
    error = TransientError("reset", retry_after=asked_for)
    end = after_failure(error, 0, POLICY, timedelta(seconds=unresolved))
    assert end.wait == timedelta(seconds=seconds)


@pytest.mark.parametrize("unresolved", [timedelta(), timedelta(seconds=30)])
def test_a_delivery_given_up_with_a_lost_answer_says_that_the_object_may_exist(unresolved: timedelta) -> None:
    end = after_failure(TransientError("reset"), 74, POLICY, unresolved)
    assert end.delivery_state is DeliveryState.FAILED
    assert end.error_message is not None
    assert MAY_EXIST in end.error_message


def test_however_long_the_last_failure_was_told_it_is_said_that_the_object_may_exist() -> None:
    end = after_failure(TransientError("x" * 3000), 74, POLICY, timedelta())
    assert end.error_message is not None
    assert MAY_EXIST in end.error_message


def test_an_attempt_that_may_not_go_on_yet_waits_and_is_not_counted() -> None:
    end = deferred(timedelta(seconds=40), 3, "waiting until a lost answer can be looked up")
    assert (end.state, end.delivery_state) == (AttemptState.DEFERRED, DeliveryState.RETRYING)
    assert (end.failures, end.wait) == (3, timedelta(seconds=40))
    assert not end.state.logged
