"""Threads with a name, a heartbeat and an end, and the queues between them: the only home of threads.

Above the sans-IO machines, below `logs` and `transport`. A thread here owns its state; others reach it through a
bounded queue, and what goes wrong on it becomes data.

*Fork safety.* Threads do not survive `fork`, and locks that another thread held stay locked in the child. Start threads
after forking, or make processes with the `spawn` method. All threads are daemons, so a hung one cannot keep the
process from exiting; `ThreadManager.stop` is what makes an exit orderly.
"""

from threading import Lock

from rapini.threads.manager import StopReport, ThreadManager
from rapini.threads.message_thread import MessageThread, MessageThreadStatistics
from rapini.threads.queues import LockedQueue, Overflow, Queue, QueueStatistics
from rapini.threads.thread import Thread, ThreadFailure, ThreadState, ThreadStatistics

__all__ = [
    "Lock",
    "LockedQueue",
    "MessageThread",
    "MessageThreadStatistics",
    "Overflow",
    "Queue",
    "QueueStatistics",
    "StopReport",
    "Thread",
    "ThreadFailure",
    "ThreadManager",
    "ThreadState",
    "ThreadStatistics",
]
