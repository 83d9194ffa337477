"""The face: one thin file per command. Nothing is computed here."""
