"""What must hold in a simulated cluster, whatever happens in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clusternode.core import events as node_events
from clusternode.core.node import NodeCore
from loadbalancer.core import events as balancer_events
from loadbalancer.core.balancer import Balancer
from loadbalancer.core.jobs import State
from protocol.job import Command, JobSpec, Sleep, unpack_report, unpack_spec
from protocol.messages import Held, NotHere, ResReq, Result
from protocol.replies import counted

if TYPE_CHECKING:
    from cluster import SimNode, World

#: Seconds that a calm cluster has to end what should not run, and so many ways to and fro.
ENDS_WITHIN = 2.5
ENDS_IN_WAYS = 6


def check_ledger(core: Balancer) -> None:
    """Each job is in exactly one place, and the books agree."""
    ledger = core.ledger
    held = owed = 0
    for node in ledger.nodes.values():
        held += len(node.jobs)
        owed += len(node.undelivered)
        assert len(node.owed) == len(node.undelivered)
        for job in node.jobs.values():
            assert job.node == node.node_id
            assert job.state is State.ASSIGNED or job.state is State.RUNNING
        for job in node.undelivered.values():
            assert job.state is State.DONE or job.state is State.PASSING
            assert job.node is None
            assert (job.state is State.PASSING) == (job.ticket in ledger.passing)
    assert held + owed + ledger.waiting + ledger.delayed == len(ledger.jobs)


def step_balancer(world: World, core: Balancer, event: Any, now: float) -> Any:
    """A step of the balancer, whose books are looked at before and after."""
    message = event.message if isinstance(event, balancer_events.MessageReceived) else None
    if message is None or event.link not in world.links:
        return core.step(event, now)
    node = world.links[event.link].node
    known = core.ledger.nodes.get(node.node_id)
    if known is None or known.link != event.link:
        return core.step(event, now)
    if isinstance(message, Result | ResReq):
        return _step_results(world, core, event, now, known)
    if isinstance(message, NotHere):
        return _step_not_here(world, core, event, now, node)
    return core.step(event, now)


def _step_results(world: World, core: Balancer, event: Any, now: float, known: Any) -> Any:
    """Each result that comes is used, or stale; and one of a job that is over changes nothing."""
    ledger, results = core.ledger, event.message.results
    over = {
        ended.ticket: job
        for ended in results
        if (job := ledger.jobs.get(ended.ticket)) is None or job.outcome
    }
    before = {ticket: job and (job.attempt, job.outcome, job.version) for ticket, job in over.items()}
    used, stale = known.done + ledger.counters["lost attempts"], ledger.counters["stale"]
    outcome = core.step(event, now)
    used = known.done + ledger.counters["lost attempts"] - used
    stale = ledger.counters["stale"] - stale
    assert used + stale == len(results), f"seed {world.seed}: a result went uncounted"
    assert stale >= len(over), f"seed {world.seed}: a stale result was used"
    for ticket, job in over.items():
        after = job and (job.attempt, job.outcome, job.version)
        assert after == before[ticket], f"seed {world.seed}: {ticket} was changed by a stale result"
    return outcome


def _step_not_here(world: World, core: Balancer, event: Any, now: float, node: SimNode) -> Any:
    """Of what a node says it has not, nothing is given up that it has, or that is on its way to it."""
    jobs = core.ledger.jobs
    before = [(job, job.attempt) for ticket in event.message.tickets if (job := jobs.get(ticket)) is not None]
    outcome = core.step(event, now)
    for job, attempt in before:
        if job.attempt != attempt or job.state is State.DONE:
            where = f"seed {world.seed}: {job.ticket} attempt {attempt}"
            assert (job.ticket, attempt) not in node.on_their_way, f"{where} was given up, on its way"
            assert node.process is None or not _has(node.process.core, job.ticket, attempt), (
                f"{where} was given up, and its node has it"
            )
    return outcome


def _has(core: NodeCore, ticket: str, attempt: int) -> bool:
    executor = core.executor
    queued, ahead, running = (each.get(ticket) for each in (executor.queue, executor.ahead, executor.running))
    return (
        (queued is not None and queued.attempt == attempt)
        or (ahead is not None and ahead.key.attempt == attempt)
        or (running is not None and running.attempt == attempt)
    )


def step_node(node: SimNode, core: NodeCore, event: Any, now: float) -> Any:
    """A step of a node, whose slots are looked at before and after."""
    waiting = list(core.executor.queue)
    outcome = _step_node(node.world, core, event, now)
    _check_slots(node, core, waiting)
    return outcome


def _check_slots(node: SimNode, core: NodeCore, waited: list[str]) -> None:
    """What runs takes no more slots than there are; none stays free that the next job could have, and none of
    those that `waited` overtakes the first of them, however many slots it waits for."""
    executor, pool, where = core.executor, node.pool, f"seed {node.world.seed}: {node.name}"
    running = {Held(ticket, job.attempt): job.spec for ticket, job in executor.running.items()}
    used = sum(_slots_of(spec, executor.slots) for spec in running.values())
    # A wide one that counts no more, but is still to end.
    for key in pool.running() if pool is not None and executor.slots > 1 else []:
        if key in pool.wide and key not in running:
            used += min(pool.wide[key], executor.slots)
    assert used <= executor.taken <= executor.slots, f"{where} runs too much: {used}, {executor.taken}"
    head = next(iter(executor.queue.values()), None)
    if head is None or executor.draining:
        return
    is_room = _slots_of(unpack_spec(head.body), executor.slots) <= executor.slots - executor.taken
    assert not is_room, f"{where} has room for {head.ticket}"
    if waited and waited[0] in executor.queue:
        past = [each for each in waited[1:] if each in executor.running or each in executor.ahead]
        assert not past, f"{where} starts {past} before {waited[0]}"


def _slots_of(spec: JobSpec, slots: int) -> int:
    return 1 if isinstance(spec, Sleep) else max(1, min(spec.extras.cpus, slots))


def _step_node(world: World, core: NodeCore, event: Any, now: float) -> Any:
    """Each result that comes home ends an open ticket, or is stale."""
    message = event.message if isinstance(event, node_events.FromBalancer) else None
    if not isinstance(message, Result | ResReq) or not core.connected:
        return core.step(event, now)
    origin = core.origin
    before = origin.stale - len(origin.open)
    outcome = core.step(event, now)
    tickets = {ended.ticket for ended in message.results}
    done = [record.ended for record in outcome.records if isinstance(record, node_events.Done)]
    followed = sum(ended.ticket not in tickets for ended in done)
    came = origin.stale - len(origin.open) - before - followed
    assert came == len(message.results), f"seed {world.seed}: a result went uncounted at its origin"
    return outcome


def check_dependants(world: World) -> None:
    """On the disk of its origin a dependant ends with what it came after, unless that has succeeded."""
    for ticket, after in world.after_others.items():
        disk = world.submitted[ticket].disk
        if disk.find(ticket) is not None:
            bad = any(disk.outcome(each) not in (None, "succeeded") for each in after)
            where = f"seed {world.seed}: {ticket}"
            assert not bad or disk.outcome(ticket) in ("failed", "cancelled"), f"{where} waits in vain"
            if disk.outcome(ticket) == "succeeded":
                assert all(disk.outcome(each) == "succeeded" for each in after), f"{where} ran too early"


def check_arrays(world: World) -> None:
    """On the disk of its origin an array is there with all its jobs behind it, and ends when they have."""
    for ticket, jobs in world.arrays.items():
        disk = world.submitted[ticket].disk
        seq, where = disk.find(ticket), f"seed {world.seed}: the array {ticket}"
        expected = [None if seq is None else seq + index for index in range(1, len(jobs) + 1)]
        assert [disk.find(job) for job in jobs] == expected, f"{where} is not there as a whole"
        if seq is None:
            continue
        process = world.submitted[ticket].process
        known = process.core.origin.open if process is not None else {}
        if ticket in known and (seq in disk.cancelled or known[ticket].cancelled):
            assert all(known[job].cancelled for job in jobs if job in known), f"{where} is cancelled in part"
        counts = disk.count(seq, len(jobs))
        done = sum(counts.values()) == len(jobs)
        assert (disk.outcome(ticket) is not None) == done, f"{where} does not end with its jobs"
        if done:
            is_good = counts.get("succeeded") == len(jobs)
            assert (disk.outcome(ticket) == "succeeded") == is_good, f"{where} ended otherwise than its jobs"
            reason = unpack_report(disk.done[seq].body).reason
            assert reason.endswith(f"{len(jobs)} jobs: {counted(counts)}"), f"{where}: {reason}, {counts}"


def check_files(world: World) -> None:
    """What ran and was to leave files has them home before its result, or says why not."""
    for ticket, node in world.submitted.items():
        disk = node.disk
        seq = disk.find(ticket)
        if seq is None or seq not in disk.done or disk.done[seq].outcome != "succeeded":
            continue
        spec = unpack_spec(disk.tickets[seq].body)
        if isinstance(spec, Command) and spec.extras.result_dir and not spec.extras.array:
            files = unpack_report(disk.done[seq].body).files
            assert files, f"seed {world.seed}: {ticket} succeeded without its files"


def check_nothing_runs_in_vain(world: World) -> None:
    """In calm times what is cancelled, done, or given to another node does not run on."""
    balancer = world.balancer
    calm = balancer is not None and not balancer.paused
    for node in world.nodes:
        if not calm or node.process is None or node.process.paused or node.is_cut_off:
            node.calm_since, node.slowest = world.now, node.delay[1]
        elif balancer is not None:  # what came and went between two looks counts too
            woke_at = max(node.process.woke_at, balancer.woke_at)
            node.calm_since = max(node.calm_since, node.linked_at, node.healed_at, woke_at)
    if balancer is None:
        return
    in_vain: dict[tuple[str, int, str], float] = {}
    jobs = balancer.core.ledger.jobs
    for node in world.nodes:
        if node.process is None:
            continue
        running = node.process.core.executor.running
        attempts = [(ticket, job.attempt) for ticket, job in running.items()]
        for ticket, attempt in dict.fromkeys([*attempts, *sorted(node.commands)]):
            origin = world.submitted[ticket]
            open_job = origin.process.core.origin.open.get(ticket) if origin.process is not None else None
            job = jobs.get(ticket)
            is_wanted = job is not None and job.node == node.node_id and job.attempt == attempt
            is_wanted = is_wanted and not origin.disk.is_done(ticket)
            if is_wanted and ticket in running and (open_job is None or not open_job.cancelled):
                continue
            key = (ticket, attempt, node.node_id)
            since = in_vain[key] = world.in_vain.get(key, world.now)
            calm_for = world.now - max(since, node.calm_since, origin.calm_since)
            within = ENDS_WITHIN + ENDS_IN_WAYS * max(node.slowest, origin.slowest)
            assert calm_for < within, f"seed {world.seed}: {ticket} attempt {attempt} runs on in vain"
    world.in_vain = in_vain
