"""Runs a command that the kernel kills when its parent dies: `python tether.py PARENT_PID COMMAND [ARGUMENT ...]`.

Replaces itself by the command, so pid, group and standard streams stay. Done here instead of between fork and exec in
the parent, where Python code could deadlock in a process with threads. Standard library only; run with -I -S for speed.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, command = int(sys.argv[1]), sys.argv[2:]
    # SIGTERM, not SIGKILL: a server with workers must get the chance to end them; the janitor kills what stays.
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("the parent died before its child had started")
    os.execvp(command[0], command)
