"""Makes the site's database with everything in it; `server` runs it once with `-m`."""

# mypy: disable-error-code=import-not-found
# because Django is not installed where types are checked

import django
from django.core.management import call_command

from . import description


def main() -> None:
    """Everything from nothing; the database does not exist before."""
    django.setup()
    call_command("migrate", verbosity=0)  # makes the public workspace too

    from . import contents  # its imports want Django to be set up

    site = description.read()
    for account in site["accounts"]:
        contents.add_account(account)
    for template in site["templates"]:
        contents.add_template(template)


if __name__ == "__main__":
    main()
