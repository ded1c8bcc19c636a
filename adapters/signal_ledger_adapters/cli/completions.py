"""Completing jobs: those that wait, with what they wait for."""

import asyncio

import click
from click.shell_completion import CompletionItem

from signal_ledger_adapters.cli.settings import Settings
from signal_ledger_adapters.timeline import printable

_WAITS_MAX = 1000
_PATIENCE_S = 2.0


def waiting_jobs(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Return the jobs that wait and whose ids begin so; none, if the database does not tell at once."""
    settings = context.ensure_object(Settings)
    settings.timeout = _PATIENCE_S
    try:
        return asyncio.run(_waiting(settings, incomplete))
    except Exception:  # noqa: BLE001 - a shell that completes has no place for errors
        return []


async def _waiting(settings: Settings, incomplete: str) -> list[CompletionItem]:
    async with asyncio.timeout(_PATIENCE_S), settings.open() as ledger:
        waits = await ledger.waiting(limit=_WAITS_MAX)
    return [
        CompletionItem(str(wait.job_id), help=f"waits on {printable(wait.channel or 'the default channel')}")
        for wait in waits
        if str(wait.job_id).startswith(incomplete)
    ]
