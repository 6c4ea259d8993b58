"""A pipeline as users run it: under supervisord, which starts again whatever it misses."""

import os
import signal
import subprocess
import sys

from tests.pipeline import DEADLINE_S, Pipeline, children, until
from tests.standin_client import ROOT, is_running

SUPERVISOR = "supervisord"
PROCESSES = ("feed", "archiver", "history")


class Supervised(Pipeline):
    """`supervisord` is a process as the others are: killed, it takes them along."""

    def start(self, *names: str, **environ: str) -> None:
        """Start the pipeline where it does not run; of what is one of its processes, its supervisor takes care."""
        if SUPERVISOR in self._children:
            return
        command = [sys.executable, "-m", "processes.archive", *self.arguments()]
        with self.log.open("ab") as log:
            self._children[SUPERVISOR] = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **self._environ, **environ}, stdout=log, stderr=log
            )

    def pid(self, name: str) -> int:
        """0 where it does not run now."""
        supervisor = self._children.get(SUPERVISOR)
        if supervisor is None or name == SUPERVISOR:
            return supervisor.pid if supervisor else 0
        return next(iter(children(supervisor.pid, f"processes.{name} ")), 0)

    def kill(self, *names: str, signal_number: int = signal.SIGKILL) -> None:
        pids = {name: self.pid(name) for name in names}
        orphans = [self.pid(name) for name in PROCESSES] if pids.get(SUPERVISOR) else []
        for pid in pids.values():
            if pid:
                os.kill(pid, signal_number)
        if orphans and signal_number in (signal.SIGKILL, signal.SIGTERM):
            self._children.pop(SUPERVISOR).wait(DEADLINE_S)
            until(lambda: not any(is_running(pid) for pid in orphans if pid), "no orphan is left")

    def stop(self) -> None:
        until(lambda: all(self.pid(name) for name in PROCESSES), "everything runs")
        supervisor = self._children.pop(SUPERVISOR)
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(DEADLINE_S) == 0, self.log.read_text()

    def end(self) -> None:
        for pid in filter(None, (self.pid(name) for name in PROCESSES)):
            os.kill(pid, signal.SIGCONT)
        if SUPERVISOR in self._children:
            self.kill(SUPERVISOR)
