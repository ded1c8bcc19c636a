"""A process that signals, in one of the ways of `benchmarks.telemetry`. It is asked by its standard input.

In the way ``bare`` the library is compiled without the places that tell who listens: each ``... in observed`` is
replaced by ``False`` before the module is compiled, and the compiler leaves out what depends on it.
"""

import ast
import asyncio
import json
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

PAYLOAD = {"decision": "approved"}


class WithoutTelling(ast.NodeTransformer):
    """Takes the places out."""

    places = 0

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        """Replace ``NAME in observed``."""
        match node:
            case ast.Compare(ops=[ast.In()], comparators=[ast.Name(id="observed")]):
                WithoutTelling.places += 1
                return ast.copy_location(ast.Constant(value=False), node)
        return node


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        tree = WithoutTelling().visit(ast.parse(self.get_data(path)))
        return compile(tree, path, "exec", dont_inherit=True)


class Finder(MetaPathFinder):
    """Finds the modules of the library, and has them compiled without the places."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See ``importlib.abc.MetaPathFinder``."""
        if fullname.partition(".")[0] not in ("signal_ledger", "signal_ledger_adapters"):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


async def load(way: str, url: str, job_ids: list[int], tasks: int, seconds: float) -> str:
    """Signal jobs over and over, and return what that cost."""
    # Now that it is known how to compile it.
    from benchmarks.load import measure  # noqa: PLC0415
    from benchmarks.telemetry import as_json  # noqa: PLC0415
    from signal_ledger import open_ledger, telemetry  # noqa: PLC0415
    from signal_ledger.telemetry.tracing import follow_traces  # noqa: PLC0415

    told = 0

    def count(_name: str, _told: dict[str, object]) -> None:
        nonlocal told
        told += 1

    if way in ("heard", "bare"):
        # In the bare way nobody hears anything, for all that.
        telemetry.attach("bench", telemetry.EVENTS, count)
    elif way == "traced":
        follow_traces(lambda: TRACEPARENT)
    async with open_ledger(url) as ledger:
        sent = 0

        async def send() -> bool:
            nonlocal sent
            sent += 1
            await ledger.signal(job_ids[sent % len(job_ids)], PAYLOAD)
            return True

        found = await measure([send] * tasks, seconds)
    assert (told > 0) == (way == "heard")
    assert (WithoutTelling.places > 10) == (way == "bare")
    return as_json(found)


if __name__ == "__main__":
    asked = json.loads(sys.stdin.read())
    if asked["way"] == "bare":
        sys.meta_path.insert(0, Finder())
    print(asyncio.run(load(**asked)))
