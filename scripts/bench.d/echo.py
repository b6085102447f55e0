"""echo.py KEYS: measures the time of a key to a walked program and back, in ms, alone and beside bulk output."""

import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time

KEYS = int(sys.argv[1])
EXEC = ["oswalk", "exec", "--on", "n1", "--walk-all"]


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def start():
    """Starts a walked cat on a raw terminal; returns the terminal's master once cat answers."""
    master, slave = pty.openpty()
    settings = termios.tcgetattr(slave)
    settings[0] = settings[1] = 0
    settings[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
    termios.tcsetattr(slave, termios.TCSANOW, settings)
    cat = subprocess.Popen(EXEC + ["--", "cat"], stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    os.write(master, b"x")
    os.read(master, 1)
    return master, cat


def keys(master):
    times = []
    for _ in range(KEYS):
        start = time.monotonic()
        os.write(master, b"k")
        os.read(master, 1)
        times.append((time.monotonic() - start) * 1e3)
        time.sleep(0.002)
    return times


master, cat = start()
quiet = keys(master)
bulk = subprocess.Popen(EXEC + ["--", "cat", "/dev/zero"], stdout=subprocess.PIPE, start_new_session=True)
os.read(bulk.stdout.fileno(), 1)
drain = subprocess.Popen(["sh", "-c", "exec 3<&0; cat <&3 >/dev/null & echo $!; wait"], stdin=bulk.stdout, stdout=subprocess.PIPE)
reader = int(drain.stdout.readline())
# Counts every byte read from the pipe.
taken = lambda: int(next(line for line in open(f"/proc/{reader}/io") if line.startswith("rchar")).split()[1])
time.sleep(0.5)
before, began = taken(), time.monotonic()
busy = keys(master)
rate = (taken() - before) / (time.monotonic() - began) / 1e6
# Kills the whole process groups, since oswalk is only the parent of the measured programs.
for process in (bulk, cat):
    os.killpg(process.pid, signal.SIGKILL)
os.close(master)
for process in (bulk, cat, drain):
    process.wait()
result = {"bulk_mb_s": rate}
for name, times in (("quiet", quiet), ("busy", busy)):
    result[f"{name}_p50"], result[f"{name}_p99"] = quantile(times, 0.5), quantile(times, 0.99)
print(json.dumps(result))
