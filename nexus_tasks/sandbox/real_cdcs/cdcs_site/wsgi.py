"""What gunicorn serves: CDCS, and the files that its pages need straight from the packages they are in."""

# mypy: disable-error-code=import-not-found
# because Django is not installed where types are checked

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

application = StaticFilesHandler(get_wsgi_application())
