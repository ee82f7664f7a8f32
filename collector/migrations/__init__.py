"""Schema changes, in order. `isomon migrate` applies them."""
