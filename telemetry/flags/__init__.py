"""Flags: who gets what of a rollout, decided in this process, and which arm each request had.

`bucketing` is the one rule of who gets what; the collector asks it too. `follower` keeps the rules as the collector has them.
`provider` and `hook` are for OpenFeature and load its SDK; nothing else here does.
"""
