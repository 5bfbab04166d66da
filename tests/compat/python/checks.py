"""Runs checks and prints one line for each: `ok NAME` or `FAIL NAME reason`."""

import os
import sys
import time
import traceback


# How many replicas the topics have: those that the cluster gives to every topic.
REPLICAS = int(os.environ.get("MERIDIAN_TEST_REPLICAS", "1"))


class Checks:
    def __init__(self):
        self.failed = 0
        self.only = os.environ.get("MERIDIAN_TEST_ONLY", "").split(",")

    def run(self, name, function, *arguments):
        if not any(part in name for part in self.only):
            return
        started = time.monotonic()
        try:
            function(*arguments)
        except Exception as error:
            self.failed += 1
            traceback.print_exc()
            print("FAIL %s %s" % (name, " ".join(("%s: %s" % (type(error).__name__, error)).split())))
        else:
            print("ok %s" % name)
        print("%s took %.1f s" % (name, time.monotonic() - started), file=sys.stderr)


def equal(got, want, what):
    if got != want:
        raise AssertionError("%s is %s, expected %s" % (what, shorten(got), shorten(want)))


def holds(condition, what):
    if not condition:
        raise AssertionError(what)


def shorten(value):
    text = repr(value)
    return text if len(text) < 600 else text[:600] + "..."


def eventually(seconds, what, probe):
    """Calls `probe` until it gives something true, and gives that."""
    deadline = time.monotonic() + seconds
    last = None
    while time.monotonic() < deadline:
        last = probe()
        if last:
            return last
        time.sleep(0.05)
    raise AssertionError("after %s s still not: %s" % (seconds, what() if callable(what) else what))


def fails(what, expected, function, *arguments, **keywords):
    """Runs a call that must fail, with an error for which `expected(error)` holds."""
    try:
        result = function(*arguments, **keywords)
    except Exception as error:
        if not expected(error):
            raise AssertionError("%s failed with the wrong error: %r" % (what, error)) from error
        return error
    raise AssertionError("%s must fail, and gave %s" % (what, shorten(result)))
