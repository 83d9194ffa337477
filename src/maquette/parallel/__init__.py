"""The parallel station: where a run's tensors live, and the processes that hold them."""
