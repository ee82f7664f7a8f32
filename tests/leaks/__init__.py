"""Real bugs with their fixed twins, driven by concurrent users: the judge of the detectors."""
