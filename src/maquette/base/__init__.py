"""The base of every station: errors with the mend in them, files that survive a crash, the machine."""
