"""The rules by which other programs read a gate, written again from their sources, so that our answers meet them here."""
