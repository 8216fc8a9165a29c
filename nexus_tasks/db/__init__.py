"""PostgreSQL, the truth: models, engine, migrations, and every query, by subject.

`sessions` is what the builder works on, `records` what it made, `deliveries`, `runs` and `destinations` what the
delivery package plans with, `upload_log` what people read. No other package writes SQL.
"""
