"""Django's settings for CDCS on loopback: SQLite, no broker, no e-mail, no file from the internet.

What CDCS asks for beyond Django's own needs is marked with its reason.
"""

import os
from pathlib import Path

from . import description

_site = description.read()
_HERE = Path(__file__).parent

BASE_DIR = str(description.FOLDER)
SECRET_KEY = _site["secret_key"]
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
SERVER_URI = os.environ["CDCS_SITE_URL"]  # CDCS builds links from it

INSTALLED_APPS = (
    "cdcs_site",  # before CDCS, so that its few templates come first
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.sites",
    "django.contrib.staticfiles",
    "django_celery_beat",
    "drf_spectacular",
    "fontawesomefree",
    "menu",
    "rest_framework",
    "rest_framework.authtoken",
    "core_main_app",
)
MIDDLEWARE = (
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
)
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "core_main_app.utils.custom_context_processors.domain_context_processor",
            ]
        },
    }
]
ROOT_URLCONF = "cdcs_site.urls"
WSGI_APPLICATION = "cdcs_site.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SITE_ID = 1

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(description.FOLDER / "db.sqlite3"),
        "OPTIONS": {
            "timeout": 20,  # seconds that a writer waits for another
            "transaction_mode": "IMMEDIATE",  # else two threads that read before they write fail at once
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF",  # gone with the sandbox anyway
        },
    }
}

STATIC_URL = "/static/"
MEDIA_ROOT = str(description.FOLDER / "media")
LOGIN_URL = "core_main_app_login"
EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": (
        "rest_framework.authentication.SessionAuthentication",  # the first one makes a wrong token 403, as in CDCS
        "rest_framework.authentication.TokenAuthentication",
    ),
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
}

# CDCS does not start with another scheduler; nothing is ever scheduled here.
CELERYBEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
MONGODB_INDEXING = False
MONGODB_ASYNC_SAVE = False
# As the CDCS that NexusLIMS comes with has it: records in the public workspace are there for everybody to read.
CAN_ANONYMOUS_ACCESS_PUBLIC_DOCUMENT = True
VERIFY_DATA_ACCESS = False
XSD_URI_RESOLVER = "REQUESTS_RESOLVER"
DATA_SORTING_FIELDS = ["-last_modification_date"]
AUTO_SET_PID = False
# CDCS looks for these without defaults.
ENABLE_SAML2_SSO_AUTH = False
CUSTOM_NAME = "CDCS"
CUSTOM_TITLE = "CDCS of a nexus-tasks sandbox"
WEBSITE_SHORT_TITLE = "CDCS sandbox"
# The pages name Bootstrap's classes. What is on this machine is version 3, in Django REST framework; the markup for
# version 4 is nearest to it.
BOOTSTRAP_VERSION = "4.6.2"

globals().update(_site["settings"])
