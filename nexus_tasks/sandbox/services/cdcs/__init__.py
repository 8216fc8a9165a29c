"""The stand-in for CDCS: `service` puts together what it holds, what its calls do and the pages that show it."""
