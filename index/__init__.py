"""Compressed vector collections: durable points, codes in memory, exact rerank from disk."""
