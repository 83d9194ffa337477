"""What every station stands on: errors with the mend in them, files that survive a crash, the machine."""
