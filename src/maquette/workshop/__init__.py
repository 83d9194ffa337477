"""The workshop: stations put together into the jobs a person asks for."""
