"""The queues that workers read. Known without Celery, to what only asks whether somebody reads them."""

EXPORT = "export."  # + the destination's name: the name of its task, and of its queue
EXPORTS_QUEUE = "exports"  # of all other tasks, the dispatch of builds among them, which must not wait for builds
BUILDS_QUEUE = "builds"
