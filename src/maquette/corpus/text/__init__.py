"""Text: documents in, shards of tokens out, and what is found in them."""
