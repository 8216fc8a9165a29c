"""The Django site of the real CDCS; only the Python of CDCS's own environment imports it.

What differs from one site to the next stands in `site.json` in the site's folder, which `server` writes.
"""
