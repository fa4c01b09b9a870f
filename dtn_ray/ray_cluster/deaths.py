"""Explains in one line why Ray ended a process. Ray's own messages have sixty lines, and end in the middle of a
list."""

import re

MEMORY = re.compile(r"running low on memory|exceeds the memory usage threshold|ray\.exceptions\.OutOfMemoryError")
GPU = re.compile(r"CUDA out of memory|CUDA error: out of memory")
NODE = re.compile(r"node \(IP: (?P<ip>[^,)]+).*?was (?P<used>[\d.]+ ?GB)(?: used)? / (?P<limit>[\d.]+ ?GB)", re.DOTALL)
LARGEST = re.compile(r"^(?P<pid>\d+)\t(?P<gigabytes>[\d.]+)\t(?P<command>.+)$", re.MULTILINE)
STORE = re.compile(r"ObjectStoreFullError|object store is full|Failed to put object .* in object store", re.IGNORECASE)
DISK = re.compile(r"OutOfDiskError|No space left on device|local disk is full|disk is full", re.IGNORECASE)
WORKER = re.compile(
    r"worker process has died|Worker unexpectedly exits|worker died unexpectedly|WorkerCrashedError", re.IGNORECASE
)
PID = re.compile(r"\bpid[:=] ?(\d+)")
IP = re.compile(r"\b(?:ip|IP address): ?([\d.a-fA-F:]+)")

NAMED = 3  # how many of the largest processes a message names
LONGEST_COMMAND = 60  # characters


def death(error: BaseException) -> str | None:
    """What ran out or died, and what to do, from the text of an error of Ray's; None for other errors.

    One line, without a full stop at its end.
    """
    text = str(error)
    if MEMORY.search(text):
        return (
            f"memory ran out{_where(text)}, and Ray killed a process of this job{_takers(text)}: stop other programs, "
            "use fewer workers, or use a machine with more memory"
        )
    if GPU.search(text):
        return "the memory of a GPU ran out: stop other programs that use it, or choose a smaller --batch-size"
    if STORE.search(text):
        return (
            "Ray's object store is full: give it more memory (`ray start --object-store-memory BYTES`; in a container, "
            "a larger /dev/shm), or use fewer workers"
        )
    if DISK.search(text):
        return "a disk is full, that of --storage, of OUT or of Ray's files in /tmp/ray: free space there"
    if WORKER.search(text):
        pid, ip = PID.search(text), IP.search(text)
        who = (f" (pid {pid[1]}" + (f" on {ip[1]})" if ip else ")")) if pid else ""
        return (
            f"a process of this job{who} was killed by a signal, such as SIGKILL from the kernel when memory runs out "
            "(see `dmesg`), or SIGSEGV from a crash in a library"
        )
    return None


def _where(text: str) -> str:
    found = NODE.search(text)
    return f" on node {found['ip']} ({found['used']} of {found['limit']})" if found else ""


def _takers(text: str) -> str:
    """The largest processes in Ray's message."""
    found = [
        f"{each['command'].strip()[:LONGEST_COMMAND]} ({each['gigabytes']} GB, pid {each['pid']})"
        for each in LARGEST.finditer(text)
    ]
    return f"; the largest processes were {', '.join(found[:NAMED])}" if found else ""
