"""LabArchives: its signed calls, folders, the page of a record, and checks; used by `export`."""
