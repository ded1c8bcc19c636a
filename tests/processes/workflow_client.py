"""A web process: ``python -m tests.processes.workflow_client URL ID NAME…`` knows a workflow's id and nothing else.

It loads the workflow, says that it is ready, signals the steps, and prints what the receipts say.
"""

import asyncio
import sys

from signal_ledger import Workflow, open_ledger


async def main():
    url, workflow_id, *names = sys.argv[1:]
    async with open_ledger(url) as ledger:
        workflow = await Workflow.load(workflow_id, via=ledger)
        print("ready", flush=True)
        receipts = await workflow.signal(names, {"decision": "approved"}, source="web")
        print(workflow.name, *[receipt.outcome.value for receipt in receipts], flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
