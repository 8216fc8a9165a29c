"""The archive: its stores, the folder of a session and its manifest; used by `export`."""
