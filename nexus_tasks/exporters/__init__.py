"""The destinations: the plugin contract (`base`), how they are found (`registry`), and those that ship.

Nothing here knows of Celery or of the database.
"""
