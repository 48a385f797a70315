"""Bugs in the store: what leaves it before it is durable, what is told to whom, what a full disk takes back."""

from __future__ import annotations

from typing import Final

from .mutant import Mutant
from .places import (
    GROUP_COMMIT,
    LOCAL_STORE,
    SYNC_HELPER,
    TEST_LOCAL,
    TEST_RECORDING,
    TEST_ROTATION_ELSEWHERE,
    TEST_STORAGE_FULL,
    TEST_SYNC_HELPER,
)

__all__ = ["MUTANTS"]


MUTANTS: Final = (
    # --- effects follow durability ------------------------------------------------------------------------------------
    Mutant(
        name="reply-before-the-sync",
        thought="The records are written, and the sync will follow; the caller need not wait for it.",
        file=GROUP_COMMIT,
        function="Commits._flush",
        before="            durable = full is None and (not self._always or self._sync(group))\n",
        after="""\
            durable = full is None
            if durable and self._always:
                trio.lowlevel.current_trio_token().run_sync_soon(self._log.sync)
""",
        tests=(TEST_LOCAL,),
    ),
    Mutant(
        name="effects-before-the-write-between-syncs",
        thought="With an interval, writing can wait for the sync as well.",
        file=GROUP_COMMIT,
        function="Commits._flush",
        before="full = self._write()",
        after="full = self._write() if self._always else None",
        tests=(TEST_LOCAL,),
    ),
    Mutant(
        name="read-before-it-is-durable",
        thought="A read changes nothing, so it has nothing to wait for.",
        file=LOCAL_STORE,
        function="LocalStore.get",
        before="            if await self._confirmed():\n                return ticket\n",
        after="            await trio.lowlevel.checkpoint()\n            return ticket\n",
        tests=(TEST_LOCAL,),
    ),
    Mutant(
        name="refusal-before-it-is-durable",
        thought="A refusal writes nothing, so it has nothing to wait for.",
        file=LOCAL_STORE,
        function="LocalStore._submit",
        before="""\
        try:
            return self._execute(commands, by)
        finally:
            # A refusal shows a state, too, which has to be durable first.
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
        tests=(TEST_LOCAL,),
    ),
    Mutant(
        name="handler-before-its-claim-is-durable",
        thought="A claim that is lost in a crash is claimed again, so its handler can begin at once.",
        file=LOCAL_STORE,
        function="LocalStore._turn",
        before="        finally:\n            await self._commits.durable()\n        return claimed[0]\n",
        after="""\
        finally:
            if settle is None and claimed[0] is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                await self._commits.durable()
        return claimed[0]
""",
        tests=(TEST_LOCAL,),
    ),
    Mutant(
        name="read-shows-what-is-in-flight",
        thought="What has been written can be read.",
        file=LOCAL_STORE,
        function="LocalStore._readable_seq",
        before='return self._log.durable if self._settings.fsync == "always" else self._log.written',
        after="return self._log.written",
        tests=(TEST_SYNC_HELPER,),
    ),
    Mutant(
        name="next-group-written-beside-the-one-in-flight",
        thought="While one group is being synced the next one can be written.",
        file=GROUP_COMMIT,
        function="Commits._must_wait",
        before="return self._rotation is not None or (self._always and self._in_flight is not None)",
        after="return self._rotation is not None",
        tests=(TEST_SYNC_HELPER,),
    ),
    Mutant(
        name="written-during-a-rotation",
        thought="A new segment is begun beside the tail, which can be written meanwhile.",
        file=GROUP_COMMIT,
        function="Commits._must_wait",
        before="return self._rotation is not None or (self._always and self._in_flight is not None)",
        after="return self._always and self._in_flight is not None",
        tests=(TEST_ROTATION_ELSEWHERE,),
    ),
    # --- failures -----------------------------------------------------------------------------------------------------
    Mutant(
        name="outcome-unknown-told-to-the-leader-only",
        thought="One of a group is told that the write failed; the others can go on.",
        file=GROUP_COMMIT,
        function="Commits._fail",
        before="trio.lowlevel.reschedule(task, outcome.Error(unknown_outcome(error)))",
        after="trio.lowlevel.reschedule(task)",
        tests=(TEST_LOCAL,),
    ),
    Mutant(
        name="whoever-shared-a-group-counted-as-told",
        thought="A sync after a durable group is of the same records, so the tasks that waited for it know.",
        file=GROUP_COMMIT,
        function="Commits._sync_written",
        before="        group.internal.append(group.leader)\n",
        after="",
        tests=(TEST_RECORDING,),
    ),
    Mutant(
        name="helper-of-a-failed-opening-left-behind",
        thought="A queue that was not opened has nothing to end.",
        file=LOCAL_STORE,
        function="LocalStore.open",
        before="                await self._commits.stop()  # lapses",
        after="                pass  # lapses",
        tests=(f"{TEST_SYNC_HELPER}::test_an_opening_that_fails_leaves_no_helper_behind",),
    ),
    Mutant(
        name="failure-in-the-background-only-logged",
        thought="Nobody waits for a sync in the background, so a line in the application's log is enough.",
        file=GROUP_COMMIT,
        function="Commits._sync_written",
        before="            self.fail(error)\n            raise unknown_outcome(error) from error\n",
        after='            say(logging.ERROR, "a sync failed: %s", error)\n'
        "            raise unknown_outcome(error) from error\n",
        tests=(TEST_LOCAL,),
    ),
    Mutant(
        name="lost-answer-taken-for-success",
        thought="A helper that has ended has no error to tell.",
        file=SYNC_HELPER,
        function="Helper._give_up",
        before='done(AnswerLost("the helper process ended before it answered"), 0.0)',
        after="done(None, 0.0)",
        tests=(TEST_SYNC_HELPER,),
    ),
    Mutant(
        name="lost-answer-not-looked-into",
        thought="The helper was asked to sync, and whatever ended it, the kernel goes on.",
        file=GROUP_COMMIT,
        function="Commits._complete_sync",
        before="and _LOST_SYNC_IS_REPEATED:\n                self._log.sync()\n",
        after="and _LOST_SYNC_IS_REPEATED:\n                log.end_sync(seq, None)\n",
        tests=(TEST_SYNC_HELPER,),
    ),
    Mutant(
        name="lost-answer-repeated-anywhere",
        thought="A sync can be done twice on every system.",
        file=GROUP_COMMIT,
        function="Commits._complete_sync",
        before="if isinstance(error, AnswerLost) and _LOST_SYNC_IS_REPEATED:",
        after="if isinstance(error, AnswerLost):",
        tests=(TEST_SYNC_HELPER,),
    ),
    Mutant(
        name="lost-answer-in-a-rotation-not-looked-into",
        thought="Whatever ended the helper, the new segment is there.",
        file=GROUP_COMMIT,
        function="Commits._rotated",
        before="            error = _sync_here(step)\n        self._rotate(rotation, error)\n",
        after="            error = None\n        self._rotate(rotation, error)\n",
        tests=(TEST_ROTATION_ELSEWHERE,),
    ),
    Mutant(
        name="helpers-errno-dropped",
        thought="The helper answers when it has synced.",
        file=SYNC_HELPER,
        function="Helper._receive",
        before="done(OSError(failure, os.strerror(failure)) if failure else None, seconds)",
        after="done(None, seconds)",
        tests=(TEST_SYNC_HELPER,),
    ),
    # --- no room ------------------------------------------------------------------------------------------------------
    Mutant(
        name="taken-back-oldest-first",
        thought="What is undone can be undone in any order.",
        file=GROUP_COMMIT,
        function="Commits._take_back",
        before="for commit in reversed(group.commits):",
        after="for commit in group.commits:",
        tests=(TEST_STORAGE_FULL,),
    ),
    Mutant(
        name="full-store-refuses-settles-too",
        thought="While there is no room nothing is taken.",
        file=LOCAL_STORE,
        function="LocalStore._append",
        before="if growing and not self._commits.may_grow():",
        after="if not self._commits.may_grow():",
        tests=(TEST_STORAGE_FULL,),
    ),
    Mutant(
        name="end-suffers-from-its-group",
        thought="A settle without a claim that found no room has used up the reserve.",
        file=LOCAL_STORE,
        function="LocalStore.turn",
        before="if with_claim or self._commits.group_grew:",
        after="if with_claim:",
        tests=(TEST_STORAGE_FULL,),
    ),
    # --- commits ------------------------------------------------------------------------------------------------------
    Mutant(
        name="many-commands-as-many-commits",
        thought="Nothing comes between them, so commands can be executed one by one.",
        file=LOCAL_STORE,
        function="LocalStore._submit",
        before="return self._execute(commands, by)",
        after="return [ticket for command in commands for ticket in self._execute((command,), by)]",
        tests=(TEST_LOCAL,),
    ),
    Mutant(
        name="claim-of-a-dead-process-not-counted",
        thought="It was not the ticket's fault that the process ended.",
        file=LOCAL_STORE,
        function="LocalStore._lapse_all",
        before="self._lapse(ticket, _PROCESS_ENDED)",
        after="self._execute((Release(ticket.id, ticket.claim),), CLOCK)",
        tests=(TEST_LOCAL,),
    ),
    Mutant(
        name="claims-of-a-dead-process-between-slices",
        thought="The next slice begins behind the last one.",
        file=LOCAL_STORE,
        function="LocalStore._lapse_all",
        before="range(0, len(dead), _TICK_LIMIT)",
        after="range(0, len(dead), _TICK_LIMIT + 1)",
        tests=(TEST_LOCAL,),
    ),
    Mutant(
        name="idle-workers-of-a-store-that-is-gone",
        thought="Whoever is idle is cancelled when the queue ends.",
        file=LOCAL_STORE,
        function="LocalStore._wake_everyone",
        before="        self._readers.unpark_all()\n        self._idle.unpark_all()\n",
        after="        self._readers.unpark_all()\n",
        tests=(TEST_LOCAL,),
    ),
)
