"""The builder's Celery tasks: `records.build`, which builds one session, and `records.dispatch`, from beat.

They only carry: what is asked for and what was lost is in `remote`, and building is `record_builder`'s.
"""

import logging
import threading
from typing import Any

from celery import Celery

from nexus_tasks.broker import BrokerError
from nexus_tasks.builder.record_builder import BuilderTools, process_new_records
from nexus_tasks.builder.remote import BUILD, publish_builds
from nexus_tasks.config import SettingsError
from nexus_tasks.db import builds
from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery.snapshot import DependencyCycleError
from nexus_tasks.deployment import Deployment
from nexus_tasks.task_base import DatabaseTask, of_its_own

DISPATCH_BUILDS = "records.dispatch"
# A session of thousands of files, each up to its own time limit, is built in one task, its claim renewed all the time:
# only what hangs for ever is ended. A second message for it meanwhile finds the session claimed.
BUILD_SOFT_LIMIT_S = 6 * 3600
BUILD_HARD_LIMIT_S = BUILD_SOFT_LIMIT_S + 60

logger = logging.getLogger(__name__)

_of_this_thread = threading.local()  # `BuilderTools`: one child process that reads files for each thread that builds


def register(app: Celery) -> None:
    """Give the app these tasks."""
    for task in (BuildTask, DispatchBuildsTask):
        app.register_task(of_its_own(task)())


class BuildTask(DatabaseTask):
    """Build one session that was asked for, or find that there is nothing to do."""

    name = BUILD
    soft_time_limit = BUILD_SOFT_LIMIT_S
    time_limit = BUILD_HARD_LIMIT_S

    def run(self, session: str) -> dict[str, Any]:
        """Returns the session's status, None when there was nothing to do, and what is wrong."""
        deployment = self.deployment
        with transaction(deployment.engine) as connection:
            begun = builds.clock(connection)
            rebuild = builds.take(connection, session)
        if rebuild is None:
            logger.info("Session %s is not to be built, or is being built", session)
            return _result(session)
        try:
            outcomes = process_new_records(deployment, identifiers=[session], rebuild=rebuild, tools=_tools(deployment))
        except (SettingsError, DependencyCycleError) as error:
            problem = f"a worker that takes builds cannot build: {error}"
            logger.warning("Session %s: %s", session, problem)
            with transaction(deployment.engine) as connection:
                builds.end(connection, session, begun, problem)
            return _result(session, problem=problem)
        return _result(session, outcomes[0].status.value, outcomes[0].problem) if outcomes else _result(session)


class DispatchBuildsTask(DatabaseTask):
    """Publish the builds that were asked for and that nothing is known of."""

    name = DISPATCH_BUILDS
    ignore_result = True

    def run(self) -> int:
        """Returns the number of messages sent."""
        try:
            return publish_builds(self.deployment)
        except BrokerError as error:
            logger.warning("%s", error)
            return 0


def _tools(deployment: Deployment) -> BuilderTools:
    """Kept warm: the process that reads files takes a second to start, and ends with this one."""
    tools: BuilderTools | None = getattr(_of_this_thread, "tools", None)
    if tools is None:
        tools = _of_this_thread.tools = BuilderTools.of(deployment)
    return tools


def _result(session: str, status: str | None = None, problem: str | None = None) -> dict[str, Any]:
    return {"session": session, "record_status": status, "problem": problem}
