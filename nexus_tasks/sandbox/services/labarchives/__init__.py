"""The stand-in for LabArchives: `service` puts together what it holds, what its calls do and the pages that show it."""
