"""Subjects: the evidence about one user is taken away when that is asked for."""
