"""CI: how the tests of each suite fare, which are flaky, why they fail, and what a run costs."""
