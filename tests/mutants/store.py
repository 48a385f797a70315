"""Bugs in the store: what leaves it before it is durable, what is told to whom, what a full disk takes back."""

from __future__ import annotations

from typing import Final

from .mutant import Mutant

__all__ = ["MUTANTS"]

_STORE: Final = "kharon/store/local.py"
_COMMITS: Final = "kharon/store/commits.py"
_HELPER: Final = "kharon/store/helper.py"
_LOCAL: Final = ("tests/store/test_local_store.py",)
_SYNCER: Final = ("tests/store/test_syncer.py",)
_ROTATION: Final = ("tests/store/test_rotation_elsewhere.py",)
_FULL: Final = ("tests/store/test_storage_full.py",)

MUTANTS: Final = (
    # --- effects follow durability ------------------------------------------------------------------------------------
    Mutant(
        name="reply-before-the-sync",
        thought="The records are written, and the sync will follow; the caller need not wait for it.",
        file=_COMMITS,
        before="            landed = full is None and (not self._always or self._sync(group))\n",
        after="""\
            landed = full is None
            if landed and self._always:
                trio.lowlevel.current_trio_token().run_sync_soon(self._log.sync)
""",
        tests=_LOCAL,
    ),
    Mutant(
        name="effects-before-the-write-between-syncs",
        thought="With an interval, writing can wait for the sync as well.",
        file=_COMMITS,
        before="            full = self._write()\n",
        after="            full = self._write() if self._always else None\n",
        tests=_LOCAL,
    ),
    Mutant(
        name="read-before-it-is-durable",
        thought="A read changes nothing, so it has nothing to wait for.",
        file=_STORE,
        before="            if await self._still():\n                return ticket\n",
        after="            await trio.lowlevel.checkpoint()\n            return ticket\n",
        tests=_LOCAL,
    ),
    Mutant(
        name="refusal-before-it-is-durable",
        thought="A refusal writes nothing, so it has nothing to wait for.",
        file=_STORE,
        before="""\
        try:
            return self._execute(commands, by)
        finally:
            # A refusal, too, tells of a state that has to be durable first.
            await self._commits.durable()
""",
        after="""\
        try:
            tickets = self._execute(commands, by)
        except Exception:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        await self._commits.durable()
        return tickets
""",
        tests=_LOCAL,
    ),
    Mutant(
        name="handler-before-its-claim-is-durable",
        thought="A claim that is lost in a crash is claimed again, so its handler can begin at once.",
        file=_STORE,
        before="        finally:\n            await self._commits.durable()\n        return claimed[0]\n",
        after="""\
        finally:
            if settle is None and claimed[0] is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                await self._commits.durable()
        return claimed[0]
""",
        tests=_LOCAL,
    ),
    Mutant(
        name="read-shows-what-is-in-flight",
        thought="What has been written can be read.",
        file=_STORE,
        before='        return self._log.durable if self._settings.fsync == "always" else self._log.written\n',
        after="        return self._log.written\n",
        tests=_SYNCER,
    ),
    Mutant(
        name="next-group-written-beside-the-one-in-flight",
        thought="While one group is being synced the next one can be written.",
        file=_COMMITS,
        before="return self._rotation is not None or (self._always and self._in_flight is not None)",
        after="return self._rotation is not None",
        tests=_SYNCER,
    ),
    Mutant(
        name="written-during-a-rotation",
        thought="A new segment is begun beside the tail, which can be written meanwhile.",
        file=_COMMITS,
        before="return self._rotation is not None or (self._always and self._in_flight is not None)",
        after="return self._always and self._in_flight is not None",
        tests=_ROTATION,
    ),
    # --- failures -----------------------------------------------------------------------------------------------------
    Mutant(
        name="outcome-unknown-told-to-the-leader-only",
        thought="One of a group is told that the write failed; the others can go on.",
        file=_COMMITS,
        before="            trio.lowlevel.reschedule(task, outcome.Error(unknown_outcome(error)))\n",
        after="            trio.lowlevel.reschedule(task)\n",
        tests=_LOCAL,
    ),
    Mutant(
        name="failure-in-the-background-only-logged",
        thought="Nobody waits for a sync in the background, so a line in the application's log is enough.",
        file=_COMMITS,
        before="            self.fail(error)\n            raise unknown_outcome(error) from error\n",
        after='            _logger.error("a sync failed: %s", error)\n'
        "            raise unknown_outcome(error) from error\n",
        tests=_LOCAL,
    ),
    Mutant(
        name="lost-answer-taken-for-success",
        thought="A helper that has ended has no error to tell.",
        file=_HELPER,
        before='done(AnswerLost("the helper process ended before it said how a sync went"), 0.0)',
        after="done(None, 0.0)",
        tests=_SYNCER,
    ),
    Mutant(
        name="lost-answer-not-looked-into",
        thought="The helper was asked to sync, and whatever ended it, the kernel goes on.",
        file=_COMMITS,
        before="and _LOST_SYNC_IS_REPEATED:\n                self._log.sync()\n",
        after="and _LOST_SYNC_IS_REPEATED:\n                log.end_sync(seq, None)\n",
        tests=_SYNCER,
    ),
    Mutant(
        name="lost-answer-repeated-anywhere",
        thought="A sync can be done twice on every system.",
        file=_COMMITS,
        before="            if isinstance(error, AnswerLost) and _LOST_SYNC_IS_REPEATED:\n",
        after="            if isinstance(error, AnswerLost):\n",
        tests=_SYNCER,
    ),
    Mutant(
        name="lost-answer-in-a-rotation-not-looked-into",
        thought="Whatever ended the helper, the new segment is there.",
        file=_COMMITS,
        before="            error = _error_of(step)\n        self._rotate(rotation, error)\n",
        after="            error = None\n        self._rotate(rotation, error)\n",
        tests=_ROTATION,
    ),
    Mutant(
        name="helpers-errno-dropped",
        thought="The helper answers when it has synced.",
        file=_HELPER,
        before="done(OSError(failure, os.strerror(failure)) if failure else None, seconds)",
        after="done(None, seconds)",
        tests=_SYNCER,
    ),
    # --- no room ------------------------------------------------------------------------------------------------------
    Mutant(
        name="taken-back-oldest-first",
        thought="What is undone can be undone in any order.",
        file=_COMMITS,
        before="        for effect in reversed(effects):\n",
        after="        for effect in effects:\n",
        tests=_FULL,
    ),
    Mutant(
        name="full-store-refuses-settles-too",
        thought="While there is no room nothing is taken.",
        file=_STORE,
        before="        if growing and not self._commits.may_grow():\n",
        after="        if not self._commits.may_grow():\n",
        tests=_FULL,
    ),
    # --- commits ------------------------------------------------------------------------------------------------------
    Mutant(
        name="many-commands-as-many-commits",
        thought="Nothing comes between them, so commands can be executed one by one.",
        file=_STORE,
        before="            return self._execute(commands, by)\n",
        after="            return [ticket for command in commands for ticket in self._execute((command,), by)]\n",
        tests=_LOCAL,
    ),
    Mutant(
        name="claim-of-a-dead-process-not-counted",
        thought="It was not the ticket's fault that the process ended.",
        file=_STORE,
        before="                    self._lapse(ticket, _PROCESS_ENDED)\n",
        after="                    self._execute((Release(ticket.id, ticket.claim),), _CLOCK)\n",
        tests=_LOCAL,
    ),
)
