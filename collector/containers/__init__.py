"""Containers of Docker engines: how they live, how they die, and who ended them."""
