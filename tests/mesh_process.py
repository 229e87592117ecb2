"""Tests of ``*_mesh.py`` files run in a child process with eight CPU devices; the report counts them like all others.

JAX fixes the number of devices of a process before its first operation, and most tests are faster on one device. A
process that comes to a test of such a file starts the child, sends the ids of tests to it, one at a time, and passes
its reports on. With ``PIVOT_TEST_DEVICES=8`` in the environment pytest runs these files itself, as a debugger needs it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection, Pipe
from typing import Any

import pytest

PIPE = "PIVOT_TEST_PIPE"
DEVICES = 8


def install(config: pytest.Config) -> None:
    """Registers the side of this process: that of the child, of a process of one device, or none."""
    if PIPE in os.environ:
        config.pluginmanager.register(Child(config, Connection(int(os.environ.pop(PIPE)))))
    elif int(os.environ["PIVOT_TEST_DEVICES"]) < DEVICES:
        config.pluginmanager.register(Parent())


def needs_mesh(item: pytest.Item) -> bool:
    return item.path.name.endswith("_mesh.py")


class Child:
    """Runs the tests that it is sent, instead of all that it collected."""

    def __init__(self, config: pytest.Config, pipe: Connection):
        self.config, self.pipe = config, pipe

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        while request := self.pipe.recv():
            item, following = (items.get(name) for name in request)
            self.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            self.pipe.send(None)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.pipe.send(self.config.hook.pytest_report_to_serializable(config=self.config, report=report))


class Parent:
    """Has tests of meshes run by the child, which it starts at the first of them."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.pipe: Connection
        self.output: Any

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in filter(needs_mesh, items):
            item.add_marker(pytest.mark.timeout(0))  # the child's own limit shows where the test hangs

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if not needs_mesh(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        if self.process is None:
            self._start(item)
        try:
            self.pipe.send((item.nodeid, nextitem.nodeid if nextitem else None))
            while data := self.pipe.recv():
                report = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
                item.ihook.pytest_runtest_logreport(report=report)
            died = False
        except (EOFError, OSError):
            died = True
        if died:
            item.ihook.pytest_runtest_logreport(report=self._died(item))
        item.session._setupstate.teardown_exact(nextitem)  # fixtures of the tests before, as after every test
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _start(self, item: pytest.Item) -> None:
        files = sorted({str(other.path) for other in item.session.items if needs_mesh(other)})
        self.pipe, theirs = Pipe()
        self.output = tempfile.TemporaryFile()  # noqa: SIM115, of which the report of a crash shows the end
        without = [word for name in ("xdist", "cacheprovider", "terminalreporter") for word in ("-p", f"no:{name}")]
        command = [sys.executable, "-m", "pytest", *without]
        command.append("--capture=sys")  # what XLA writes to the file itself before it aborts is kept for the report
        command += [f"--rootdir={item.config.rootpath}", f"--tb={item.config.getoption('tbstyle')}", *files]
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"PIVOT_TEST_DEVICES": str(DEVICES), PIPE: str(theirs.fileno())},
            cwd=item.config.invocation_params.dir,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.output,
        )
        theirs.close()

    def _died(self, item: pytest.Item) -> pytest.TestReport:
        """A failure with the end of the child's output; the next test starts another child."""
        assert self.process is not None
        code = self.process.wait()
        self.process = None
        self.output.seek(0)
        tail = self.output.read().decode(errors="replace")[-20_000:]
        call = pytest.CallInfo.from_call(
            lambda: pytest.fail(f"the process with {DEVICES} devices ended with {code}\n{tail}", pytrace=False), "call"
        )
        return pytest.TestReport.from_item_and_call(item, call)

    def pytest_sessionfinish(self) -> None:
        if self.process is not None:
            with contextlib.suppress(OSError):  # it was interrupted too
                self.pipe.send(None)
            self.process.wait()
