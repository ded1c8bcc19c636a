"""The signaller's process: ``python -m signal_ledger_adapters.demo.signaller_process URL``.

For each line of its input, a JSON object of `Ledger.signal`'s arguments, it sends a signal and prints the receipt. With
``workflow``, the id of one, the others are the arguments of `Workflow.signal`.
"""

import asyncio
import json
import sys
from dataclasses import asdict

from signal_ledger import Workflow, open_ledger


async def main() -> None:
    """Send what is asked for until the input closes."""
    async with open_ledger(sys.argv[1]) as ledger:
        print("open", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            arguments = json.loads(line)
            workflow_id = arguments.pop("workflow", None)
            door = ledger if workflow_id is None else await Workflow.load(workflow_id, via=ledger)
            receipt = await door.signal(**arguments)
            print(json.dumps(asdict(receipt)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
