"""The server: OpenAI's API over the engine, with keys, gates, limits and metrics."""
