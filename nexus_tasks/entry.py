"""Where a process enters an installation: the command line, a builder of another program, a sandbox, a test.

Workers do not come this way: Celery finds their app as `nexus_tasks.app`.
"""

import os
from collections.abc import Mapping

from nexus_tasks.broker_tls import broker_of, results_of
from nexus_tasks.config import get_settings
from nexus_tasks.deployment import Deployment, deployment_of
from nexus_tasks.exporters.registry import get_registry


def current_deployment() -> Deployment:
    """The installation that the environment describes, with the app that this process makes once it needs one.

    Raises `SettingsError`, also for a wrong broker setting: before anything is written, not when it is to be sent.
    """
    deployment = deployment_of(None)
    broker_of(deployment.settings)
    results_of(deployment.settings)
    return deployment


def enter(environment: Mapping[str, str]) -> Deployment:
    """Have this process work with another installation from here on: a sandbox. Raises `SettingsError`."""
    from nexus_tasks.celery import get_app

    os.environ.update(environment)
    for remembered in (get_settings, get_registry, get_app):
        remembered.cache_clear()
    return current_deployment()
