"""A MultiProc plugin for Nipype that outlives a killed worker."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from traceback import format_exception
from typing import Any

from nipype.pipeline.engine import Node
from nipype.pipeline.plugins.multiproc import MultiProcPlugin, process_initializer, run_node

KILLED = (
    "h2lo_bids.errors.TemporaryError: the process of this step was killed, most often because "
    "memory ran out; run again with fewer --nprocs or on a machine with more memory"
)


class ResilientMultiProcPlugin(MultiProcPlugin):
    """Run nodes in processes of their own, and lose only the node whose process dies.

    Nipype's plugin shares one pool: a worker that is killed breaks the pool,
    the exception disappears in a callback and the run waits for ever. Here each
    slot is a pool of one process. When it breaks, its node is reported as
    failed, the slot gets a new process, and the nodes in other slots never
    notice.

    Parameters
    ----------
    plugin_args
        As for `MultiProcPlugin`: ``n_procs``, ``memory_gb``,
        ``raise_insufficient``, ``mp_context`` (``forkserver`` here, since a
        fork after PyTorch or ITK has started threads can hang),
        ``status_callback``.

    References
    ----------
    https://github.com/nipy/nipype/issues/3246
    """

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        args = {"mp_context": "forkserver", "raise_insufficient": False, **(plugin_args or {})}
        super().__init__(plugin_args=args)
        self.pool.shutdown(wait=False)  # the parent's shared pool; it has started no process
        self._idle: list[ProcessPoolExecutor] = []
        self._pools: list[ProcessPoolExecutor] = []

    def _new_pool(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(
            max_workers=1,
            initializer=process_initializer,
            initargs=(self._cwd,),
            mp_context=multiprocessing.get_context(self.plugin_args["mp_context"]),
        )
        self._pools.append(pool)
        return pool

    def _submit_job(self, node: Node, updatehash: bool = False) -> int:
        self._taskid += 1
        pool = self._idle.pop() if self._idle else self._new_pool()
        try:
            future = pool.submit(run_node, node, updatehash, self._taskid)
        except BrokenProcessPool:  # its process died while it waited for work
            self._discard(pool)
            pool = self._new_pool()
            future = pool.submit(run_node, node, updatehash, self._taskid)
        self._task_obj[self._taskid] = future
        future.add_done_callback(partial(self._finished, self._taskid, pool))
        return self._taskid

    def _finished(self, taskid: int, pool: ProcessPoolExecutor, future: Future[Any]) -> None:
        """Record what a node gave, or that its process gave nothing."""
        error = future.exception()
        if error is None:
            self._idle.append(pool)
            self._taskresult[taskid] = future.result()
            return
        trace = format_exception(type(error), error, error.__traceback__)
        if isinstance(error, BrokenProcessPool):
            trace.append(f"{KILLED}\n")
            self._discard(pool)
        else:
            self._idle.append(pool)
        self._taskresult[taskid] = {"result": None, "traceback": trace, "taskid": taskid}

    def _discard(self, pool: ProcessPoolExecutor) -> None:
        self._pools.remove(pool)
        pool.shutdown(wait=False)

    def _postrun_check(self) -> None:
        for pool in self._pools:
            pool.shutdown()
