"""The stand-in for eLabFTW: `service` puts together what it holds, what its calls do and the pages that show it."""
