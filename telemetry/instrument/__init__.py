"""One file per outside library; none imports another."""
