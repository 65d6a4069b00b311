"""A real Slurm on this machine, for tests: pretend nodes with fake GPUs, and no file in /etc.

    python -m tests.slurm.cluster bash          a shell in which sbatch, squeue, ... work
    python -m tests.slurm.cluster --accounting --nodes 3 -- python my_script.py

All daemons are children of the process that starts them and run in one temporary folder. CPUs,
memory and GPUs are bookkeeping: they decide what is scheduled when, and nothing enforces them.
Debian and Ubuntu have the packages: munge slurmctld slurmd slurm-client, and for accounting
slurmdbd mariadb-server-core.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
ACCOUNTING_DAEMONS = ("slurmdbd", "mariadbd")
SBIN = "/usr/sbin:/sbin"  # Debian keeps the daemons out of an ordinary user's PATH


def missing(accounting: bool = False) -> list[str]:
    """The programs that this machine lacks."""
    path = f"{os.environ.get('PATH', '')}:{SBIN}"
    wanted = DAEMONS + (ACCOUNTING_DAEMONS if accounting else ())
    return [name for name in wanted if shutil.which(name, path=path) is None]


class Cluster:
    """A Slurm cluster; a context manager around its life.

    Attributes:
        folder: everything it writes.
        environment: what a process needs to talk to it.
        running: the clusters that this process has at work.
    """

    running: ClassVar[list[Cluster]] = []

    def __init__(
        self,
        nodes: int = 2,
        cpus: int = 4,
        gpus: int = 2,
        memory_mb: int = 16000,
        largest_array: int = 1001,
        accounting: bool = False,
    ) -> None:
        # short: the path of a socket has 107 characters at most
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.nodes = [f"n{i + 1}" for i in range(nodes)]
        self._cpus, self._gpus, self._memory = cpus, gpus, memory_mb
        self._largest_array, self._accounting = largest_array, accounting
        self._conf = self.folder / "slurm.conf"
        self.environment = {
            "SLURM_CONF": str(self._conf),
            "MYSQL_UNIX_PORT": str(self.folder / "db.socket"),  # read by slurmdbd
        }
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = _free_ports(nodes + 2)
        self.host = socket.gethostname().partition(".")[0]

    def __enter__(self) -> Cluster:
        try:
            self._configure()
            self._start_munge()
            if self._accounting:
                self._start_database()
            # -i: a state folder that is not whole is no obstacle
            self._start("slurmctld", "slurmctld", "-D", "-i")
            _wait("slurmctld", lambda: "UP" in self.run("scontrol", "ping"), self.folder)
            for node in self.nodes:
                self.start_node(node)
        except BaseException:
            self.__exit__()
            raise
        self.running.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        if self in self.running:
            self.running.remove(self)
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            self.run("scancel", "--signal=KILL", f"--user={os.getuid()}")
        for name in reversed(list(self._daemons)):
            self._stop(name)
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------------------- use

    def run(self, *command: str) -> str:
        """Output of a Slurm command, whatever its exit status."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
        return done.stdout

    def state(self) -> str:
        """Nodes, queue and the last words of the daemons, for who waits in vain."""
        nodes = self.run("sinfo", "-N", "-o", "%N %P %T %E")
        queue = self.run("squeue", "-r", "-o", "%i %j %P %T %M %l %N %r")
        return f"{nodes}\n{queue}\n{_logs(self.folder, 60)}"

    def fail_node(self, node: str) -> None:
        """The node loses its power: nobody says goodbye, tasks and step daemons included."""
        self._stop(f"slurmd.{node}", signal.SIGKILL)
        # the step daemons first, or they would report the end of the tasks that they watch
        victims = sorted(self._processes(node), key=lambda pid: _name(pid) != "slurmstepd")
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def start_node(self, node: str) -> None:
        """Starts a node, for the first time or again; returns when it takes jobs."""
        (self.folder / "spool" / node).mkdir(parents=True, exist_ok=True)
        self._start(f"slurmd.{node}", "slurmd", "-D", "-N", node)
        usable = ("idle", "mixed", "allocated", "completing")
        state = ("sinfo", "-h", "-N", "-n", node, "-p", "main", "-o", "%T")
        _wait(node, lambda: self.run(*state).strip() in usable, self.folder)

    def pids(self, node: str) -> list[int]:
        """Processes of the jobs on a node, without Slurm's own."""
        return [pid for pid in self._processes(node) if _name(pid) not in ("slurmstepd", "srun")]

    # ------------------------------------------------------------------- processes

    def _start(self, name: str, *command: str) -> None:
        log = open(self.folder / f"{name}.log", "ab")  # noqa: SIM115, the daemon keeps it
        environment = {**os.environ, **self.environment}
        environment["PATH"] = f"{environment.get('PATH', '')}:{SBIN}"
        path = shutil.which(command[0], path=environment["PATH"]) or command[0]
        self._daemons[name] = subprocess.Popen(
            [path, *command[1:]], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env=environment, start_new_session=True,
        )  # fmt: skip
        log.close()

    def _stop(self, name: str, number: int = signal.SIGTERM) -> None:
        daemon = self._daemons.pop(name)
        daemon.send_signal(number)
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _processes(self, node: str | None = None) -> list[int]:
        """Processes that know this cluster; those of jobs on a node, if one is named.

        Slurm hands its configuration's name to all it starts.
        """
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            pid = int(path.parent.name)
            with contextlib.suppress(OSError):
                variables = path.read_bytes().split(b"\0")
                ours = f"SLURM_CONF={self._conf}".encode() in variables and pid != os.getpid()
                if node is None:
                    if ours and _name(pid) in ("slurmstepd", "slurmd", "slurmctld"):
                        found.append(pid)
                elif ours and f"SLURMD_NODENAME={node}".encode() in variables:
                    found.append(pid)
                    parent = int(
                        Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
                    )
                    if _name(parent) == "slurmstepd" and parent not in found:
                        found.append(parent)
        return found

    # --------------------------------------------------------------- configuration

    def _start_munge(self) -> None:
        """The daemon that vouches for users, with a key of its own."""
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        options = {name: f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        self._start(
            "munged", "munged", "--foreground", "--num-threads=4", f"--key-file={key}",
            f"--socket={self.folder / options['socket']}",
            f"--pid-file={self.folder / options['pid']}",
            f"--log-file={self.folder / options['log']}",
            f"--seed-file={self.folder / options['seed']}",
        )  # fmt: skip
        _wait("munged", (self.folder / "munge.socket").exists, self.folder)

    def _start_database(self) -> None:
        """MariaDB on a socket that only we can reach, and slurmdbd in front of it."""
        data = self.folder / "db"
        data.mkdir(mode=0o700)
        options = [
            f"--datadir={data}", f"--socket={self.environment['MYSQL_UNIX_PORT']}",
            f"--pid-file={self.folder / 'mariadbd.pid'}", "--skip-networking",
            "--skip-grant-tables", "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M",
            "--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0",
        ]  # fmt: skip
        if os.getuid() == 0:
            options.append("--user=root")
        self._start("mariadbd", "mariadbd", "--no-defaults", *options)
        socket_file = Path(self.environment["MYSQL_UNIX_PORT"])
        _wait("mariadbd", socket_file.exists, self.folder)
        conf = self.folder / "slurmdbd.conf"
        conf.touch(mode=0o600)
        conf.write_text(
            f"""DbdHost={self.host}
DbdAddr=127.0.0.1
DbdPort={self._ports[1]}
SlurmUser={_user()}
AuthType=auth/munge
AuthInfo=socket={self.folder}/munge.socket
PidFile={self.folder}/slurmdbd.pid
LogFile={self.folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm_acct
"""
        )
        self._start("slurmdbd", "slurmdbd", "-D")
        # the controller dies of a slurmdbd that does not listen yet
        _wait("slurmdbd", lambda: _listening(self._ports[1]), self.folder)

    def _configure(self) -> None:
        """Writes slurm.conf and what is looked for beside it."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        self.folder.chmod(0o755)
        accounting = "AccountingStorageType=accounting_storage/none"
        if self._accounting:
            # for this connection, the "password" is the path of munge's socket
            accounting = f"""AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={self._ports[1]}
AccountingStoragePass={self.folder}/munge.socket"""
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={self.host} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={self._cpus} RealMemory={self._memory} Gres=gpu:{self._gpus}"
            for node, port in zip(self.nodes, self._ports[2:], strict=True)
        )
        # The daemons can be kept to the loopback interface only where the machine's own name
        # leads there; elsewhere, munge's key keeps others out.
        with contextlib.suppress(OSError):
            if socket.gethostbyname(socket.gethostname()) == "127.0.0.1":
                accounting += "\nCommunicationParameters=NoCtldInAddrAny,NoInAddrAny"
        self._conf.write_text(
            f"""ClusterName=test
SlurmctldHost={self.host}(127.0.0.1)
SlurmctldPort={self._ports[0]}
SlurmUser={_user()}
SlurmdUser={_user()}
AuthType=auth/munge
CredType=cred/munge
# cred_expire: a requeued job waits this long before it starts again; less than 5 is ignored
AuthInfo=socket={self.folder}/munge.socket,cred_expire=5
StateSaveLocation={self.folder}/state
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmctldLogFile={self.folder}/slurmctld.log
SlurmdSpoolDir={self.folder}/spool/%n
SlurmdPidFile={self.folder}/slurmd.%n.pid
SlurmdLogFile={self.folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU={self._memory // self._cpus // 2}
# numbers of jobs are never used again: files are named after them
FirstJobId={int(time.time()) % 60_000_000 + 1}
MaxArraySize={self._largest_array}
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
KillWait=5
SlurmctldTimeout=10
SlurmdTimeout=5
MinJobAge=300
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# a preempted job gets the signal that it asked for, and not SIGTERM alone
SlurmctldParameters=preempt_send_user_signal
GresTypes=gpu
{accounting}
{nodes}
PartitionName=main Nodes=ALL Default=YES PriorityTier=10 PreemptMode=OFF DefaultTime=60
PartitionName=low Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=15 DefaultTime=60
"""
        )
        # a plugin has to be named, or slurmd looks for a hierarchy that containers do not have
        plugin = "disabled" if _version() >= (24, 5) else "cgroup/v1"
        (self.folder / "cgroup.conf").write_text(f"CgroupPlugin={plugin}\n")
        # CUDA_VISIBLE_DEVICES is set only where a GPU has a device: a link to /dev/null is one
        lines = ["AutoDetect=off"]
        for n in range(self._gpus):
            (self.folder / f"gpu{n}").symlink_to("/dev/null")
        for node in self.nodes:
            lines += [
                f"NodeName={node} Name=gpu Flags=nvidia_gpu_env File={self.folder}/gpu{n}"
                for n in range(self._gpus)
            ]
        (self.folder / "gres.conf").write_text("\n".join(lines) + "\n")


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _version() -> tuple[int, ...]:
    path = shutil.which("slurmd", path=f"{os.environ.get('PATH', '')}:{SBIN}") or "slurmd"
    said = subprocess.run([path, "-V"], capture_output=True, text=True).stdout
    return tuple(int(part) for part in said.split()[-1].split(".")[:2])


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _listening(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip().partition(":")[0]
    except OSError:
        return ""


def _wait(what: str, ready: Callable[[], bool], folder: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} was not ready after {seconds:.0f} s{_logs(folder, 15)}")
        time.sleep(0.1)


def _logs(folder: Path, lines: int) -> str:
    return "".join(
        f"\n--- {path.name}\n" + "\n".join(path.read_text().splitlines()[-lines:])
        for path in sorted(folder.glob("*.log"))
    )


def main() -> int:
    p = argparse.ArgumentParser(
        prog="python -m tests.slurm.cluster", description=str(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    p.add_argument("--nodes", type=int, default=2, metavar="N")
    p.add_argument("--cpus", type=int, default=4, metavar="N", help="of each node")
    p.add_argument("--gpus", type=int, default=2, metavar="N", help="of each node")
    p.add_argument("--accounting", action="store_true", help="with slurmdbd and MariaDB")
    p.add_argument("command", nargs="+", help="is run with the cluster, which ends with it")
    args = p.parse_args()
    if lacking := missing(args.accounting):
        sys.stderr.write(f"error: not installed: {', '.join(lacking)}\n")
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with Cluster(args.nodes, args.cpus, args.gpus, accounting=args.accounting) as cluster:
        return subprocess.call(args.command, env={**os.environ, **cluster.environment})


if __name__ == "__main__":
    raise SystemExit(main())
