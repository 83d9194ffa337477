"""The corpus station: text in, token shards out, and every token's source kept."""
