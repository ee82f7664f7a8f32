"""The command `isomon`: gates, rollouts, migrations, the doctor and the demonstration.

Each sub-command lives in a module of its own and is imported only when asked for, so that an installation with
telemetry alone still has the commands that it can run.
"""
