"""Bases: models that several systems begin with or measure, trained once on a machine by the lab."""
