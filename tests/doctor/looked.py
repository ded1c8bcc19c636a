"""What the doctor says, for tests to ask about."""

from signal_ledger_adapters.doctor import Status, examine

MACHINE = ["codec", "compiler"]
"""The checks that need no database; they come last."""


class Looked(dict):
    """Checks by their names, in their order."""

    def problems(self):
        """The names of those that are findings."""
        return [name for name, check in self.items() if check.status is Status.FINDING]


async def looked(url, **options):
    """Have a database looked over. Whatever it is like, what is said has a form."""
    checks = [check async for check in examine(url, **options)]
    assert len({check.name for check in checks}) == len(checks)
    for check in checks:
        # One sentence, or some, for people: no line breaks, no signs of a program in trouble.
        assert check.found.strip() == check.found != ""
        assert "\n" not in check.found + (check.advice or "")
        assert "Traceback" not in check.found
        assert (check.advice is not None) or check.status is not Status.FINDING, check
        assert (check.advice is None) or check.status is not Status.OK, check
    assert [check.name for check in checks[-2:]] == MACHINE
    return Looked((check.name, check) for check in checks)
