"""`isomon ci import`: fetches what a forge keeps of finished runs and reports it as `isomon ci report` would have done there."""
