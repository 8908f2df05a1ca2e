"""Ours against the same by hand on asyncio: ``python -m benchmarks`` (``make bench``)."""
