"""A real CDCS from PyPI on loopback, for `demo --real-cdcs` and the live tests; never for production.

It runs in an environment of its own, because it pins what nexus-tasks pins otherwise. `environment` makes that,
`server` runs the site in it, `cdcs_site` is the site: only the environment's own Python imports that.
"""
