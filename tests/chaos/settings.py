"""Short settings, so that a scenario shows in seconds what takes minutes in a lab; all in seconds, defaults beside."""

CALL_DEADLINE_S = 2.0  # default 60
LEASE_MARGIN_S = 2.0  # default 30; a lease lasts for deadline + margin
LOOKUP_GRACE_S = 2.0  # default 30; a look-up counts from intent + deadline + grace on
RUN_PATIENCE_S = 6.0  # default 120; a run without any event for so long is lost
LEASE_S = CALL_DEADLINE_S + LEASE_MARGIN_S

SHORT_SETTINGS = {
    "NX_EXPORT_STRATEGY": "all",
    "NX_TRIES": "3",
    "NX_TRY_BACKOFF": "0.3",  # default 8
    "NX_RETRY_DELAYS": "1,2",  # default 60,300,900,3600
    "NX_MAX_FAILURES": "75",  # the default
    "NX_DISPATCH_INTERVAL": "1",  # default 5
    "NX_CONNECT_TIMEOUT": "1",  # default 5
    "NX_CALL_DEADLINE": f"{CALL_DEADLINE_S:g}",
    "NX_LEASE_MARGIN": f"{LEASE_MARGIN_S:g}",
    "NX_LOOKUP_GRACE": f"{LOOKUP_GRACE_S:g}",
    "NX_RUN_PATIENCE": f"{RUN_PATIENCE_S:g}",
    "NX_PAUSE_AFTER": "5",  # records; the default
    "NX_PAUSE_FIRST": "1",  # default 30
    "NX_PAUSE_LONGEST": "4",  # default 600
    "NX_WINDOWS": "labarchives=8",  # default 16, LabArchives 1
}
