"""CDCS's own addresses, and those of its administration."""

# mypy: disable-error-code=import-not-found
# because Django and CDCS are not installed where types are checked

from core_main_app.admin import core_admin_site
from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("core-admin/", core_admin_site.urls),
    path("", include("core_main_app.urls")),
]
