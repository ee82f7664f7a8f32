"""A small multi-user agent chat, instrumented by isolation-monitor. Start it with `uvicorn chat.app:app --app-dir examples`."""
