"""What a new site holds besides CDCS's own tables: accounts with tokens, global templates; called by `prepare`."""

# mypy: disable-error-code=import-not-found
# because Django and CDCS are not installed where types are checked

from typing import Any

from core_main_app.components.template.models import Template
from core_main_app.components.template_version_manager import api as version_managers
from core_main_app.components.template_version_manager.models import TemplateVersionManager
from core_main_app.components.version_manager import api as versions
from django.contrib.auth.models import Group, User
from django.test import RequestFactory
from rest_framework.authtoken.models import Token

MAY_PUBLISH = "default"  # CDCS's name for the group of those who may publish


def add_account(account: dict[str, Any]) -> None:
    """A user with a token; see `server.Account`."""
    make = User.objects.create_superuser if account["administrator"] else User.objects.create_user
    user = make(account["name"], password=account["password"])
    if account["may_publish"]:
        user.groups.add(Group.objects.get(name=MAY_PUBLISH))
    Token.objects.create(user=user, key=account["token"])


def add_template(template: dict[str, Any]) -> None:
    """A global template with all its versions, the last one current; there must be an administrator."""
    request = RequestFactory().get("/")  # CDCS asks it who does this
    request.user = User.objects.filter(is_superuser=True).first()
    manager = TemplateVersionManager(title=template["title"], user=None)
    for number, content in enumerate(template["versions"], 1):
        version = Template(filename=f"version-{number}.xsd", content=content)
        version_managers.insert(manager, version, request=request)
        versions.set_current(version, request=request)
