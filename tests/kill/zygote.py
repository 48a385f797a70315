"""A process that has imported everything and forks the ones that are killed, so that a death costs milliseconds.

It has one thread and has never run Trio, so what it forks is as good as a process of its own: it opens the queue anew,
and nothing of it is shared. Commands come as lines on stdin: a JSON object begins a process, with these arguments of
`writer.play`; "kill" kills it; "wait" waits for its end. Before its own lines stands "started PID" on stdout, and
behind them, once it has been reaped, "ended STATUS", as of `subprocess`: minus the number of the signal that killed it.
"""

import json
import os
import signal
import sys
import traceback

import writer


def fork(options: dict) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        writer.say("started", str(os.getpid()))
        writer.play(**options)
        status = 0
    except KeyboardInterrupt:
        writer.say("ended-by", "KeyboardInterrupt")
        status = 0
    except BaseException:  # noqa: BLE001 - it is this process's end, and its test reads why
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    pid = 0
    for line in sys.stdin:
        command = line.strip()
        if command.startswith("{"):
            pid = fork(json.loads(command))
            continue
        if command == "kill":  # it has not been reaped, so nobody else has its pid
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        writer.say("ended", str(os.waitstatus_to_exitcode(status)))


main()
