"""A process that holds SQLite's write lock: ``python -m tests.torture.locker PATH SECONDS`` says when, and lets go."""

import sqlite3
import sys
import time


def main():
    path, seconds = sys.argv[1:]
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    print("ready", flush=True)
    time.sleep(float(seconds))
    connection.execute("ROLLBACK")


if __name__ == "__main__":
    main()
