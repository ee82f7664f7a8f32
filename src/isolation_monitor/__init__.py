"""isolation-monitor: proves continuously that one user's request never touches another's.

The code lives in the top-level folders of the repository; this package links them under one import name
(`docs/decisions/0001-import-names.md` says why).
"""

__version__ = "0.1.0"
