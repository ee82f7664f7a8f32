"""`python -m isolation_monitor.cli` is `isomon`: for processes that must run under the same Python as their parent."""

from isolation_monitor.cli.main import main

if __name__ == "__main__":
    main()
