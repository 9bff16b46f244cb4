"""The rules of docs/architecture.md, each switched off in one place, and the tests that notice.

``python -m tests.mutants`` tries them all. Where the simulator cannot see a mutant, ``unseen`` says
why.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

LEASES = "tests/unit/test_core_leases.py"
WISHES = "tests/unit/test_core_wishes.py"
TERMS = "tests/unit/test_core_terms.py"
AGENT_TERMS = "tests/unit/test_agent_core_terms.py"
AGENT = "tests/unit/test_agent_core.py"
ALARM = "tests/unit/test_agent_core_alarm.py"
DISK = "tests/unit/test_agent_disk.py"
FLUSHER = "tests/unit/test_flusher.py"
STORE = "tests/contract/test_store.py"
MACHINE = "tests/contract/test_store_machine.py"
POSTGRES = "tests/integration/test_postgres.py"
KEEPER = "tests/integration/test_keeper.py"
ROOMS = "tests/unit/test_core_room.py"
AGENT_ROOM = "tests/unit/test_agent_core_room.py"
HANDOVER = "tests/unit/test_core_handover.py"
HANDED = "tests/unit/test_agent_core_handover.py"
AGENT_GPUS = "tests/integration/test_agent_gpus.py"
CGROUPS = "tests/integration/test_keeper_cgroups.py"
ZYGOTES = "tests/integration/test_zygotes.py"
SPOOL = "tests/unit/test_spool.py"
WARM = "tests/unit/test_zygotes.py"

OWN_DATABASE = "its database is a model; the contract suite holds the real one"
OWN_KEEPER = "its keeper is a model; the integration tests hold the real one"

ROWS_AND_REIGNS = (
    Mutant(
        name="compare-and-set",
        what="a task instance moves whatever state it is in",
        file="dispatcher/store/moves.py",
        old="if _apply(database, TaskInstance, guarded, part) != len(part):",
        new="if _apply(database, TaskInstance, guarded, part) < 0:",
        killed_by={
            STORE: (
                "test_a_move_that_was_made_already_fails_the_guard[sqlite]",
                "test_a_move_that_was_made_already_fails_the_guard[postgres]",
            ),
            MACHINE: ("test_no_history_breaks_the_promise[sqlite]",),
        },
        unseen=OWN_DATABASE,
    ),
    Mutant(
        name="token guard",
        what="a row is changed under an old token",
        file="dispatcher/store/moves.py",
        old="guarded = (TaskInstance.state, TaskInstance.token)",
        new="guarded = (TaskInstance.state, TaskInstance.token)\n"
        "    for each in changes.values():\n"
        "        pk = each.first.task_pk\n"
        "        row = TaskInstance.select().where(TaskInstance.id == pk).execute(database)\n"
        "        each.before = (each.before[0], row[0].token if row else 0)",
        killed_by={
            STORE: (
                "test_a_task_with_another_token_fails_the_guard[sqlite]",
                "test_a_task_with_another_token_fails_the_guard[postgres]",
            )
        },
        unseen=OWN_DATABASE,
    ),
    Mutant(
        name="one end of a try",
        what="a try that has ended is ended again",
        file="dispatcher/store/moves.py",
        old="""still_open = '"outcome" IS NULL'""",
        new="still_open = ''",
        killed_by={
            STORE: (
                "test_a_try_is_closed_once_and_only_with_its_token[sqlite]",
                "test_a_try_is_closed_once_and_only_with_its_token[postgres]",
            )
        },
        unseen=OWN_DATABASE,
    ),
    Mutant(
        name="epoch check",
        what="a deposed dispatcher goes on writing",
        file="dispatcher/store/leader.py",
        old="if current != epoch:",
        new="if current < epoch:",
        killed_by={
            STORE: (
                "test_a_commit_under_a_stale_epoch_is_refused_and_nothing_is_written[sqlite]",
                "test_a_commit_under_a_stale_epoch_is_refused_and_nothing_is_written[postgres]",
            ),
            MACHINE: ("test_no_history_breaks_the_promise[sqlite]",),
        },
        unseen=OWN_DATABASE,
    ),
    Mutant(
        name="predecessor's session",
        what="a new leader waits for a predecessor that stalls in a transaction",
        file="dispatcher/store/leader.py",
        old="_end_session(database, before)",
        new="pass",
        killed_by={
            POSTGRES: (
                "test_a_predecessor_that_stalls_in_a_transaction_does_not_hold_up_the_next_reign",
            )
        },
        unseen=OWN_DATABASE,
    ),
    Mutant(
        name="ack after commit",
        what="events are acked before what they mean is committed",
        file="dispatcher/flusher.py",
        old="if effects.writes:",
        new="if delivery: delivery.ack(multiple=True)\n            if effects.writes:",
        killed_by={FLUSHER: ("test_acks_and_messages_follow_the_commit",)},
        unseen="it has a flusher of its own",
    ),
)

CLAIMS_AND_RESULTS = (
    Mutant(
        name="claim",
        what="what another agent runs is granted once more",
        file="dispatcher/core/claims.py",
        old="return agent.tokens.get(task.token) == task.id and task.session == agent.row.session",
        new="return task.state is TaskState.RUNNING",
        killed_by={LEASES: ("test_two_agents_claim_the_same_try_and_one_gets_it",)},
    ),
    Mutant(
        name="kept token",
        what="a token kept from an older session is granted again to the new one",
        file="dispatcher/core/claims.py",
        old="return agent.tokens.get(task.token) == task.id and task.session == agent.row.session",
        new="return agent.tokens.get(task.token) == task.id",
        killed_by={
            LEASES: ("test_a_token_that_a_hello_kept_is_not_granted_again_to_the_new_session",)
        },
        unseen=(
            "an agent adopts the message of a token that it keeps and never claims it: in 2,000 "
            "seeds nobody claimed a kept token"
        ),
    ),
    Mutant(
        name="token check",
        what="a result counts whatever token it carries",
        file="dispatcher/core/claims.py",
        old="return state.tasks[task_pk] if agent.tokens.get(token) == task_pk else None",
        new="task = state.tasks.get(task_pk)\n"
        "    return task if task and task.state is TaskState.RUNNING else None",
        killed_by={
            LEASES: (
                "test_a_result_with_an_old_token_changes_nothing_and_is_answered",
                "test_an_agent_cannot_end_another_agents_token",
            )
        },
    ),
    Mutant(
        name="stale try",
        what="a claim of an earlier try is granted the present one",
        file="dispatcher/core/claims.py",
        old="if task is None or task.try_number != message.try_number:",
        new="if task is None:",
        killed_by={LEASES: ("test_a_claim_of_a_stale_try_is_denied",)},
    ),
    Mutant(
        name="same grant again",
        what="the answer to a repeated claim is that the task runs already",
        file="dispatcher/core/claims.py",
        old="elif _granted_to(agent, task):",
        new="elif task.state is TaskState.NONE:",
        killed_by={LEASES: ("test_the_same_claim_gets_the_same_grant_again",)},
        unseen="the agent forgets its claim, and the grant sent with its next heartbeat comes back",
    ),
    Mutant(
        name="lost grant",
        what="a grant that never arrived is not sent again",
        file="dispatcher/core/core.py",
        old="claims.resend_grants(self.state, agent, set(message.tokens), now, out)",
        new="pass",
        killed_by={
            LEASES: (
                "test_a_grant_that_never_arrived_is_repeated_on_heartbeats_that_do_not_list_it",
            )
        },
        unseen="a claim is repeated until it is answered, and gets the same grant",
    ),
    Mutant(
        name="growing tokens",
        what="a token is the time on the wall, which may be set back",
        file="dispatcher/core/state.py",
        old="self.last_token = max(self.last_token + 1, int(wall.timestamp() * 1000))",
        new="self.last_token = int(wall.timestamp() * 1000)",
        killed_by={LEASES: ("test_tokens_grow_even_when_the_wall_clock_steps_back",)},
    ),
    Mutant(
        name="death that was none",
        what="a task is charged with the losses of agents that were only cut off",
        file="dispatcher/core/sessions.py",
        old="if older.incarnation == message.incarnation:\n        take_back(",
        new="if message.session < 0:\n        take_back(",
        killed_by={
            LEASES: (
                "test_a_takeover_of_a_process_that_comes_back_is_not_charged_to_the_task",
                "test_three_partitions_of_healthy_agents_fail_no_task",
            )
        },
    ),
    Mutant(
        name="death that was one",
        what="a task is let off although another process answers for the agent",
        file="dispatcher/core/sessions.py",
        old="if older.incarnation == message.incarnation:\n        take_back(",
        new="if message.session > 0:\n        take_back(",
        killed_by={LEASES: ("test_a_takeover_of_a_process_that_is_gone_stays_charged",)},
        unseen="a task that is charged with too little is only tried more often",
    ),
    Mutant(
        name="one suspect at a time",
        what="an agent runs several tasks that may have killed one",
        file="dispatcher/core/holding.py",
        old="if is_suspect(state, task) and any(",
        new="if False and any(",
        killed_by={
            LEASES: (
                "test_an_agent_runs_one_suspect_at_a_time_and_the_next_death_is_charged_to_it_alone",
            )
        },
    ),
    Mutant(
        name="poison",
        what="a task that kills its agents is tried for ever",
        file="dispatcher/core/deaths.py",
        old="if deaths >= state.rules.max_deaths:",
        new="if deaths < 0:",
        killed_by={LEASES: ("test_three_deaths_of_agents_fail_the_task_they_were_running",)},
    ),
)

SESSIONS_AND_LEASES = (
    Mutant(
        name="session order",
        what="messages of an older session count",
        file="dispatcher/core/sessions.py",
        old="if message.session < agent.row.session or not agent.live:",
        new="if not agent.live:",
        killed_by={LEASES: ("test_everything_from_a_lower_session_is_refused",)},
        unseen=(
            "other processes are told by their incarnation; what an earlier session of the same "
            "process says late carries tokens that have ended, or claims what is then given back"
        ),
    ),
    Mutant(
        name="repeated hello",
        what="a hello of the same session ends what that session holds",
        file="dispatcher/core/sessions.py",
        old="if message.session > older.session:",
        new="if message.session >= older.session:",
        killed_by={LEASES: ("test_a_repeated_hello_of_the_same_session_releases_nothing",)},
    ),
    Mutant(
        name="another home",
        what="a second agent of the same name takes the first one's tasks",
        file="dispatcher/core/sessions.py",
        old="if agent.live:\n            return (",
        new="if message.session < 0:\n            return (",
        killed_by={
            LEASES: ("test_the_same_name_from_another_home_is_refused_while_the_first_lives",)
        },
    ),
    Mutant(
        name="spool, heard",
        what="a hello ends the tokens whose results it announces",
        file="dispatcher/core/sessions.py",
        old="kept={*message.spooled, *message.kept},",
        new="kept={*message.kept},",
        killed_by={LEASES: ("test_a_hello_keeps_tokens_whose_result_is_in_the_spool",)},
    ),
    Mutant(
        name="wait",
        what="a task that must wait for its agent is run again elsewhere",
        file="dispatcher/core/deaths.py",
        old="if vanished:",
        new="if vanished and not died:",
        killed_by={
            LEASES: ("test_on_agent_lost_wait_outlives_silence_until_a_later_session_speaks",)
        },
    ),
    Mutant(
        name="marker",
        what="silence is enough: no pulse has to come back before a takeover",
        file="dispatcher/core/leases.py",
        old="out.markers.append(state.pulse.number)",
        new="marker_returned(state, state.pulse.number, now, out)",
        killed_by={
            LEASES: (
                "test_nothing_is_taken_over_before_the_pulse_sent_after_the_silence_has_come_back",
                "test_a_heartbeat_read_before_the_pulse_prevents_the_takeover",
            )
        },
    ),
    Mutant(
        name="time of a pulse",
        what="the time for which the events queue is held up counts as silence",
        file="dispatcher/core/leases.py",
        old="agent.heard += now.mono - max(pulse.sent, agent.heard)",
        new="pass",
        killed_by={LEASES: ("test_time_for_which_the_line_is_held_up_is_no_silence",)},
    ),
    Mutant(
        name="late pulse",
        what="the time for which the dispatcher itself was stopped counts as silence",
        file="dispatcher/core/leases.py",
        old="agent.heard = min(now.mono, agent.heard + now.mono - due)",
        new="pass",
        killed_by={
            LEASES: ("test_time_for_which_the_dispatcher_itself_was_stopped_is_no_silence",)
        },
    ),
    Mutant(
        name="fresh timers",
        what="a new reign counts the silence of the reigns before it",
        file="dispatcher/core/state.py",
        old="Agent(row, heard=now.mono) for row",
        new="Agent(row, now.mono - (now.wall - row.last_heartbeat).total_seconds()) for row",
        killed_by={LEASES: ("test_a_new_reign_starts_every_lease_afresh_and_ignores_old_markers",)},
        unseen=(
            "the first pulse of the reign is then late by the same time, which is not counted "
            "either (mutant 'late pulse'): two heartbeat intervals of it are left, less than G"
        ),
    ),
    Mutant(
        name="markers of a reign",
        what="a marker that an earlier reign sent counts",
        file="dispatcher/core/core.py",
        old="case wire.Marker() if message.reign == self.state.reign:",
        new="case wire.Marker():",
        killed_by={
            LEASES: ("test_a_marker_of_an_earlier_reign_is_not_taken_for_one_of_this_reign",)
        },
        unseen=(
            "a stray marker comes back in a reign's first seconds, when no silence is long enough "
            "for a takeover; the pulse that it ends too early costs one heartbeat interval at most"
        ),
    ),
)

OUTBOX_AND_WISHES = (
    Mutant(
        name="publish-pending",
        what="what was queued but perhaps never published is not published by the next reign",
        file="dispatcher/core/core.py",
        old="out.publications.append(publication(self.state, self.state.tasks[task_pk]))",
        new="pass",
        killed_by={LEASES: ("test_queued_rows_are_published_again_when_a_reign_begins",)},
    ),
    Mutant(
        name="reconciler",
        what="a message that the broker lost is not published again",
        file="dispatcher/core/reconcile.py",
        old="out.publications.append(publication(state, task))",
        new="pass",
        killed_by={
            LEASES: (
                "test_a_message_the_broker_lost_is_published_again_unless_it_was_claimed[False]",
            )
        },
    ),
    Mutant(
        name="wishes",
        what="an agent that missed the first request to stop a task hears of no other",
        file="dispatcher/core/core.py",
        old="wishes.repeat(self.state, agent, message.tokens, out)",
        new="pass",
        killed_by={
            WISHES: ("test_the_wish_is_repeated_with_every_heartbeat_that_lists_the_token",)
        },
    ),
    Mutant(
        name="stop of what is over",
        what="an agent that runs a task whose token has ended is not told",
        file="dispatcher/core/wishes.py",
        old='ended = Stop(session=agent.row.session, token=token, reason="its token has ended")',
        new="continue",
        killed_by={LEASES: ("test_a_task_that_outlived_its_agents_declared_death_is_stopped",)},
        unseen=(
            "only somebody who wrongly declares an agent dead leaves such a task running, and "
            "that by itself breaks I2: in the simulator everybody tells the truth"
        ),
    ),
)

LEASES_OF_AGENTS = (
    Mutant(
        name="lapse",
        what="the agent does not look at its lease",
        file="agent/core/lease.py",
        old="return self.deadline is not None and now >= self.deadline",
        new="return False",
        killed_by={
            AGENT: (
                "test_the_lapse_kills_forgets_and_drops_the_connection",
                "test_the_clock_is_looked_at_before_a_confirm_or_a_grant",
            )
        },
    ),
    Mutant(
        name="lapse latch",
        what="a lapse kills, but the session goes on",
        file="agent/core/machine.py",
        old="self.fenced, self._lease.deadline = True, None",
        new="self._lease.deadline = None",
        killed_by={AGENT: ("test_after_a_lapse_nothing_is_said_or_started_before_the_proof",)},
    ),
    Mutant(
        name="lease from the sending",
        what="a lease is renewed from the confirm on, not from the sending of the heartbeat",
        file="agent/core/machine.py",
        old="case wire.Heartbeat():\n                self._renew(sent_at, now)",
        new="case wire.Heartbeat():\n                self._renew(now, now)",
        killed_by={AGENT: ("test_a_confirmed_heartbeat_moves_the_deadline_by_when_it_was_sent",)},
    ),
    Mutant(
        name="proof of an alarm",
        what="a proof that the broker blocks renews the lease from its arrival on",
        file="agent/core/machine.py",
        old="self._renew(as_if_sent, now)",
        new="self._renew(now, now)",
        killed_by={
            ALARM: (
                "test_proven_time_moves_the_deadline_from_the_last_confirmed_sending",
                "test_an_alarm_whose_proofs_stop_lapses",
            )
        },
    ),
    Mutant(
        name="deadline for the keeper",
        what="the keeper never learns when the lease ends",
        file="agent/core/machine.py",
        old="self._out.append(do.SetDeadline(sent_at + self._lease.trusted))",
        new="pass",
        killed_by={AGENT: ("test_a_confirmed_heartbeat_moves_the_deadline_by_when_it_was_sent",)},
    ),
    Mutant(
        name="keeper's deadline",
        what="the keeper does not kill when the lease ends",
        file="agent/keeper/loop.py",
        old="if not self._overdue:",
        new="if self._session >= 0:",
        killed_by={
            KEEPER: (
                "test_a_stopped_agents_tasks_end_at_the_deadline",
                "test_a_lapse_kills_and_refuses_starts_until_the_next_session",
            )
        },
        unseen=OWN_KEEPER,
    ),
    Mutant(
        name="subreaper",
        what="what a task has detached from itself is lost from sight",
        file="agent/keeper/loop.py",
        old="    _become_subreaper()\n    wakeup_fd",
        new="    wakeup_fd",
        killed_by={KEEPER: ("test_what_escaped_dies_when_the_task_ends",)},
        unseen=OWN_KEEPER,
    ),
    Mutant(
        name="born in its cgroup",
        what="what a task starts stays in the keeper's cgroup",
        file="agent/keeper/cgroups.py",
        old="        enter(self.path)\n",
        new="",
        killed_by={CGROUPS: ("test_a_task_is_born_in_a_cgroup_that_ends_with_it",)},
        unseen=OWN_KEEPER,
    ),
    Mutant(
        name="empty cgroup",
        what="a task counts as dead while something lives in its cgroup",
        file="agent/keeper/trees.py",
        old="if cgroup.populated:",
        new="if cgroup is None:",
        killed_by={CGROUPS: ("test_a_task_is_not_over_before_its_cgroup_is_empty",)},
        unseen=OWN_KEEPER,
    ),
    Mutant(
        name="proof by cgroups",
        what="what is left in cgroups of earlier sessions is not looked for",
        file="agent/cgroups.py",
        old="        if found is not None and found[0] < current_session:",
        new="        if found is None:",
        killed_by={CGROUPS: ("test_what_no_mark_shows_is_found_by_its_cgroup",)},
        unseen=OWN_KEEPER,
    ),
    Mutant(
        name="token of a fork",
        what="a fork shows the token of its zygote, whoever looks",
        file="flow/runtime/warm.py",
        old='    _overwrite(loaded.place, job["token"].encode())\n',
        new="",
        killed_by={
            ZYGOTES: (
                "test_a_task_from_a_zygote_sees_what_a_fresh_one_sees",
                "test_a_kill_reaches_what_a_warm_task_has_detached",
            )
        },
        unseen=OWN_KEEPER,
    ),
    Mutant(
        name="zygotes lapse",
        what="zygotes and what waits for a task live on after the end of their session",
        file="agent/keeper/loop.py",
        old="if not task.keep and not task.lapsed]",
        new="if not task.keep and not task.lapsed and task.token < 1 << 62]",
        killed_by={
            ZYGOTES: ("test_a_lapse_ends_zygotes_and_the_next_session_has_its_own",),
        },
        unseen=OWN_KEEPER,
    ),
    Mutant(
        name="a living standby",
        what="a task is handed to a process without a look whether it is there",
        file="agent/keeper/standby.py",
        old="            or process.parent != os.getpid()\n",
        new="",
        killed_by={WARM: ("test_a_process_that_is_no_child_is_no_standby",)},
        unseen=OWN_KEEPER,
    ),
    Mutant(
        name="warm in its cgroup",
        what="a fork stays in the cgroup of its zygote",
        file="agent/keeper/births.py",
        old="            cgroup.admit(standby.pid)\n",
        new="            pass\n",
        killed_by={
            ZYGOTES: ("test_a_warm_task_is_in_a_cgroup_of_its_own_with_all_that_it_starts",)
        },
        unseen=OWN_KEEPER,
    ),
    Mutant(
        name="threads are not forked",
        what="a process with threads is forked",
        file="flow/runtime/forkable.py",
        old='if len(os.listdir("/proc/self/task")) > 1:',
        new='if not os.listdir("/proc/self/task"):',
        killed_by={ZYGOTES: ("test_a_file_of_which_forks_would_differ_gets_fresh_interpreters",)},
        unseen="it has no interpreters",
    ),
    Mutant(
        name="what waits lapses",
        what="a task that waits for a fork starts after its lease has ended",
        file="agent/keeper/zygotes.py",
        old="            zygote.waiting.clear()\n            self._lose(zygote)\n"
        "        return waiting",
        new="        return waiting",
        killed_by={ZYGOTES: ("test_what_waits_for_a_fork_can_be_killed_and_lapses",)},
        unseen=OWN_KEEPER,
    ),
    Mutant(
        name="spool before it is said",
        what="a result counts as written before it is on disk",
        file="agent/session.py",
        old="        os.fsync(descriptor)\n        _new",
        new="        _new",
        killed_by={
            SPOOL: ("test_results_that_are_written_together_are_synced_with_their_folder_last",)
        },
        unseen="its disks lose nothing",
    ),
    Mutant(
        name="proof of death",
        what="earlier sessions are believed dead without a look",
        file="agent/processes.py",
        old="    begin = clock()\n    patience",
        new="    begin = clock()\n    return Proof(dead=True, survivors=())\n    patience",
        killed_by={KEEPER: ("test_a_lost_keeper_is_noticed_and_what_it_left_is_proven_dead",)},
        unseen=OWN_KEEPER,
    ),
    Mutant(
        name="proof before the disk",
        what="what a dead keeper left lives on until the disk takes a new session",
        file="agent/runner.py",
        old="        if orphaned:\n",
        new="        if orphaned and above < 0:\n",
        killed_by={
            DISK: ("test_what_a_dead_keeper_left_is_ended_before_the_disk_takes_a_session",)
        },
        unseen=OWN_KEEPER,
    ),
    Mutant(
        name="hello after the proof",
        what="the agent says hello before earlier sessions are proven dead",
        file="agent/core/machine.py",
        old="return self._link.up and not self.fenced and not self._link.greeted",
        new="return self._link.up and not self._link.greeted",
        killed_by={AGENT: ("test_hello_waits_for_both_the_proof_and_the_connection",)},
    ),
)

WORK_OF_AGENTS = (
    Mutant(
        name="adoption",
        what="a redelivered message of a task that runs here is claimed like a new one",
        file="agent/core/work.py",
        old="known = self._holder(key)",
        new="known = self.claims.get(key)",
        killed_by={
            AGENT: ("test_a_redelivered_message_is_adopted_by_the_process_that_runs_its_task",)
        },
        unseen="the claim is granted the token that runs here, which the agent knows to ignore",
    ),
    Mutant(
        name="adoption of a grant",
        what="a repeated grant of a token that runs here gives the token back",
        file="agent/core/work.py",
        old="if self._repeat(grant.token, now):",
        new="if grant.token < 0:",
        killed_by={AGENT: ("test_a_granted_claim_starts_and_its_repeated_grant_does_nothing",)},
    ),
    Mutant(
        name="late grant",
        what="a late copy of an answer to an earlier claim starts the task again",
        file="agent/core/work.py",
        old="if grant.token <= self._ended.get(grant.task_instance_id, 0):",
        new="if grant.token < 0:",
        killed_by={AGENT: ("test_a_late_grant_of_a_token_that_has_ended_starts_nothing",)},
    ),
    Mutant(
        name="grant without a claim",
        what="a token that nobody here asked for is kept and not used",
        file="agent/core/work.py",
        old='self._return(grant.task_instance_id, grant.token, "no claim is pending", now)',
        new="pass",
        killed_by={AGENT: ("test_a_grant_without_a_claim_is_given_back_until_that_is_answered",)},
    ),
    Mutant(
        name="claim again",
        what="a claim is made once, whether or not it is answered",
        file="agent/core/work.py",
        old="claim.due = now + self._settings.claim_interval",
        new='claim.due = float("inf")',
        killed_by={AGENT: ("test_a_claim_is_sent_again_until_it_is_answered",)},
        unseen=(
            "only liveness; a lost grant comes again with a heartbeat, and after a lost denial "
            "the reconciler's copy reaches the queue's other agent, of which its worlds always "
            "have one"
        ),
    ),
    Mutant(
        name="spool before sending",
        what="a result is sent before it is on disk",
        file="agent/core/work.py",
        old="if result.spooled and result.due <= now:",
        new="if result.due <= now:",
        killed_by={
            AGENT: ("test_a_result_is_on_disk_before_it_is_sent_and_acked_once_the_broker_has_it",)
        },
    ),
    Mutant(
        name="result until answered",
        what="a result is forgotten once the broker has it",
        file="agent/core/work.py",
        old="result.handle = None",
        new="result.handle = None\n            self.answered(token, out)",
        killed_by={
            AGENT: ("test_a_result_that_the_broker_has_is_still_sent_again_until_answered",)
        },
    ),
    Mutant(
        name="goodbye after the answers",
        what="a goodbye is said once the broker has the results, before they are read",
        file="agent/core/departure.py",
        old="if greeted and not results and (waited or not unanswered):",
        new="if greeted and (waited or not unanswered):",
        killed_by={
            AGENT: (
                "test_no_goodbye_while_the_dispatcher_has_not_answered_a_result_that_the_broker_has",
            )
        },
    ),
    Mutant(
        name="forgotten handovers",
        what="a copy of a grant older than all that an agent remembers starts its task again",
        file="agent/core/work.py",
        old="grant.task is not None and grant.token > self._forgotten:",
        new="grant.task is not None:",
        killed_by={
            HANDED: ("test_a_copy_from_before_all_that_is_remembered_is_given_back",),
        },
        unseen="an agent remembers more ends of tasks than a simulation has",
    ),
    Mutant(
        name="handover with room",
        what="an agent is handed a task although others are on their way to it",
        file="dispatcher/core/handover.py",
        old="queue.awaited.plus(shape).fits(agent.free)",
        new="shape.fits(agent.free)",
        killed_by={HANDOVER: ("test_what_is_on_its_way_in_the_queue_finds_room",)},
        unseen="a task that finds no room is put back, which costs time and breaks no promise",
    ),
    Mutant(
        name="spool in hello",
        what="a hello does not tell of results that will follow",
        file="agent/core/words.py",
        old="spooled=tuple(work.results),",
        new="",
        killed_by={
            AGENT: (
                "test_hello_lists_results_left_by_an_earlier_process_and_sends_them_once_confirmed",
            )
        },
    ),
)

TERMS_AND_VERSIONS = (
    Mutant(
        name="drained, grants",
        what="a claim of a drained agent is not refused for that",
        file="dispatcher/core/holding.py",
        old="if agent.row.drained:",
        new="if False:",
        killed_by={
            TERMS: ("test_a_drained_agent_is_granted_nothing_and_the_task_says_why",),
        },
        unseen="a drained agent has no free slots either, which refuses the same claims",
    ),
    Mutant(
        name="drained, for good",
        what="an agent's next session forgets that somebody drained it",
        file="dispatcher/core/sessions.py",
        old="row.drained = older.drained",
        new='row.drained = ""',
        killed_by={
            TERMS: ("test_it_stays_drained_in_its_next_session_and_in_the_next_reign",),
        },
        unseen="it takes what the row says for what people want",
    ),
    Mutant(
        name="terms, repeated",
        what="an agent is told once what people want of it",
        file="dispatcher/core/terms.py",
        old="if terms is not None and (tell or terms != agent.terms):",
        new="if terms is not None and tell:",
        killed_by={
            TERMS: ("test_a_change_is_said_at_once_and_again_until_a_heartbeat_shows_it",),
        },
        unseen="not within 1,500 seeds: few lose that one message and have no hello after it",
    ),
    Mutant(
        name="drained, starts",
        what="an agent that was told to take nothing goes on starting tasks",
        file="agent/core/suspension.py",
        old='return "suspended" if self.reason else "drained" if self.drained else ""',
        new='return "suspended" if self.reason else ""',
        killed_by={
            AGENT_TERMS: (
                "test_a_grant_that_was_on_its_way_is_given_back_and_is_no_fault_of_the_task",
                "test_it_consumes_nothing_until_it_is_resumed",
            ),
        },
    ),
    Mutant(
        name="newer, heard",
        what="an agent whose heartbeats are too new is taken over, though it goes on",
        file="dispatcher/core/versions.py",
        old="hear(agent, now, out)",
        new="pass",
        killed_by={
            TERMS: ("test_what_a_newer_agent_runs_is_not_taken_over_while_it_is_heard",),
        },
        unseen="all there speak one version",
    ),
)

ROOM = (
    Mutant(
        name="room is kept",
        what="small tasks starve one that needs several slots",
        file="dispatcher/core/holding.py",
        old="if task.id in state.holds:",
        new="if True:",
        killed_by={
            ROOMS: (
                "test_room_is_kept_for_a_wide_task_so_that_narrow_ones_do_not_starve_it",
                "test_only_one_of_several_agents_keeps_room_and_the_others_go_on",
            ),
        },
        unseen="nothing there goes on for so long that anybody starves",
    ),
    Mutant(
        name="a device of its own",
        what="an agent gives one device to any number of tasks",
        file="agent/core/devices.py",
        old="users[x] < self._share",
        new="users[x] < 1000",
        killed_by={
            AGENT_ROOM: ("test_each_task_gets_a_device_of_its_own_for_as_long_as_it_runs",),
        },
        unseen="the dispatcher counts devices, too, and the least used one is given",
    ),
    Mutant(
        name="a device stays locked",
        what="another agent gets the device of a task that lives on",
        file="agent/keeper/loop.py",
        old='self._held.setdefault(message["token"], []).append(fd)',
        new="os.close(fd)",
        killed_by={
            AGENT_GPUS: (
                "test_a_device_stays_locked_until_the_processes_of_a_killed_agent_are_dead",
                "test_a_device_that_another_agent_of_the_machine_uses_is_not_given",
            ),
        },
        unseen=OWN_KEEPER,
    ),
    Mutant(
        name="an offer goes once",
        what="a task goes between dispatcher and agent without end",
        file="dispatcher/core/placing.py",
        old="agent.offered.add(task.id)",
        new="pass",
        killed_by={ROOMS: ("test_a_task_is_offered_once_between_two_heartbeats",)},
        unseen="nobody there declines what he has room for",
    ),
)

MUTANTS = (
    *ROWS_AND_REIGNS,
    *CLAIMS_AND_RESULTS,
    *SESSIONS_AND_LEASES,
    *OUTBOX_AND_WISHES,
    *LEASES_OF_AGENTS,
    *WORK_OF_AGENTS,
    *TERMS_AND_VERSIONS,
    *ROOM,
)
