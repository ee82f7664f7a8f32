"""The demonstration: the whole product on real parts, in one temporary folder, with nothing left behind.

`isomon demo up` shows it live, `isomon demo once` is the scripted story that `make demo-once` runs. The stack is also
what `tests/system` drives. It needs a checkout, because the reference chat service lives in `examples/`.
"""
