"""Benchmarks of the request path and the scrape, beside the peers and beside a hand-written floor. Run: `make bench`."""
