"""Promises about processes, each tried by a command: python -m tests.reliability.NAME.

A command prints one line of figures and ends with status 0 where the promise held. A short version
of each is part of the tests (tests/test_reliability.py).
"""
