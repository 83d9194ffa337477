"""The kinds of data: what a recipe says of each, and the batches of a step."""
