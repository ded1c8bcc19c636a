"""Which engines are alive: locks that die with their process."""

import os
import subprocess
import sys

from signal_ledger_adapters.sqlite import nodes

HOLD = """
import sys
from pathlib import Path
from signal_ledger_adapters.sqlite import nodes
nodes.hold(Path(sys.argv[1]), int(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


def another_process(path, node):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), str(node)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def end(process):
    process.stdin.close()
    process.stdout.close()
    process.wait(10)


def test_a_node_lives_as_long_as_its_process(path):
    process = another_process(path, 1)
    assert not nodes.is_gone(path, 1)
    assert nodes.is_gone(path, 4)
    process.kill()
    process.wait(10)
    assert nodes.is_gone(path, 1)
    end(process)


def test_nodes_of_this_process_are_told_apart_without_losing_their_locks(path):
    nodes.hold(path, 1)
    nodes.hold(path, 2)
    assert not nodes.is_gone(path, 1)
    assert nodes.is_gone(path, 3)
    nodes.release(path, 2)
    assert nodes.is_gone(path, 2)
    # Another process still sees the first one alive: looking has not dropped its lock.
    check = (
        "import sys; from pathlib import Path; from signal_ledger_adapters.sqlite import nodes; "
        "print([nodes.is_gone(Path(sys.argv[1]), n) for n in (1, 2)])"
    )
    seen = subprocess.run([sys.executable, "-c", check, str(path)], capture_output=True, text=True, check=True).stdout
    assert seen == "[False, True]\n"
    nodes.release(path, 1)


def test_looking_at_another_process_does_not_drop_our_own_lock(path):
    nodes.hold(path, 1)
    process = another_process(path, 2)
    assert not nodes.is_gone(path, 2)
    end(process)
    assert nodes.is_gone(path, 2)
    process = another_process(path, 3)
    end(process)
    assert not nodes.is_gone(path, 1)
    nodes.release(path, 1)


def test_a_fork_does_not_keep_its_parents_nodes_alive(path):
    read, write = os.pipe()
    nodes.hold(path, 1)
    child = os.fork()
    if child == 0:
        # In the fork the parent's node is alive because the parent is, not because the fork thinks it holds it.
        os.write(write, b"alive" if not nodes.is_gone(path, 1) else b"gone!")
        os.write(write, b"gone!" if nodes.is_gone(path, 2) else b"alive")
        os._exit(0)
    assert os.read(read, 5) == b"alive"
    assert os.read(read, 5) == b"gone!"
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)
    nodes.release(path, 1)


CHECK = """
import sys
from pathlib import Path
from signal_ledger_adapters.sqlite import nodes
path = Path(sys.argv[1])
nodes.hold(path, 9)
print([nodes.is_gone(path, int(node)) for node in sys.argv[2:]])
"""


def seen_by_a_newcomer(path, *nodes_asked):
    command = [sys.executable, "-c", CHECK, str(path), *map(str, nodes_asked)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_newcomer_sees_the_dead_at_once(path):
    """A process that takes the place of one that was killed must not wait to rescue its jobs."""
    process = another_process(path, 1)
    assert seen_by_a_newcomer(path, 1) == "[False]"
    process.kill()
    process.wait(10)
    assert seen_by_a_newcomer(path, 1) == "[True]"
    end(process)


def test_a_newcomer_trusts_no_lock_file_that_was_just_made_anew(path):
    """Who lives may not have found it yet."""
    process = another_process(path, 1)
    path.with_name(f"{path.name}-nodes").unlink()
    assert seen_by_a_newcomer(path, 1) == "[False]"
    assert seen_by_a_newcomer(path, 1) == "[False]"
    end(process)


def test_an_engine_in_a_fork_is_alive(path):
    read, write = os.pipe()
    go_on, let_go = os.pipe()
    nodes.hold(path, 1)
    child = os.fork()
    if child == 0:
        nodes.hold(path, 2)
        os.write(write, b"held")
        os.read(go_on, 1)
        os._exit(0)
    assert os.read(read, 4) == b"held"
    assert not nodes.is_gone(path, 2)
    os.write(let_go, b".")
    os.waitpid(child, 0)
    assert nodes.is_gone(path, 2)
    for descriptor in (read, write, go_on, let_go):
        os.close(descriptor)
    nodes.release(path, 1)


def test_a_lock_file_that_was_deleted_makes_nobody_seem_gone(path, monkeypatch):
    nodes.hold(path, 1)
    process = another_process(path, 2)
    path.with_name(f"{path.name}-nodes").unlink()
    # Whoever looks makes a new file, and holds what it held in the old one.
    assert not nodes.is_gone(path, 2)
    seen = another_process(path, 3)
    assert not nodes.is_gone(path, 1)
    later = nodes.time.monotonic() + nodes.GRACE_S
    monkeypatch.setattr(nodes.time, "monotonic", lambda: later)
    assert not nodes.is_gone(path, 3)
    check = (
        "import sys; from pathlib import Path; from signal_ledger_adapters.sqlite import nodes; "
        "print(nodes.is_gone(Path(sys.argv[1]), 1))"
    )
    told = subprocess.run([sys.executable, "-c", check, str(path)], capture_output=True, text=True, check=True).stdout
    assert told == "False\n"
    end(seen)
    end(process)
    nodes.release(path, 1)
