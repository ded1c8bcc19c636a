"""A store from outside of the package is held to the contract by subclasses, and is caught if it breaks it."""

import pytest

from tests.docs.pages import ROOT, blocks
from tests.kit.sessions import play

FILES = {
    block.notes["file"]: block.text
    for block in blocks(ROOT / "docs" / "how-to" / "another-store.md")
    if "file" in block.notes
}

# A store that tells every signal that it woke a job.
BOASTING = """
    async def deliver(self, call, *, timeout_s):
        from dataclasses import replace

        from signal_ledger.decisions import Stored
        from signal_ledger.events import DeliveryOutcome

        replies = await self._inner.deliver(call, timeout_s=timeout_s)
        return [
            replace(reply, outcome=DeliveryOutcome.WOKEN) if isinstance(reply, Stored) else reply for reply in replies
        ]
"""


@pytest.mark.timeout(300)
def test_the_example_of_the_page_passes_all_of_the_contract_and_the_machines(tmp_path):
    session = play(tmp_path, FILES, "-q")
    assert set(session.outcomes) == {"passed"}, session.output
    assert session.outcomes["passed"] > 80


@pytest.mark.timeout(300)
def test_a_store_that_breaks_a_promise_is_told_by_the_contract_and_by_a_machine(tmp_path):
    files = {**FILES, "store.py": f"{FILES['store.py']}{BOASTING}"}
    # That it is found is enough; the smallest example takes long.
    glance, search = "max_examples=3", "max_examples=50, phases=[Phase.generate]"
    files["test_store.py"] = "from hypothesis import Phase\n" + files["test_store.py"].replace(glance, search)
    session = play(tmp_path, files, "-q")
    assert "FAILED test_store.py::TestCountingStore::test_d5" in session.output, session.output
    assert "FAILED test_store.py::test_the_store_does_as_the_reference_does[Ledgers]" in session.output
    # The shipped assertions are rewritten, so that they tell what they compare.
    assert "assert <Outcome.WOKEN: 'woken'> == 'buffered'" in session.output


@pytest.mark.timeout(300)
def test_the_contract_runs_under_anyio_too(tmp_path):
    pytest.importorskip("anyio")
    backend = "\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n\n\npytestmark = pytest.mark.anyio\n"
    files = {**FILES, "test_store.py": FILES["test_store.py"] + backend}
    del files["pytest.ini"]
    session = play(tmp_path, files, "-q", "-p", "no:asyncio")
    assert set(session.outcomes) == {"passed"}, session.output
